"""The finetuning loop: reads top to bottom, yields events, leaves the model as it was."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter

import numpy as np
import torch

from napari_peftsam.embeddings import Embedding, embedding_key
from napari_peftsam.errors import TrainingError
from napari_peftsam.evaluation import Target, box_ious, click_ious
from napari_peftsam.models import SamModel
from napari_peftsam.peft import (
    Adapter,
    Injection,
    apply_adapter,
    capture,
    check_method,
    inject,
)
from napari_peftsam.segmentation import Predictor
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import (
    AnnotatedPlane,
    Split,
    TrainedObjects,
    TrainingObject,
    cut_into_tiles,
    split_objects,
)
from napari_peftsam.training.encoder import PlaneEncoder, open_cache
from napari_peftsam.training.events import (
    StepProgress,
    TrainEvent,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from napari_peftsam.training.memory import preflight
from napari_peftsam.training.samples import ModelPlane, Views, prepare_planes
from napari_peftsam.training.schedule import Schedule
from napari_peftsam.training.step import Trainer, parts_reported
from napari_peftsam.training.team import Team

__all__ = ["Incumbent", "finetune"]

_log = logging.getLogger(__name__)
_HELD_OUT_AT_MOST = 32  # objects: a validation must stay short beside the training
# A model that answers the first click well and corrections badly costs the user clicks, so
# corrections count too; only three of them, since a validation takes time from the training.
_CLICKS = 3

HeldOut = Mapping[int, tuple[Target, ...]]
"""Held-out objects by the index of their plane."""


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
    on_progress: Callable[[StepProgress], object] | None = None,
) -> Generator[TrainEvent, None, TrainingReport]:
    """Train an adapter from accepted objects; return the best state on held-out ones.

    The model must carry no adapter; it is trained in place and restored, bit for bit, when the
    generator ends or is closed. Only objects are learned: unlabelled pixels further from an
    object than its own size are never taken as background. Activations of frozen blocks may
    take room on disk, in a scratch folder that is gone by then. Before the first event the
    peaks of memory that the system and torch note are reset, to measure the first step.

    Parameters
    ----------
    model
        The base model; not to be used by anything else meanwhile.
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
    on_progress
        Called between the parts of the first step, with the share that is done.

    Raises
    ------
    TrainingError
        If there are too few objects, the memory is too small, or the loss is no longer finite.
    PeftSamError
        If the method does not fit the model, an image or its labels cannot be used, or `start`
        or `incumbent` belongs to another base.
    """
    method = start.config if start else config.method
    check_method(model, method)  # before anything slow
    own = Incumbent(start) if start else None
    judge = incumbent or own
    data = _prepare(model, planes, config, [each.adapter for each in (own, incumbent) if each])
    with open_cache(config, model.device) as cache:
        first = method.first_changed_block(model.architecture.depth)
        encoder = PlaneEncoder(model, data.planes, first, cache, config.variation)
        starts_as_base = (start.config if start else config.method).starts_as_base
        is_start = judge == own and (own is not None or starts_as_base)
        before = math.nan if is_start else _measure(encoder, judge, data.held_out)
        torch.manual_seed(config.seed)
        injection = apply_adapter(model, start) if start else inject(model, config.method)
        try:
            run = _Run(injection, encoder, config, data, before, team or Team(), stop, on_progress)
            return (yield from _train(run))
        finally:
            injection.remove()


# --- data -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Data:
    split: Split
    planes: Mapping[int, ModelPlane]
    held_out: HeldOut
    trained: TrainedObjects  # what the result and the adapters before it were trained on
    channels: str


def _prepare(
    model: SamModel,
    planes: Sequence[AnnotatedPlane],
    config: TrainingConfig,
    earlier: Sequence[Adapter],
) -> _Data:
    """Split the objects and bring their planes into the model's frame.

    Objects that the adapters `earlier` were trained on are not held out if there are others.
    """
    planes = [each for each in planes if each.image not in config.leave_out]
    planes = cut_into_tiles(planes, model)
    trained: dict[str, set[int]] = {}
    for adapter in earlier:
        listed = adapter.provenance.get("trained_on")
        for name, labels in listed.items() if isinstance(listed, Mapping) else ():
            trained.setdefault(name, set()).update(labels)
    split = split_objects(planes, config.held_out, config.seed, trained, config.check_on)
    prepared = prepare_planes(planes, (*split.training, *split.held_out), model)
    seen = {index: set(plane.labels.unique().tolist()) for index, plane in prepared.items()}
    visible = tuple(o for o in split.training if o.label in seen[o.plane])
    if not visible:
        raise TrainingError(
            "all objects are smaller than a pixel of the model's input: cut the images into "
            "smaller pieces first"
        )
    held_out = draw_held_out(split.held_out, planes, _HELD_OUT_AT_MOST, config.seed)
    for item in visible:
        trained.setdefault(planes[item.plane].name, set()).add(item.label)
    return _Data(replace(split, training=visible), prepared, held_out, trained, _channels(planes))


def _channels(planes: Sequence[AnnotatedPlane]) -> str:
    """Return the channels that all planes show, empty if they differ."""
    found = sorted({plane.channels for plane in planes} - {""})
    if len(found) > 1:
        _log.warning("the images show different channels: %s", "; ".join(found))
    return found[0] if len(found) == 1 else ""


# --- the loop ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Run:
    injection: Injection
    encoder: PlaneEncoder
    config: TrainingConfig
    data: _Data
    before: float  # IoU of the incumbent; not a number if that is the start itself
    team: Team
    stop: Callable[[], bool]
    on_progress: Callable[[StepProgress], object] | None

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
    began, upcoming = perf_counter(), iter(views)
    best_iou, best_step, best = -math.inf, 0, None
    step, epochs, schedule = 0, 0.0, Schedule(config)
    ending = False
    while not ending:
        progress = run.progress(perf_counter() - began, step, epochs)
        batch = list(itertools.islice(upcoming, config.images_per_step))
        epochs, rate, seen = batch[-1][0], schedule.rate(progress), [view for _, view in batch]
        if step == 0:
            with parts_reported(encoder, len(run.team.share(len(seen))), run.on_progress):
                planned, loss = preflight(trainer, config, encoder, seen)
            yield planned
        else:
            loss = trainer.gradients(step, seen)
        yield from trainer.take_adjustments()
        step += 1
        seconds = perf_counter() - began
        progress = run.progress(seconds, step, epochs)
        yield TrainingStep(step, loss, seconds, seconds * (1 - progress) / max(progress, 1e-6))
        if step == 1:  # nothing is changed before `update`
            # The untrained start is a candidate too: a run that only makes things worse returns it.
            best_iou = validation_iou(encoder, data.held_out)
            run = replace(run, before=best_iou) if math.isnan(run.before) else run
            training, held_out = len(data.split.training), sum(map(len, data.held_out.values()))
            yield TrainingStarted(
                trainable, in_encoder, training, held_out, data.split.by, run.before
            )
            best = _capture(run, 0, best_iou)
            schedule.validated(run.team.broadcast(best_iou))
            yield Validated(0, best_iou, best)
        trainer.update(rate)
        progress = run.progress(perf_counter() - began, step, epochs)
        ending = progress >= 1 or run.stopped()
        if schedule.validation_due(progress, step, epochs) or ending:
            with trainer.averaged():
                iou = validation_iou(encoder, data.held_out)
                better = iou > best_iou
                if better:
                    best_iou, best_step, best = iou, step, _capture(run, step, iou)
            yield Validated(step, iou, best if better else None)
            schedule.validated(run.team.broadcast(iou))
            # It took time, and what comes after the last one would be trained for nothing.
            used_up = run.progress(perf_counter() - began, step, epochs) >= 1
            ending = ending or schedule.over or used_up
    assert best is not None  # there was a step
    seconds = perf_counter() - began
    return TrainingReport(best, step, seconds, trainable, run.before, best_iou, best_step)


def _capture(run: _Run, step: int, iou: float) -> Adapter:
    """Return the present state with its provenance."""
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
    if run.data.channels:
        provenance["channels"] = run.data.channels
    return capture(run.injection, provenance, {"val_iou_before": run.before, "val_iou": iou})


# --- validation -------------------------------------------------------------------


def draw_held_out(
    objects: Sequence[TrainingObject], planes: Sequence[AnnotatedPlane], at_most: int, seed: int
) -> HeldOut:
    """Choose at most `at_most` of the objects at random."""
    rng = np.random.default_rng(seed)
    targets: dict[int, tuple[Target, ...]] = {}
    for index in sorted(rng.permutation(len(objects))[:at_most].tolist()):
        item = objects[index]
        target = Target.from_mask(planes[item.plane].labels == item.label)
        targets[item.plane] = (*targets.get(item.plane, ()), target)
    return targets


def validation_iou(encoder: PlaneEncoder, held_out: HeldOut) -> float:
    """Return the mean IoU over the objects: of a tight box, and after 1, 2 and 3 clicks."""
    predictor = Predictor(encoder.model)
    found: list[float] = []
    with torch.inference_mode():
        for index, targets in held_out.items():
            plane = encoder.planes[index]
            key = embedding_key(
                encoder.model, plane.source.pixels, intensity_range=plane.source.limits
            )
            features = encoder.features(index)[0].float().cpu().numpy()
            embedding = Embedding(key, plane.frame, features)
            found += box_ious(predictor, embedding, targets).tolist()
            for ious in click_ious(predictor, embedding, targets, _CLICKS):
                found += ious.tolist()
    return float(np.mean(found))


def _measure(encoder: PlaneEncoder, judge: Incumbent | None, held_out: HeldOut) -> float:
    """Return the held-out IoU of the incumbent, or of the bare base."""
    if judge is None:
        return validation_iou(encoder, held_out)
    model = encoder.model
    with apply_adapter(model, judge.adapter) as injection:
        injection.set_strength(judge.strength)
        first = judge.adapter.config.first_changed_block(model.architecture.depth)
        # Where both begin late, what the base makes of the planes is the same for both.
        return validation_iou(replace(encoder, first=min(first, encoder.first)), held_out)
