"""Evaluation of automatic segmentation: agreement with the labels, and what a person has to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from napari_peftsam.configs import AutomaticConfig, LabelsAre
from napari_peftsam.embeddings import (
    BASE_ADAPTER,
    Embedding,
    EmbeddingStore,
    Tile,
    encode,
    tiled_image,
)
from napari_peftsam.evaluation.clicks import click_ious, clicks_to_reach
from napari_peftsam.evaluation.evaluate import EvaluationProgress, Intervals, Span, embedded
from napari_peftsam.evaluation.instances import InstanceAgreement, Matching, compare_instances
from napari_peftsam.evaluation.intervals import bootstrap_intervals
from napari_peftsam.evaluation.targets import LabelledImage, Target, targets_of
from napari_peftsam.geometry import check_labels
from napari_peftsam.models import SamModel
from napari_peftsam.segmentation import Predictor
from napari_peftsam.segmentation.automatic import (
    NO_HEAD,
    PlaneMerge,
    Proposal,
    ProposalScorer,
    TileProposals,
    propose_in_tiles,
)
from napari_peftsam.segmentation.tiled import WantedTile
from napari_peftsam.types import LabelArray, Prediction, Prompts, Window

__all__ = ["AutomaticEvaluation", "AutomaticFigures", "evaluate_automatic"]

_log = logging.getLogger(__name__)
ENOUGH = 0.75
"""IoU from which on a person accepts a mask."""
MOST_CLICKS = 20
"""Clicks after which a person gives an object up."""


@dataclass(frozen=True)
class AutomaticFigures:
    """What automatic segmentation found in one image, and what is left to do.

    Attributes
    ----------
    objects
        True objects.
    figures
        By name: ``msa, ap50, ap75, pq, sq, rq, split, merged, missed, invented,
        effort_per_object, effort_prompting_only`` (see `InstanceAgreement` and `effort`), or of
        sparse labels ``recall50, matched_iou``; None where there is no object.
    seconds
        For embedding, proposals and merging.
    """

    name: str
    objects: int
    figures: Mapping[str, float | None]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return {
            "name": self.name,
            "objects": self.objects,
            **self.figures,
            "seconds_per_image": self.seconds,
        }


_COUNTS = ("split", "merged", "missed", "invented")


@dataclass(frozen=True)
class AutomaticEvaluation:
    """The figures of all images: sums of counts, else means over images.

    Attributes
    ----------
    intervals
        95 % bootstrap intervals of the means over images.
    """

    labels_are: LabelsAre
    per_image: tuple[AutomaticFigures, ...]
    figures: Mapping[str, float | None] = field(hash=False)
    intervals: Intervals = field(hash=False)

    @classmethod
    def of(cls, labels_are: LabelsAre, images: Sequence[AutomaticFigures]) -> AutomaticEvaluation:
        """Sum up the images."""
        names = list(images[0].figures)
        table = np.array([[one.figures[n] for n in names] for one in images], float)
        figures: dict[str, float | None] = {}
        intervals: dict[str, tuple[float, float] | None] = {}
        for name, values in zip(names, table.T, strict=True):
            known = values[np.isfinite(values)]
            if name in _COUNTS:
                figures[name] = int(known.sum())
                continue
            figures[name] = float(known.mean()) if len(known) else None
            found = bootstrap_intervals(known[:, None], [0] * len(known)) if len(known) else None
            intervals[name] = found[0] if found else None
        return cls(labels_are, tuple(images), figures, intervals)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return {
            "labels_are": self.labels_are,
            "images": len(self.per_image),
            "objects": sum(one.objects for one in self.per_image),
            **self.figures,
            "seconds_per_image": float(np.mean([one.seconds for one in self.per_image])),
            "intervals": {k: None if v is None else list(v) for k, v in self.intervals.items()},
            "per_image": [one.to_dict() for one in self.per_image],
        }


def evaluate_automatic(  # noqa: PLR0913, PLR0917
    model: SamModel,
    pairs: Iterable[LabelledImage],
    config: AutomaticConfig | None = None,
    labels_are: LabelsAre = "complete",
    head: nn.Module | None = None,
    scorer: ProposalScorer | None = None,
    adapter: str = BASE_ADAPTER,
    store: EmbeddingStore | None = None,
    with_effort: bool = True,
) -> Iterator[EvaluationProgress | AutomaticEvaluation]:
    """Segment every image without prompts, and compare with its labels.

    Parameters
    ----------
    model, pairs, adapter, store
        As in `napari_peftsam.evaluation.evaluate`.
    labels_are
        ``"complete"``: all objects are labelled; ``"sparse"``: what is not labelled is unknown.
    head
        See `napari_peftsam.segmentation.automatic.DenseMaps.of`.
    scorer
        Default: the one that is shipped.
    with_effort
        Whether to correct what is wrong with simulated clicks, which takes longer than all else.

    Yields
    ------
    EvaluationProgress or AutomaticEvaluation
        The second is the last.
    """
    config, scorer = config or AutomaticConfig(), scorer or ProposalScorer()
    images = pairs if isinstance(pairs, Sequence) else tuple(pairs)
    predictor, found, is_coarse = Predictor(model), [], False
    for index in range(len(images)):
        name, pixels, labels = images[index][:3]
        check_labels(labels, name)
        began = perf_counter()
        image = tiled_image(name, pixels, model)
        merging = PlaneMerge(
            np.zeros(labels.shape, np.int32), scorer, config.threshold, config.min_size
        )
        kept, seen = list[Proposal](), dict[Tile, Embedding]()
        work = propose_in_tiles(predictor, image, head, fast=config.fast)
        event: WantedTile | TileProposals | None = next(work)
        while event is not None:
            if isinstance(event, WantedTile):
                share = 1 / len(images) / event.total
                span = Span(name, index / len(images) + event.index * share, share)
                encoding = encode(model, [image.request(event.tile)], store, adapter)
                seen[event.tile] = yield from embedded(encoding, span)
                event = work.send(seen[event.tile])
            else:
                is_coarse |= event.coarse
                kept += [event.proposals[i] for i in merging.add(event).merged.kept]
                event = next(work, None)
        seconds, predicted = perf_counter() - began, merging.labels
        agreement = compare_instances(labels, predicted)
        if labels_are == "sparse":
            figures = _of_sparse(agreement)
        else:
            figures = _of_complete(agreement)
            if with_effort:
                figures |= effort(predictor, seen, _targets(labels), agreement.matching, kept)
        found.append(AutomaticFigures(name, agreement.matching.true_count, figures, seconds))
    if is_coarse:
        _log.warning(NO_HEAD)
    yield AutomaticEvaluation.of(labels_are, found)


def _of_complete(agreement: InstanceAgreement) -> dict[str, float | None]:
    names = ("msa", "ap50", "ap75", "pq", "sq", "rq", *_COUNTS)
    return {name: getattr(agreement, name) for name in names}


def _of_sparse(agreement: InstanceAgreement) -> dict[str, float | None]:
    """Return what is known where unlabelled pixels may be objects, too."""
    matching = agreement.matching
    known = matching.true_count > 0
    return {
        "recall50": matching.true_positives / matching.true_count if known else None,
        "matched_iou": agreement.sq if matching.pairs else None,
    }


# --- effort -----------------------------------------------------------------------


def effort(
    predictor: Predictor,
    seen: Mapping[Tile, Embedding],
    targets: Mapping[int, Target],
    matching: Matching,
    kept: Sequence[Proposal],
) -> dict[str, float | None]:
    """Return the actions per object that finish an image, with proposals and without.

    Accepting all proposals is one action, deleting a wrong one another. A proposal that has
    `ENOUGH` IoU is left alone; one that is matched with less is corrected, which takes its clicks
    and the acceptance: clicks that replace its prompts, its mask fed back. A missed object takes
    its clicks and the acceptance. An object that does not get there counts with `MOST_CLICKS`.

    Parameters
    ----------
    seen
        The embedding of each tile; an object is prompted in the tile around its first click.
    targets
        The true objects by their label.
    matching
        At IoU 0.5; predicted labels count the proposals in `kept` from 1.
    """
    if not targets:
        return {"effort_per_object": None, "effort_prompting_only": None}
    paired = {true: (found, iou) for true, found, iou in matching.pairs}
    actions = 1 + matching.false_positives if matching.predicted_count else 0
    prompting = 0
    for tile, embedding in seen.items():
        clicks = {n: each.first_click() for n, each in targets.items()}
        own = {n: targets[n] for n, at in clicks.items() if tile.core.contains(at.row, at.col)}
        cut = {n: _in_window(each, tile.window) for n, each in own.items()}
        alone = dict(zip(cut, _clicks(predictor, embedding, list(cut.values())), strict=True))
        to_correct = [true for true in own if true in paired and paired[true][1] < ENOUGH]
        proposed = (kept[paired[true][0] - 1] for true in to_correct)
        asked = [
            each.prompts.within(tile.window) or Prompts((cut[true].first_click(),))
            for true, each in zip(to_correct, proposed, strict=True)
        ]
        shown = predictor.predict_many(embedding, asked, candidates=1)
        corrected = _clicks(predictor, embedding, [cut[true] for true in to_correct], shown)
        actions += sum(count + 1 for count in corrected)
        actions += sum(alone[true] + 1 for true in own if true not in paired)
        prompting += sum(count + 1 for count in alone.values())
    return {
        "effort_per_object": actions / len(targets),
        "effort_prompting_only": prompting / len(targets),
    }


def _in_window(target: Target, window: Window) -> Target:
    """Return the part of an object in a window, in its pixels."""
    inside = target.window & window
    return Target(inside.seen_from(window), target.mask[inside.seen_from(target.window).slices])


def _clicks(
    predictor: Predictor,
    embedding: Embedding,
    targets: Sequence[Target],
    shown: Sequence[Prediction] | None = None,
) -> list[int]:
    """Return the clicks until each mask is right, the shown one or a new one."""
    if not targets:
        return []
    asked = click_ious(predictor, embedding, targets, MOST_CLICKS, first=shown, enough=ENOUGH)
    counts = clicks_to_reach(np.stack(list(asked), axis=1), ENOUGH)
    return [int(count) for count in counts]


def _targets(labels: LabelArray) -> dict[int, Target]:
    numbers = np.unique(labels[labels > 0]).tolist()
    return dict(zip(numbers, targets_of(labels, numbers), strict=True)) if numbers else {}
