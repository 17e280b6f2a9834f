"""Proposals by falling score, each on the pixels that nobody has claimed yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.segmentation.automatic.proposals import Proposal
from napari_peftsam.types import LabelArray, Window

__all__ = ["Merged", "merge"]

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
