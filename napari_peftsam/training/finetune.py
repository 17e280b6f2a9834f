"""The finetuning loop: reads top to bottom, yields events, leaves the model as it was."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter

import torch

from napari_peftsam.errors import TrainingError
from napari_peftsam.evaluation import Answers, Verdict
from napari_peftsam.models import SamModel, UnetrDecoder
from napari_peftsam.peft import (
    MOST_JUDGED,
    Adapter,
    Injection,
    Judged,
    apply_adapter,
    capture,
    check_method,
    dense_head_of,
    inject,
)
from napari_peftsam.segmentation.automatic import ProposalScorer
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import (
    AnnotatedPlane,
    Split,
    TrainedObjects,
    cut_into_tiles,
    split_objects,
)
from napari_peftsam.training.dense import LEAST_OBJECTS, DenseTraining
from napari_peftsam.training.encoder import PlaneEncoder, open_cache
from napari_peftsam.training.events import (
    StepProgress,
    TrainEvent,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from napari_peftsam.training.judging import (
    ENOUGH,
    HELD_OUT_AT_MOST,
    JUDGED_AT_MOST,
    FoldObjects,
    HeldOut,
    Incumbent,
    answers_of,
    draw_held_out,
    is_worse,
    judge_in_folds,
    mean_iou,
    part_of,
    trials,
    validate,
)
from napari_peftsam.training.memory import preflight
from napari_peftsam.training.proposals import finds_less, judge_by_labels
from napari_peftsam.training.samples import ModelPlane, Views, prepare_planes
from napari_peftsam.training.schedule import Schedule
from napari_peftsam.training.step import Trainer, parts_reported
from napari_peftsam.training.team import Team

__all__ = ["finetune"]

_VERDICT_SHARE = 0.1  # of a budget of time, at most; the folds take what is left of it
# Of a budget of time, for what scores learn from labels: six of 120 seconds are enough for the
# proposals in the held-out ones of eight images on two cores.
_SCORES_SHARE = 0.05
_HEAD_SHARE = 0.05  # and for the comparison of the new head with the present one
# Of a budget of time, for one validation; a few objects are looked at in any case.
_VALIDATION_SHARE, _SOUNDED = 0.075, 8
_VERDICT_COST = 6.0  # validations: two models answer about three times as many prompts
_log = logging.getLogger(__name__)


def finetune(  # noqa: PLR0913  # most are optional
    model: SamModel,
    planes: Sequence[AnnotatedPlane],
    config: TrainingConfig,
    *,
    start: Adapter | None = None,
    incumbent: Incumbent | None = None,
    judged: Judged | None = None,
    team: Team | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[StepProgress], object] | None = None,
) -> Generator[TrainEvent, None, TrainingReport]:
    """Train an adapter from accepted objects; return it with a verdict on held-out ones.

    The result is the last state that is validated, unless an earlier one is better on held-out
    objects by more than noise (`is_worse`): few of them cannot rank states, and the highest of
    several figures flatters. A run that only makes things worse returns its start. Whether the
    result should go live is for the verdict alone, see docs/gate.md.

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
        The adapter that is live now, against which the result is judged; default: `start`, or
        the bare base.
    judged
        Features and IoUs of judged proposals, from which the scores of the result's proposals are
        to learn; default: those of `start`. Complete labels add more, up to 1,000 in all.
    team
        The processes that take part; each must call this with the same arguments. Default:
        this one alone.
    stop
        Asked after every step; True ends the run early, with a last validation. Closing
        the generator ends it at once; the last `Validated.adapter` is then the result.
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
        before = None if is_start else answers_of(encoder, judge, data.held_out, validate)
        torch.manual_seed(config.seed)
        injection = apply_adapter(model, start) if start else inject(model, config.method)
        try:
            dense = _dense(encoder, data, config, start)
            run = _Run(
                injection, encoder, config, data, dense, before, team or Team(), stop, on_progress,
                start, judged if config.automatic else None,
            )  # fmt: skip
            report, at_most = yield from _train(run)
        finally:
            injection.remove()
        report = _with_scores(run, _with_better_head(run, report, judge))
        return replace(report, verdict=_judge(run, report, start, judge, at_most))


# --- data -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Data:
    split: Split
    planes: Mapping[int, ModelPlane]
    held_out: HeldOut
    others: FoldObjects
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
    held_out = draw_held_out(split.held_out, planes, HELD_OUT_AT_MOST, config.seed)
    unseen = [o for o in visible if o.label not in trained.get(planes[o.plane].name, ())]
    others = FoldObjects(tuple(unseen), (*visible, *split.held_out), planes, config)
    for item in visible:
        trained.setdefault(planes[item.plane].name, set()).add(item.label)
    split = replace(split, training=visible)
    return _Data(split, prepared, held_out, others, trained, _channels(planes))


def _channels(planes: Sequence[AnnotatedPlane]) -> str:
    """Return the channels that all planes show, empty if they differ."""
    found = sorted({plane.channels for plane in planes} - {""})
    if len(found) > 1:
        _log.warning("the images show different channels: %s", "; ".join(found))
    return found[0] if len(found) == 1 else ""


def _dense(
    encoder: PlaneEncoder, data: _Data, config: TrainingConfig, start: Adapter | None
) -> DenseTraining | None:
    """Return what trains a head for automatic segmentation, or keeps one fit for its encoder."""
    objects, own = data.split.training, dense_head_of(encoder.model, start)
    if not config.automatic or isinstance(own, UnetrDecoder):
        return None  # a UNETR decoder is far larger than an adapter, and stays as it is
    is_enough = len(objects) >= LEAST_OBJECTS
    if not is_enough:
        _log.warning(
            "the head for automatic segmentation stays as it is: it is trained with %d objects or "
            "more, and there are %d",
            LEAST_OBJECTS,
            len(objects),
        )
        if own is None:
            return None
    return DenseTraining.of(encoder, own, objects, config.labels_are == "complete", is_enough)


# --- the loop ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Run:
    injection: Injection
    encoder: PlaneEncoder
    config: TrainingConfig
    data: _Data
    dense: DenseTraining | None
    before: tuple[Answers, ...] | None  # of the incumbent; None if that is the start itself
    team: Team
    stop: Callable[[], bool]
    on_progress: Callable[[StepProgress], object] | None
    start: Adapter | None
    proposals: Judged | None  # None: those of the start
    reserve: float = 0.0  # seconds of the budget for what follows the steps, estimated
    judged: int = JUDGED_AT_MOST  # objects that it looks at

    @property
    def compares_heads(self) -> bool:
        """True if a present head learned, and there is something to judge it by."""
        dense = self.dense
        return dense is not None and dense.is_learning and bool(dense.before and self.data.held_out)

    @property
    def learns_scores(self) -> bool:
        """True if labels tell what every proposal is worth."""
        return self.config.automatic and self.config.labels_are == "complete"

    def stopped(self) -> bool:
        """Return whether the run was asked to end; the same for all processes."""
        return bool(self.team.broadcast(float(self.stop())))

    @property
    def iou_before(self) -> float:
        """Held-out IoU of the incumbent."""
        assert self.before is not None  # from the first step on
        return mean_iou(self.before)

    def compared_with(self, start: tuple[Answers, ...], seconds: float) -> _Run:
        """Return the run with what the answers of its start, and their time, decide."""
        before = start if self.before is None else self.before
        most = _VERDICT_SHARE * (self.config.seconds or math.inf)
        each = _VERDICT_COST * seconds / len(start)
        each *= self.encoder.model.architecture.orientations  # a validation has one
        affordable = min(most / each, JUDGED_AT_MOST) if each > 0 else JUDGED_AT_MOST
        judged = max(len(start), int(affordable))
        reserve = 0.0 if math.isinf(most) else most
        if len(start) >= ENOUGH:  # no folds
            reserve = min(reserve, each * judged)
        if self.compares_heads:
            reserve += _HEAD_SHARE * (self.config.seconds or 0)
        if self.learns_scores:
            reserve += _SCORES_SHARE * (self.config.seconds or 0)
        return replace(self, before=before, reserve=reserve, judged=judged)

    def verdict(self, answers: tuple[Answers, ...]) -> Verdict:
        """Return the verdict of a validation, for a run that breaks off."""
        assert self.before is not None
        return Verdict(trials(self.data.held_out, self.before, answers))

    def fell(self, answers: tuple[Answers, ...], best: tuple[Answers, ...]) -> bool:
        """Return whether a state is worse than the best one; the same for all processes."""
        return bool(self.team.broadcast(is_worse(self.data.held_out, answers, best)))

    def progress(self, seconds: float, step: int, epochs: float) -> float:
        """Return the share of the budget used up, in [0, 1]; the same for all processes."""
        config = self.config
        if config.seconds is not None:
            return self.team.broadcast(min(1.0, seconds / (config.seconds - self.reserve)))
        if config.epochs is not None:
            return min(1.0, epochs / config.epochs)
        assert config.steps is not None  # the configuration has exactly one budget
        return min(1.0, step / config.steps)


def _train(run: _Run) -> Generator[TrainEvent, None, tuple[TrainingReport, int]]:
    """Return the report, and how many objects there is time to judge it on."""
    config, data, encoder = run.config, run.data, run.encoder
    trainable, in_encoder = _counts(run.injection)
    trainer = Trainer(run.injection, config, encoder, run.team, run.dense, _steps_before(run.start))
    limit = config.views if encoder.first > 0 else None  # else nothing is kept of a view
    views = Views(
        data.split.training, encoder.planes, encoder.model.architecture,
        config.objects_per_step, config.seed, limit,
    )  # fmt: skip
    began, upcoming = perf_counter(), iter(views)
    step, epochs, schedule = 0, 0.0, Schedule(config)
    kept: Adapter | None = None
    best: tuple[Answers, ...] = ()
    while True:
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
        left = seconds * (1 - progress) / max(progress, 1e-6)
        yield TrainingStep(step, loss, seconds, left + run.reserve)
        if step == 1:  # nothing is changed before `update`
            # The untrained start is a candidate too: a run that only makes things worse returns it.
            run, best, took = _first_answers(run)
            data, run = run.data, run.compared_with(best, took)
            iou, split = mean_iou(best), data.split
            yield TrainingStarted(
                trainable, in_encoder, len(split.training), len(best), split.by, run.iou_before
            )
            kept = _capture(run, 0, iou)
            schedule.started(run.team.broadcast(iou), run.team.broadcast(took))
            yield Validated(0, iou, kept, run.verdict(best))
        trainer.update(rate)
        progress = run.progress(perf_counter() - began, step, epochs)
        ending = progress >= 1 or run.stopped()
        if schedule.validation_due(progress, step, epochs) or ending:
            with trainer.result():
                answers = validate(encoder, data.held_out)
                iou, fell = mean_iou(answers), run.fell(answers, best)
                kept = kept if fell else _capture(run, step, iou)
            best = max(best, answers, key=mean_iou)
            yield Validated(step, iou, None if fell else kept, run.verdict(answers))
            schedule.validated(run.team.broadcast(iou))
            # It took time, and what comes after the last one would be trained for nothing.
            used_up = run.progress(perf_counter() - began, step, epochs) >= 1
            if ending or schedule.over or used_up:
                break
    assert kept is not None  # there was a step
    return TrainingReport(
        kept, step, perf_counter() - began, trainable,
        run.iou_before, kept.metrics["val_iou"], kept.provenance["step"],
    ), run.judged  # fmt: skip


def _first_answers(run: _Run) -> tuple[_Run, tuple[Answers, ...], float]:
    """Return the run, the answers of its start, and the seconds that they take from now on.

    Where some objects take so long that a validation of all would be dear, the run goes on with
    fewer held-out objects.
    """
    encoder, held_out, config = run.encoder, run.data.held_out, run.config
    encoder.keep(held_out)  # computed once, and found by later validations
    most = HELD_OUT_AT_MOST
    sounded = most if config.seconds is None else _SOUNDED
    began = perf_counter()
    answers = validate(encoder, part_of(held_out, 0, sounded))
    if config.seconds is not None:
        each = (perf_counter() - began) / len(answers)
        most = int(_VALIDATION_SHARE * config.seconds / max(each, 1e-6))
        most = int(run.team.broadcast(min(max(most, _SOUNDED), HELD_OUT_AT_MOST)))
    answers += validate(encoder, part_of(held_out, sounded, most))
    took = perf_counter() - began
    data = replace(run.data, held_out=part_of(held_out, 0, most))
    before = None if run.before is None else run.before[:most]
    return replace(run, data=data, before=before), answers, took


def _steps_before(start: Adapter | None) -> int:
    """Return how many steps an adapter has had, in all of its trainings.

    Adapters from before this was noted have 0: what their refiner changes never grew.
    """
    noted = None if start is None else start.provenance.get("steps")
    return max(noted, 0) if isinstance(noted, int) else 0


def _counts(injection: Injection) -> tuple[int, int]:
    """Return the numbers of trained parameters, of all and of the image encoder's."""
    counts = {name: p.numel() for name, p in injection.trainable_parameters().items()}
    in_encoder = sum(n for name, n in counts.items() if name.startswith("encoder."))
    return sum(counts.values()), in_encoder


def _capture(run: _Run, step: int, iou: float) -> Adapter:
    """Return the present state with its provenance."""
    split = run.data.split
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "steps": _steps_before(run.start) + step,
        "training": run.config.model_dump(mode="json"),
        "training_objects": len(split.training),
        "held_out_objects": len(split.held_out),
        "held_out_by": split.by,
        "trained_on": {name: sorted(labels) for name, labels in run.data.trained.items()},
    }
    if run.data.channels:
        provenance["channels"] = run.data.channels
    metrics = {"val_iou_before": run.iou_before, "val_iou": iou}
    adapter, start = capture(run.injection, provenance, metrics), run.start
    dense = run.dense
    # A head that is new says nothing before the first step.
    if dense is not None and dense.is_learning and (step or dense.before):
        adapter = adapter.with_head(dense.state())
    elif start is not None:
        adapter = adapter.with_head(start.head)
    proposals = run.proposals or (None if start is None else start.judged)
    return adapter if proposals is None else adapter.with_judged(*proposals)


def _with_better_head(run: _Run, report: TrainingReport, judge: Incumbent | None) -> TrainingReport:
    """Leave the new head out if the present one finds more in the new embeddings, beyond noise."""
    present = dense_head_of(run.encoder.model, None if judge is None else judge.adapter)
    if present is None or not (run.compares_heads and report.best_step):
        return report
    config, objects = run.config, run.data.split.held_out
    held_out = draw_held_out(objects, run.data.others.planes, len(objects), config.seed)

    def is_left_out() -> bool:
        seconds = _HEAD_SHARE * (config.seconds or report.seconds)
        complete = config.labels_are == "complete"
        return finds_less(
            run.encoder, report.adapter, present, held_out, is_complete=complete, seconds=seconds
        )

    if not run.team.from_leader(is_left_out):
        return report
    _log.warning("the head for automatic segmentation stays as it was: the new one finds less")
    old = {} if judge is None else judge.adapter.head
    return replace(report, adapter=report.adapter.with_head(old))


def _with_scores(run: _Run, report: TrainingReport) -> TrainingReport:
    """Add what complete labels say of the result's proposals to the judged ones.

    A person's judgements come last, as the last are kept.
    """
    adapter, config = report.adapter, run.config
    if not run.learns_scores or not report.best_step:
        return report
    given, planes = ProposalScorer.of(adapter), run.encoder.planes
    seconds = _SCORES_SHARE * (config.seconds or report.seconds)
    # Masks are better in images that were learned from, which would make scores too high. Of a
    # single image there is no other.
    held_out = {each.plane: planes[each.plane] for each in run.data.split.held_out}
    encoder = replace(run.encoder, planes=held_out)
    found = run.team.from_leader(
        lambda: judge_by_labels(
            encoder, adapter, MOST_JUDGED - len(given.ious), seconds, config.seed, run.stop
        )
    )
    if found is None:
        return report
    known = ProposalScorer(features=found[0], ious=found[1]).judged(given.features, given.ious)
    return replace(report, adapter=adapter.with_judged(known.features, known.ious))


def _judge(
    run: _Run,
    report: TrainingReport,
    start: Adapter | None,
    judge: Incumbent | None,
    at_most: int,
) -> Verdict:
    """Compare the result with the incumbent, on more prompts than a validation has.

    The leading process does it for all, as the time that is left differs between them. A run that
    was stopped is judged, too: the few objects that are held out rarely suffice alone.
    """
    encoder, data, config = run.encoder, run.data, run.config
    end = perf_counter() + _VERDICT_SHARE * (config.seconds or math.inf)

    def is_over() -> bool:
        return perf_counter() > end

    def verdict() -> Verdict:
        planes, held_out = data.others.planes, data.split.held_out
        judged = draw_held_out(held_out, planes, at_most, config.seed)
        old = answers_of(encoder, judge, judged)
        new = answers_of(encoder, Incumbent(report.adapter), judged)
        found = trials(judged, old, new)
        is_unchanged = not report.best_step and judge == (Incumbent(start) if start else None)
        if len(found) < ENOUGH and not is_unchanged:
            found += judge_in_folds(
                encoder, data.others, start, judge,
                rate=Schedule(config).rate, steps=report.best_step, is_over=is_over,
                steps_before=_steps_before(start),
            )  # fmt: skip
        return Verdict(found)

    return run.team.from_leader(verdict)
