"""Proposals by falling score, each on the pixels that nobody has claimed yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.segmentation.automatic.plane import TileProposals
from napari_peftsam.segmentation.automatic.proposals import Proposal, features_of
from napari_peftsam.segmentation.automatic.scorer import ProposalScorer
from napari_peftsam.types import LabelArray, Window

__all__ = ["Merged", "MergedTile", "PlaneMerge", "merge"]

CLAIMED = 0.15
"""Share of a mask that others may have claimed already; from micro-sam, best on 11 of 12 of its
data sets."""
_LEAST_AREA = AutomaticConfig().min_size


@dataclass(frozen=True)
class Merged:
    """What became of the proposals, by their index.

    Attributes
    ----------
    kept
        Those that are objects now, by falling score: the first got the first label.
    below, overlapped, too_small
        Those whose score was too low, that lie on better ones, and that are too small.
    """

    kept: tuple[int, ...]
    below: tuple[int, ...]
    overlapped: tuple[int, ...]
    too_small: tuple[int, ...]


def merge(  # noqa: PLR0913
    proposals: Sequence[Proposal],
    scores: npt.NDArray[np.floating],
    labels: LabelArray,
    *,
    threshold: float,
    least_area: int = _LEAST_AREA,
    first: int = 1,
    corner: tuple[int, int] = (0, 0),
) -> Merged:
    """Write proposals into `labels` ``(H, W)``, which may hold objects already.

    Parameters
    ----------
    scores
        One per proposal.
    labels
        Pixels above zero are taken and stay as they are.
    threshold
        Score below which nothing is kept.
    least_area
        Pixels that an object must have left.
    first
        Label of the first object.
    corner
        Row and column in the plane where `labels` begin; what lies outside is cut off.
    """
    region = Window(*corner, *labels.shape)
    kept: list[int] = []
    below: list[int] = []
    overlapped: list[int] = []
    too_small: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if not scores[index] >= threshold:
            below.append(index)
            continue
        mask, window = proposals[index].drawn
        seen = window & region
        mask = mask[seen.seen_from(window).slices]
        here = labels[seen.seen_from(region).slices]
        free = mask & (here == 0)
        area, left = np.count_nonzero(mask), np.count_nonzero(free)
        if area < least_area:
            too_small.append(index)
        elif area - left > CLAIMED * area:
            overlapped.append(index)
        elif left < least_area:
            too_small.append(index)
        else:
            here[free] = first + len(kept)
            kept.append(index)
    return Merged(tuple(kept), tuple(below), tuple(overlapped), tuple(too_small))


@dataclass(frozen=True, eq=False)
class MergedTile:
    """What became of the proposals of a tile.

    Attributes
    ----------
    merged
        By index of the proposals that were given.
    scores
        Of these.
    labels, window
        The tile's part of the plane once they are written, and where it is.
    first
        Label of the first object.
    counts
        Proposals by where they were lost, see `AutomaticCounts`.
    """

    merged: Merged
    scores: npt.NDArray[np.float64] = field(repr=False)
    labels: LabelArray = field(repr=False)
    window: Window
    first: int
    counts: Counter[str]


@dataclass(eq=False)
class PlaneMerge:
    """Merges the proposals of a plane tile by tile.

    Attributes
    ----------
    labels
        ``(H, W)``, what is above zero is taken; an array of zarr is read and written in parts.
    scorer, threshold, least_area
        As of `merge`.
    number
        Label of the next object.
    """

    labels: Any
    scorer: ProposalScorer
    threshold: float
    least_area: int = _LEAST_AREA
    number: int = 1

    def add(self, found: TileProposals, wanted: Sequence[Proposal] | None = None) -> MergedTile:
        """Write the proposals of a tile, or those of them that are `wanted`."""
        proposals = found.proposals if wanted is None else wanted
        height, width = self.labels.shape
        seen, first = found.tile.window & Window(0, 0, height, width), self.number
        part = np.asarray(self.labels[seen.slices])
        scores = self.scorer.scores(features_of(proposals)).iou
        merged = merge(
            proposals, scores, part, threshold=self.threshold, least_area=self.least_area,
            first=first, corner=(seen.row, seen.col),
        )  # fmt: skip
        self.labels[seen.slices] = part
        self.number += len(merged.kept)
        names = ("seeded", "empty", "cut", "elsewhere", "left_out", "coarse")
        counts = Counter({name: int(getattr(found, name)) for name in names})
        counts.update({k: len(getattr(merged, k)) for k in ("below", "overlapped", "too_small")})
        return MergedTile(merged, scores, part, seen, first, counts)
