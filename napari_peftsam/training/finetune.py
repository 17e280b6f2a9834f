"""The finetuning loop: reads top to bottom, reports as it goes, leaves the model as it was."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import torch

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import SamModel
from napari_peftsam.peft import Adapter, Injection, apply_adapter, capture, check_method, inject
from napari_peftsam.training._samples import (
    TURNS,
    ModelPlane,
    Sample,
    prepare_planes,
    prompt_tensors,
)
from napari_peftsam.training._step import sample_loss
from napari_peftsam.training._validation import HeldOut, validation_iou
from napari_peftsam.training.config import TrainingConfig, recommended_learning_rate
from napari_peftsam.training.dataset import (
    AnnotatedPlane,
    Split,
    TrainedObjects,
    TrainingObject,
    split_objects,
)
from napari_peftsam.training.events import (
    TrainEvent,
    TrainingFinished,
    TrainingStarted,
    TrainingStep,
    Validated,
)

__all__ = ["Incumbent", "finetune"]

_WARMUP = 0.05  # share of the budget
_FINAL_RATE = 0.05  # of the peak learning rate
_REAL_PROMPTS = 0.25  # how often an object is trained on the user's own prompts
_MOST_ZOOM = 2.0
_GRADIENT_NORM = 1.0
_HELD_OUT_AT_MOST = 32  # objects: a validation must stay short beside the training


@dataclass(frozen=True)
class Incumbent:
    """The adapter that a result is judged against, as it is used now.

    Attributes
    ----------
    strength
        Factor on its changes, see `napari_peftsam.peft.Injection.set_strength`.
    """

    adapter: Adapter
    strength: float = 1.0


def finetune(
    model: SamModel,
    planes: Sequence[AnnotatedPlane],
    config: TrainingConfig,
    *,
    start: Adapter | None = None,
    incumbent: Incumbent | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrainEvent]:
    """Train an adapter from accepted objects.

    The model must carry no adapter; it is trained in place and restored, bit for bit,
    when the generator ends or is closed. Nothing is written to disk.

    Parameters
    ----------
    model
        The base model; not to be used by anything else meanwhile.
    planes
        Annotated image planes. Only objects are learned: unlabelled pixels further from
        an object than its own size are never taken as background.
    config
        Method, budget and the rest.
    start
        Adapter to go on from; its method and options take the place of the config's.
    incumbent
        The adapter that is live now, against which the result is judged (``iou_before``);
        default: `start`, or the bare base.
    stop
        Asked after every step; True ends the run early, with a last validation. Closing
        the generator ends it at once; the last `Validated.adapter` is then the best.

    Yields
    ------
    TrainEvent
        `TrainingStarted`, then `TrainingStep` and `Validated`, at last `TrainingFinished`.

    Raises
    ------
    TrainingError
        If there are too few objects, or the loss is no longer finite.
    ConfigurationError
        If the method does not fit the model.
    ImageError, LabelError
        If an image or its labels cannot be used.
    AdapterMismatchError
        If `start` or `incumbent` belongs to another base.
    """
    # Before anything slow
    check_method(model, start.config if start else config.method)
    own = Incumbent(start) if start else None
    judge = incumbent or own
    earlier = _trained_on(start, incumbent.adapter if incumbent else None)
    split = split_objects(planes, config.held_out, config.seed, earlier)
    prepared = prepare_planes(planes, (*split.training, *split.held_out), model)
    split = _visible(split, prepared)
    trained = _union(earlier, planes, split)
    held_out = HeldOut.draw(split.held_out, planes, _HELD_OUT_AT_MOST, config.seed)
    before = _measure(model, judge, prepared, held_out)
    torch.manual_seed(config.seed)
    injection = apply_adapter(model, start) if start else inject(model, config.method)
    try:
        run = _Run(
            model, injection, config, split, trained, prepared, held_out, before,
            judge == own and (own is not None or injection.starts_as_base), stop,
        )  # fmt: skip
        yield from _train(run)
    finally:
        injection.remove()


def _trained_on(*adapters: Adapter | None) -> TrainedObjects:
    """Return what any of these adapters learned from, as their files say."""
    found: dict[str, set[int]] = {}
    for adapter in adapters:
        listed = {} if adapter is None else adapter.provenance.get("trained_on")
        if isinstance(listed, Mapping):
            for name, labels in listed.items():
                found.setdefault(name, set()).update(labels)
    return found


def _union(
    trained: TrainedObjects, planes: Sequence[AnnotatedPlane], split: Split
) -> TrainedObjects:
    union = {name: set(labels) for name, labels in trained.items()}
    for item in split.training:
        union.setdefault(planes[item.plane].name, set()).add(item.label)
    return union


def _visible(split: Split, prepared: Mapping[int, ModelPlane]) -> Split:
    """Leave out training objects without a pixel in the model's frame: too small to learn."""
    seen = {plane: set(prepared[plane].labels.unique().tolist()) for plane in prepared}
    kept = tuple(o for o in split.training if o.label in seen[o.plane])
    if not kept:
        raise TrainingError(
            "all objects are smaller than a pixel of the model's input: cut the images into "
            "smaller pieces first"
        )
    return replace(split, training=kept)


@dataclass(eq=False)
class _Run:
    """What stays the same over the run, and its clock."""

    model: SamModel
    injection: Injection
    config: TrainingConfig
    split: Split
    trained: TrainedObjects
    prepared: Mapping[int, ModelPlane]
    held_out: HeldOut
    before: float
    before_is_start: bool
    stop: Callable[[], bool]
    began: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def start_iou(self) -> float:
        """Return the held-out IoU before the first step (an untrained adapter is the base)."""
        if self.before_is_start:
            return self.before
        return validation_iou(self.model, self.prepared, self.held_out)

    def progress(self, step: int, epochs: float) -> float:
        """Return the share of the budget that is used up, in [0, 1]."""
        config = self.config
        if config.seconds is not None:
            return min(1.0, self.elapsed() / config.seconds)
        if config.epochs is not None:
            return min(1.0, epochs / config.epochs)
        assert config.steps is not None  # the configuration has exactly one budget
        return min(1.0, step / config.steps)


def _train(run: _Run) -> Iterator[TrainEvent]:
    config, model = run.config, run.model
    parameters = run.injection.trainable_parameters()
    counts = {name: p.numel() for name, p in parameters.items()}
    trainable = sum(counts.values())
    encoder = sum(n for name, n in counts.items() if name.startswith("encoder."))
    yield TrainingStarted(
        trainable, encoder, len(run.split.training), len(run.split.held_out), run.split.by,
        run.before,
    )  # fmt: skip
    rate = config.learning_rate or recommended_learning_rate(model.architecture)
    groups = run.injection.parameter_groups(rate, config.weight_decay)
    peaks = [float(group["lr"]) for group in groups]
    optimiser = torch.optim.AdamW(groups, fused=True)
    generator = torch.Generator().manual_seed(config.seed)
    batches = _batches(run)

    # The untrained start is a candidate too: a run that only makes things worse returns it.
    best_iou = run.start_iou()
    best_step, best = 0, _capture(run, 0, best_iou)
    yield Validated(0, best_iou, best)
    step, epochs, next_validation = 0, 0.0, 1 / config.validations
    while (progress := run.progress(step, epochs)) < 1 and not run.stop():
        epochs, objects = next(batches)
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * _rate(progress)
        loss = _step(run, objects, optimiser, generator)
        step += 1
        progress = run.progress(step, epochs)
        yield TrainingStep(step, loss, run.elapsed(), _remaining(run, progress))
        ending = progress >= 1 or run.stop()
        if progress >= next_validation or ending:
            next_validation = (math.floor(progress * config.validations) + 1) / config.validations
            iou = validation_iou(model, run.prepared, run.held_out)
            better = iou > best_iou
            if better:
                best_iou, best_step, best = iou, step, _capture(run, step, iou)
            yield Validated(step, iou, best if better else None)
    yield TrainingFinished(best, step, run.elapsed(), trainable, run.before, best_iou, best_step)


def _step(
    run: _Run,
    objects: tuple[TrainingObject, ...],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    """Train on some objects of one plane; return the loss."""
    plane, arch = run.prepared[objects[0].plane], run.model.architecture
    turn = int(torch.randint(TURNS, (), generator=generator))
    crop = (arch.training_side, arch.patch_size)
    sample = plane.sample(objects, turn).cropped(*crop, _random_zoom(generator))
    real = plane.sample(objects[:1]).cropped(*crop) if _draw_real(sample, generator) else None
    with run.model.autocast(), run.injection.training():
        if real is not None and real.real[0] is not None:
            # Objects prompted by hand have layouts of their own, so one at a time.
            first = prompt_tensors(real.real[0], plane, run.model)
            loss = sample_loss(run.model, real, run.config.rounds, generator, first)
        else:
            loss = sample_loss(run.model, sample, run.config.rounds, generator)
    if not torch.isfinite(loss):
        raise TrainingError(
            "the training diverged (its loss is no longer a finite number): lower the learning "
            "rate; the adapter that was live before is unchanged"
        )
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, _GRADIENT_NORM)
    optimiser.step()
    return loss.item()


def _random_zoom(generator: torch.Generator) -> float:
    """Objects of all sizes: the few annotated ones must not teach that there is one size."""
    return math.exp(math.log(_MOST_ZOOM) * (2 * float(torch.rand((), generator=generator)) - 1))


def _draw_real(sample: Sample, generator: torch.Generator) -> bool:
    drawn = float(torch.rand((), generator=generator))
    return sample.real[0] is not None and drawn < _REAL_PROMPTS


def _batches(run: _Run) -> Iterator[tuple[float, tuple[TrainingObject, ...]]]:
    """Yield neighbouring objects of one plane, for ever, each preceded by the epochs done.

    Each epoch sees every object once.
    """
    size, side = run.config.objects_per_step, run.model.architecture.training_side
    rng = np.random.default_rng(run.config.seed)
    for epoch in itertools.count():
        cells: dict[tuple[int, int, int], list[TrainingObject]] = {}
        shift = rng.random(2)
        for index in rng.permutation(len(run.split.training)):
            item = run.split.training[index]
            frame = run.prepared[item.plane].frame
            centre = np.array([item.bbox[0] + item.bbox[2], item.bbox[1] + item.bbox[3]]) / 2
            # Cells of the crop's size, placed anew in every epoch.
            where = centre * frame.scale / side + shift if side < frame.size else (0, 0)
            row, col = (int(n) for n in where)
            cells.setdefault((item.plane, row, col), []).append(item)
        chunks = [
            tuple(cell[i : i + size]) for cell in cells.values() for i in range(0, len(cell), size)
        ]
        for done, index in enumerate(rng.permutation(len(chunks)), start=1):
            yield epoch + done / len(chunks), chunks[index]


def _rate(progress: float) -> float:
    if progress < _WARMUP:
        return (progress + 0.1 * _WARMUP) / (1.1 * _WARMUP)
    decay = 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))
    return _FINAL_RATE + (1 - _FINAL_RATE) * decay


def _remaining(run: _Run, progress: float) -> float:
    return run.elapsed() * (1 - progress) / max(progress, 1e-6)


def _measure(
    model: SamModel,
    judge: Incumbent | None,
    prepared: Mapping[int, ModelPlane],
    held_out: HeldOut,
) -> float:
    if judge is None:
        return validation_iou(model, prepared, held_out)
    with apply_adapter(model, judge.adapter) as injection:
        injection.set_strength(judge.strength)
        return validation_iou(model, prepared, held_out)


def _capture(run: _Run, step: int, iou: float) -> Adapter:
    split = run.split
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "training": run.config.model_dump(mode="json"),
        "training_objects": len(split.training),
        "held_out_objects": len(split.held_out),
        "held_out_by": split.by,
        "trained_on": {name: sorted(labels) for name, labels in run.trained.items()},
    }
    return capture(run.injection, provenance, {"val_iou_before": run.before, "val_iou": iou})
