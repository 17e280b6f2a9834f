"""Agreement of instance segmentations: matches, average precision, panoptic quality, mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from napari_peftsam.errors import LabelError
from napari_peftsam.geometry import check_labels
from napari_peftsam.types import BoolArray, LabelArray

__all__ = [
    "MSA_THRESHOLDS",
    "InstanceAgreement",
    "Matching",
    "compare_instances",
    "match_instances",
]

MSA_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""The IoU thresholds of the mean segmentation accuracy: 0.50, 0.55, …, 0.95."""

_HALF = 0.5


@dataclass(frozen=True)
class Matching:
    """True and predicted objects, matched one to one.

    `pairs` are ``(true label, predicted label, IoU)`` of the matched objects, by true label.
    """

    pairs: tuple[tuple[int, int, float], ...]
    true_count: int
    predicted_count: int

    @property
    def true_positives(self) -> int:
        """Matched objects."""
        return len(self.pairs)

    @property
    def false_positives(self) -> int:
        """Predicted objects without a true one."""
        return self.predicted_count - len(self.pairs)

    @property
    def false_negatives(self) -> int:
        """True objects that were missed."""
        return self.true_count - len(self.pairs)

    @property
    def precision(self) -> float:
        """TP / (TP + FP + FN); 1 if there are no objects at all, which is agreement."""
        total = self.true_count + self.predicted_count - len(self.pairs)
        return len(self.pairs) / total if total else 1.0


@dataclass(frozen=True)
class InstanceAgreement:
    """Figures of one image, two images without objects agree in full.

    Attributes
    ----------
    msa, ap50, ap75
        Mean of TP / (TP + FP + FN) over `MSA_THRESHOLDS`, and at two of them.
    sq, rq, pq
        Of the matches at IoU 0.5 the mean IoU and TP / (TP + FP / 2 + FN / 2), and their product
        (Kirillov et al. 2019).
    split, merged, missed
        True objects without a match: covered by half or more by several predicted ones that lie
        mostly inside; lying by half or more in a predicted one that holds half of another, too;
        and the rest.
    invented
        Predicted objects without a match that lie less than half on true ones.
    matching
        At IoU 0.5.
    """

    msa: float
    ap50: float
    ap75: float
    sq: float
    rq: float
    split: int
    merged: int
    missed: int
    invented: int
    matching: Matching

    @property
    def pq(self) -> float:
        """Panoptic quality."""
        return self.sq * self.rq


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Overlap of all pairs of objects that touch; indices count objects, not labels."""

    true_labels: LabelArray
    predicted_labels: LabelArray
    true: npt.NDArray[np.intp]
    predicted: npt.NDArray[np.intp]
    pixels: npt.NDArray[np.intp]
    true_sizes: npt.NDArray[np.intp]
    predicted_sizes: npt.NDArray[np.intp]

    @property
    def ious(self) -> npt.NDArray[np.float64]:
        union = self.true_sizes[self.true] + self.predicted_sizes[self.predicted] - self.pixels
        return np.asarray(self.pixels / union, np.float64)


def match_instances(
    true_labels: LabelArray, predicted_labels: LabelArray, threshold: float = 0.5
) -> Matching:
    """Match objects one to one, each pair of an IoU of at least `threshold`.

    The matching has as many pairs as possible, and among those the largest sum of IoUs.

    Parameters
    ----------
    true_labels, predicted_labels
        Instance labels of one shape; 0 is background.
    threshold
        In (0, 1].

    Raises
    ------
    LabelError
        If the shapes differ or labels are negative.
    """
    return _match(_overlaps(true_labels, predicted_labels), threshold)


def compare_instances(true_labels: LabelArray, predicted_labels: LabelArray) -> InstanceAgreement:
    """Return all figures of an image; arguments and errors as in `match_instances`."""
    overlaps = _overlaps(true_labels, predicted_labels)
    precisions = {t: _match(overlaps, t).precision for t in MSA_THRESHOLDS}
    matching = _match(overlaps, MSA_THRESHOLDS[0])
    objects = matching.true_count + matching.predicted_count
    ious = [iou for _, _, iou in matching.pairs]
    split, merged = _mistakes(overlaps, matching)
    return InstanceAgreement(
        msa=float(np.mean(list(precisions.values()))),
        ap50=precisions[0.5],
        ap75=precisions[0.75],
        sq=float(np.mean(ious)) if ious else float(not objects),
        rq=2 * len(ious) / objects if objects else 1.0,
        split=split,
        merged=merged,
        missed=matching.false_negatives - split - merged,
        invented=_invented(overlaps, matching),
        matching=matching,
    )


def _mistakes(overlaps: _Overlaps, matching: Matching) -> tuple[int, int]:
    """Return how many true objects are split, and how many are merged with another."""
    matched = np.isin(overlaps.true_labels, [true for true, _, _ in matching.pairs])
    of_true = overlaps.pixels / overlaps.true_sizes[overlaps.true]
    of_predicted = overlaps.pixels / overlaps.predicted_sizes[overlaps.predicted]
    held = of_true >= _HALF
    holds = np.bincount(overlaps.predicted[held], minlength=len(overlaps.predicted_labels))
    merged = np.zeros(len(matched), bool)
    merged[overlaps.true[held & (holds[overlaps.predicted] > 1)]] = True
    inside, count = of_predicted >= _HALF, len(matched)
    pieces = np.bincount(overlaps.true[inside], minlength=count)
    covered = np.bincount(overlaps.true[inside], weights=of_true[inside], minlength=count)
    merged &= ~matched
    split = (pieces > 1) & (covered >= _HALF) & ~matched & ~merged
    return int(split.sum()), int(merged.sum())


def _invented(overlaps: _Overlaps, matching: Matching) -> int:
    matched = np.isin(overlaps.predicted_labels, [found for _, found, _ in matching.pairs])
    count = len(matched)
    on_true = np.bincount(overlaps.predicted, weights=overlaps.pixels, minlength=count)
    return int(np.count_nonzero(~matched & (on_true < _HALF * overlaps.predicted_sizes)))


def _overlaps(true_labels: LabelArray, predicted_labels: LabelArray) -> _Overlaps:
    check_labels(true_labels, "true objects")
    check_labels(predicted_labels, "predicted objects")
    if true_labels.shape != predicted_labels.shape:
        raise LabelError(
            f"cannot compare {true_labels.shape} with {predicted_labels.shape} pixels: give "
            "arrays of the same shape"
        )
    true_names, true, true_sizes = _compact(true_labels)
    names, predicted, sizes = _compact(predicted_labels)
    both = (true > 0) & (predicted > 0)
    # Only pairs that touch are listed: a table of all pairs would be mostly zeros.
    codes, counts = np.unique(true[both] * len(sizes) + predicted[both], return_counts=True)
    rows, cols = np.divmod(codes, len(sizes))
    return _Overlaps(true_names, names, rows - 1, cols - 1, counts, true_sizes[1:], sizes[1:])


def _compact(
    labels: LabelArray,
) -> tuple[LabelArray, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return labels of the objects, labels as 1..n by pixel, and sizes of 0..n."""
    values, indices = np.unique(labels, return_inverse=True)
    indices = indices.ravel()
    if not values.size or values[0] != 0:  # no background
        indices = indices + 1
    names = values[values > 0]
    return names, indices, np.bincount(indices, minlength=len(names) + 1)


def _match(overlaps: _Overlaps, threshold: float) -> Matching:
    ious = overlaps.ious
    enough = ious >= threshold
    true, predicted, ious = overlaps.true[enough], overlaps.predicted[enough], ious[enough]
    n_true, n_predicted = len(overlaps.true_labels), len(overlaps.predicted_labels)
    choices = np.bincount(true, minlength=n_true)[true] > 1
    choices |= np.bincount(predicted, minlength=n_predicted)[predicted] > 1
    # Above IoU 0.5 nothing has a choice; the assignment problem is what is left.
    kept = ~choices
    kept[np.flatnonzero(choices)] = _assign(true[choices], predicted[choices], ious[choices])
    pairs = tuple(
        (int(overlaps.true_labels[t]), int(overlaps.predicted_labels[p]), float(value))
        for t, p, value in zip(true[kept], predicted[kept], ious[kept], strict=True)
    )
    return Matching(pairs, n_true, n_predicted)


def _assign(
    true: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp], ious: npt.NDArray[np.float64]
) -> BoolArray:
    """Return the mask of the listed pairs that belong to the best one-to-one matching."""
    rows, row = np.unique(true, return_inverse=True)
    cols, col = np.unique(predicted, return_inverse=True)
    value = np.zeros((len(rows), len(cols)))
    # A sum of IoUs is at most the number of pairs, so one more pair always outweighs it.
    value[row, col] = 1 + ious / (min(value.shape) + 1)
    matched = np.zeros(value.shape, bool)
    matched[linear_sum_assignment(value, maximize=True)] = True
    chosen: BoolArray = matched[row, col]
    return chosen
