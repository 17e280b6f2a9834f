"""The finetuning loop: reads top to bottom, yields events, leaves the model as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from time import perf_counter

import torch

from napari_peftsam.evaluation import Answers
from napari_peftsam.models import SamModel
from napari_peftsam.peft import Adapter, Injection, Judged, apply_adapter, check_method, inject
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import AnnotatedPlane
from napari_peftsam.training.encoder import PlaneEncoder, open_cache
from napari_peftsam.training.events import (
    Judging,
    StepProgress,
    TrainEvent,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from napari_peftsam.training.judging import (
    HELD_OUT_AT_MOST,
    Incumbent,
    answers_of,
    mean_iou,
    part_of,
    validate,
)
from napari_peftsam.training.memory import preflight
from napari_peftsam.training.outcome import verdict_of, with_better_head, with_scores
from napari_peftsam.training.run import Run, dense_training, prepare
from napari_peftsam.training.samples import Views
from napari_peftsam.training.schedule import Schedule
from napari_peftsam.training.step import Trainer, parts_reported
from napari_peftsam.training.team import Team

__all__ = ["finetune"]

# Of a budget of time, at most; a few objects are looked at in any case.
_ONE_VALIDATION, _SOUNDED = 0.075, 8


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
    data = prepare(model, planes, config, [each.adapter for each in (own, incumbent) if each])
    with open_cache(config, model.device) as cache:
        first = method.first_changed_block(model.architecture.depth)
        encoder = PlaneEncoder(model, data.planes, first, cache, config.variation)
        starts_as_base = (start.config if start else config.method).starts_as_base
        is_start = judge == own and (own is not None or starts_as_base)
        before = None if is_start else answers_of(encoder, judge, data.held_out, validate)
        torch.manual_seed(config.seed)
        injection = apply_adapter(model, start) if start else inject(model, config.method)
        try:
            dense = dense_training(encoder, data, config, start)
            run = Run(
                injection, encoder, config, data, dense, before, team or Team(), stop, on_progress,
                start, judged if config.automatic else None,
            )  # fmt: skip
            report, at_most = yield from _train(run)
        finally:
            injection.remove()
        yield Judging()
        report = with_scores(run, with_better_head(run, report, judge))
        return replace(report, verdict=verdict_of(run, report, judge, at_most))


def _train(run: Run) -> Generator[TrainEvent, None, tuple[TrainingReport, int]]:
    """Return the report, and how many objects there is time to judge it on."""
    config, data, encoder = run.config, run.data, run.encoder
    trainable, in_encoder = _counts(run.injection)
    trainer = Trainer(run.injection, config, encoder, run.team, run.dense, run.steps_before)
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
            kept = run.capture(0, iou)
            schedule.started(run.team.broadcast(iou), run.team.broadcast(took))
            yield Validated(0, iou, kept, run.verdict(best))
        trainer.update(rate)
        progress = run.progress(perf_counter() - began, step, epochs)
        ending = progress >= 1 or run.stopped()
        if schedule.validation_due(progress, step, epochs) or ending:
            with trainer.result():
                answers = validate(encoder, data.held_out)
                iou, fell = mean_iou(answers), run.fell(answers, best)
                kept = kept if fell else run.capture(step, iou)
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


def _first_answers(run: Run) -> tuple[Run, tuple[Answers, ...], float]:
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
        most = int(_ONE_VALIDATION * config.seconds / max(each, 1e-6))
        most = int(run.team.broadcast(min(max(most, _SOUNDED), HELD_OUT_AT_MOST)))
    answers += validate(encoder, part_of(held_out, sounded, most))
    took = perf_counter() - began
    data = replace(run.data, held_out=part_of(held_out, 0, most))
    before = None if run.before is None else run.before[:most]
    return replace(run, data=data, before=before), answers, took


def _counts(injection: Injection) -> tuple[int, int]:
    """Return the numbers of trained parameters, of all and of the image encoder's."""
    counts = {name: p.numel() for name, p in injection.trainable_parameters().items()}
    in_encoder = sum(n for name, n in counts.items() if name.startswith("encoder."))
    return sum(counts.values()), in_encoder
