"""The finetuning loop: reads top to bottom, yields events, leaves the model as it was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter

import torch

from napari_peftsam.models import SamModel
from napari_peftsam.peft import (
    Adapter,
    Injection,
    apply_adapter,
    capture,
    check_method,
    first_changed_block,
    inject,
)
from napari_peftsam.training._data import HeldOut, RunData, Views, validation_iou
from napari_peftsam.training._encoder import PlaneEncoder, open_cache
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import AnnotatedPlane
from napari_peftsam.training.events import (
    TrainEvent,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from napari_peftsam.training.memory import preflight
from napari_peftsam.training.step import Trainer
from napari_peftsam.training.team import Team

__all__ = ["Incumbent", "finetune"]

_WARMUP = 0.05  # share of the budget
_FINAL_RATE = 0.05  # of the peak learning rate


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


def finetune(  # noqa: PLR0913  # most are optional
    model: SamModel,
    planes: Sequence[AnnotatedPlane],
    config: TrainingConfig,
    *,
    start: Adapter | None = None,
    incumbent: Incumbent | None = None,
    team: Team | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[TrainEvent, None, TrainingReport]:
    """Train an adapter from accepted objects.

    The model must carry no adapter; it is trained in place and restored, bit for bit,
    when the generator ends or is closed. What its frozen blocks computed may take room on
    disk, in a scratch folder that is gone by then; nothing else is written.

    Before the first event the peaks of memory that the system and torch note are reset, to
    measure a step on trial: whoever watches them must do so before and after.

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
    team
        The processes that take part; each must call this with the same arguments. Default:
        this one alone.
    stop
        Asked after every step; True ends the run early, with a last validation. Closing
        the generator ends it at once; the last `Validated.adapter` is then the best.

    Yields
    ------
    TrainEvent
        `MemoryPlanned` and `TrainingStarted`, then `TrainingStep`, `Validated` and, where
        memory ran out, `TrainingAdjusted`.

    Returns
    -------
    TrainingReport
        The best state on the held-out objects and its figures.

    Raises
    ------
    TrainingError
        If there are too few objects, the memory is too small, or the loss is no longer finite.
    ConfigurationError
        If the method does not fit the model.
    ImageError, LabelError
        If an image or its labels cannot be used.
    AdapterMismatchError
        If `start` or `incumbent` belongs to another base.
    """
    method = start.config if start else config.method
    check_method(model, method)  # before anything slow
    own = Incumbent(start) if start else None
    judge = incumbent or own
    earlier = [each.adapter for each in (own, incumbent) if each]
    data = RunData.prepare(model, planes, config, earlier)
    with open_cache(config, model.device) as cache:
        first = first_changed_block(method, model.architecture.depth)
        encoder = PlaneEncoder(model, data.planes, first, cache)
        before = _measure(encoder, judge, data.held_out)
        torch.manual_seed(config.seed)
        injection = apply_adapter(model, start) if start else inject(model, config.method)
        try:
            run = _Run(
                injection, encoder, config, data, before,
                judge == own and (own is not None or injection.starts_as_base),
                team or Team(), stop,
            )  # fmt: skip
            return (yield from _train(run))
        finally:
            injection.remove()


@dataclass(frozen=True, eq=False)
class _Run:
    injection: Injection
    encoder: PlaneEncoder
    config: TrainingConfig
    data: RunData
    before: float
    before_is_start: bool
    team: Team
    stop: Callable[[], bool]

    def stopped(self) -> bool:
        """Return whether the run was asked to end; the same for all processes."""
        return bool(self.team.broadcast(float(self.stop())))

    def progress(self, seconds: float, step: int, epochs: float) -> float:
        """Return the share of the budget used up, in [0, 1]; the same for all processes."""
        config = self.config
        if config.seconds is not None:
            return self.team.broadcast(min(1.0, seconds / config.seconds))
        if config.epochs is not None:
            return min(1.0, epochs / config.epochs)
        assert config.steps is not None  # the configuration has exactly one budget
        return min(1.0, step / config.steps)


def _train(run: _Run) -> Generator[TrainEvent, None, TrainingReport]:
    config, data, encoder = run.config, run.data, run.encoder
    counts = {name: p.numel() for name, p in run.injection.trainable_parameters().items()}
    trainable = sum(counts.values())
    in_encoder = sum(n for name, n in counts.items() if name.startswith("encoder."))
    trainer = Trainer(run.injection, config, encoder, run.team)
    limit = config.views if encoder.first > 0 else None  # else nothing is kept of a view
    views = Views(
        data.split.training, encoder.planes, encoder.model.architecture,
        config.objects_per_step, config.seed, limit,
    )  # fmt: skip
    yield preflight(trainer, config, encoder, views)
    yield from trainer.memory.take_adjustments()
    training, held_out = len(data.split.training), len(data.split.held_out)
    yield TrainingStarted(trainable, in_encoder, training, held_out, data.split.by, run.before)
    began, upcoming = perf_counter(), iter(views)

    # The untrained start is a candidate too: a run that only makes things worse returns it.
    best_iou = run.before if run.before_is_start else validation_iou(encoder, data.held_out)
    best_step, best = 0, _capture(run, 0, best_iou)
    yield Validated(0, best_iou, best)
    step, epochs, next_validation = 0, 0.0, 1 / config.validations
    while (progress := run.progress(perf_counter() - began, step, epochs)) < 1:
        if run.stopped():
            break
        batch = list(itertools.islice(upcoming, config.images_per_step))
        epochs = batch[-1][0]
        loss = trainer.step(step, [view for _, view in batch], _learning_rate(progress))
        yield from trainer.memory.take_adjustments()
        step += 1
        seconds = perf_counter() - began
        progress = run.progress(seconds, step, epochs)
        yield TrainingStep(step, loss, seconds, seconds * (1 - progress) / max(progress, 1e-6))
        ending = progress >= 1 or run.stopped()
        if progress >= next_validation or ending:
            next_validation = (math.floor(progress * config.validations) + 1) / config.validations
            iou = validation_iou(encoder, data.held_out)
            better = iou > best_iou
            if better:
                best_iou, best_step, best = iou, step, _capture(run, step, iou)
            yield Validated(step, iou, best if better else None)
    seconds = perf_counter() - began
    return TrainingReport(best, step, seconds, trainable, run.before, best_iou, best_step)


def _learning_rate(progress: float) -> float:
    """Return the share of the peak learning rate: a short warm-up, then a cosine."""
    if progress < _WARMUP:
        return (progress + 0.1 * _WARMUP) / (1.1 * _WARMUP)
    decay = 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))
    return _FINAL_RATE + (1 - _FINAL_RATE) * decay


def _measure(encoder: PlaneEncoder, judge: Incumbent | None, held_out: HeldOut) -> float:
    if judge is None:
        return validation_iou(encoder, held_out)
    model = encoder.model
    with apply_adapter(model, judge.adapter) as injection:
        injection.set_strength(judge.strength)
        first = first_changed_block(judge.adapter.config, model.architecture.depth)
        # Where both begin late, what the base makes of the planes is the same for both.
        return validation_iou(replace(encoder, first=min(first, encoder.first)), held_out)


def _capture(run: _Run, step: int, iou: float) -> Adapter:
    split = run.data.split
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "training": run.config.model_dump(mode="json"),
        "training_objects": len(split.training),
        "held_out_objects": len(split.held_out),
        "held_out_by": split.by,
        "trained_on": {name: sorted(labels) for name, labels in run.data.trained.items()},
    }
    return capture(run.injection, provenance, {"val_iou_before": run.before, "val_iou": iou})
