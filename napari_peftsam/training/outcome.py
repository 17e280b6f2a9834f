"""The end of a training: the better head, the scores of its proposals, and the verdict."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from time import perf_counter

from napari_peftsam.evaluation import Verdict
from napari_peftsam.peft import MOST_JUDGED, dense_head_of
from napari_peftsam.segmentation.automatic import ProposalScorer
from napari_peftsam.training.events import TrainingReport
from napari_peftsam.training.judging import (
    ENOUGH,
    Incumbent,
    answers_of,
    draw_held_out,
    judge_in_folds,
    trials,
)
from napari_peftsam.training.proposals import finds_less, judge_by_labels
from napari_peftsam.training.run import HEAD_SHARE, SCORES_SHARE, VERDICT_SHARE, Run
from napari_peftsam.training.schedule import Schedule

_log = logging.getLogger(__name__)


def with_better_head(run: Run, report: TrainingReport, judge: Incumbent | None) -> TrainingReport:
    """Leave the new head out if the present one finds more in the new embeddings, beyond noise."""
    present = dense_head_of(run.encoder.model, None if judge is None else judge.adapter)
    if present is None or not (run.compares_heads and report.best_step):
        return report
    config, objects = run.config, run.data.split.held_out
    held_out = draw_held_out(objects, run.data.others.planes, len(objects), config.seed)

    def is_left_out() -> bool:
        seconds = HEAD_SHARE * (config.seconds or report.seconds)
        complete = config.labels_are == "complete"
        return finds_less(
            run.encoder, report.adapter, present, held_out, is_complete=complete, seconds=seconds
        )

    if not run.team.from_leader(is_left_out):
        return report
    _log.warning("the head for automatic segmentation stays as it was: the new one finds less")
    old = {} if judge is None else judge.adapter.head
    return replace(report, adapter=report.adapter.with_head(old))


def with_scores(run: Run, report: TrainingReport) -> TrainingReport:
    """Add what complete labels say of the result's proposals to the judged ones.

    A person's judgements come last, as the last are kept.
    """
    adapter, config = report.adapter, run.config
    if not run.learns_scores or not report.best_step:
        return report
    given, planes, split = ProposalScorer.of(adapter), run.encoder.planes, run.data.split
    seconds = SCORES_SHARE * (config.seconds or report.seconds)
    # Masks are better in planes that were learned from, which would make scores too high. There
    # may be no other.
    held_out = {each.plane for each in split.held_out}
    chosen = held_out - {each.plane for each in split.training} or held_out
    encoder = replace(run.encoder, planes={index: planes[index] for index in chosen})
    found = run.team.from_leader(
        lambda: judge_by_labels(
            encoder, adapter, MOST_JUDGED - len(given.ious), seconds, config.seed, run.stop
        )
    )
    if found is None:
        return report
    known = ProposalScorer(features=found[0], ious=found[1]).judged(given.features, given.ious)
    return replace(report, adapter=adapter.with_judged(known.features, known.ious))


def verdict_of(run: Run, report: TrainingReport, judge: Incumbent | None, at_most: int) -> Verdict:
    """Compare the result with the incumbent, on more prompts than a validation has.

    The leading process does it for all, as the time that is left differs between them. A run that
    was stopped is judged, too: the few objects that are held out rarely suffice alone.
    """
    encoder, data, config, start = run.encoder, run.data, run.config, run.start
    end = perf_counter() + VERDICT_SHARE * (config.seconds or math.inf)

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
                steps_before=run.steps_before,
            )  # fmt: skip
        return Verdict(found)

    return run.team.from_leader(verdict)
