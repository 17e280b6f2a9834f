"""Agreement of masks and of instance segmentations."""

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
    "Matching",
    "average_precision",
    "match_instances",
    "mean_segmentation_accuracy",
]

MSA_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""The IoU thresholds of the mean segmentation accuracy: 0.50, 0.55, …, 0.95."""


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


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """IoU of all pairs of objects that touch; indices count objects, not labels."""

    true_labels: LabelArray
    predicted_labels: LabelArray
    true: npt.NDArray[np.intp]
    predicted: npt.NDArray[np.intp]
    ious: npt.NDArray[np.float64]


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


def average_precision(
    true_labels: LabelArray, predicted_labels: LabelArray, threshold: float = 0.5
) -> float:
    """Return TP / (TP + FP + FN) at one IoU threshold, the AP of instance segmentation.

    Arguments and errors as in `match_instances`. Two images without objects score 1.
    """
    return match_instances(true_labels, predicted_labels, threshold).precision


def mean_segmentation_accuracy(true_labels: LabelArray, predicted_labels: LabelArray) -> float:
    """Return mSA: the mean of `average_precision` over `MSA_THRESHOLDS`.

    Arguments and errors as in `match_instances`.
    """
    overlaps = _overlaps(true_labels, predicted_labels)
    return float(np.mean([_match(overlaps, t).precision for t in MSA_THRESHOLDS]))


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
    ious = counts / (true_sizes[rows] + sizes[cols] - counts)
    return _Overlaps(true_names, names, rows - 1, cols - 1, ious)


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
    enough = overlaps.ious >= threshold
    true, predicted = overlaps.true[enough], overlaps.predicted[enough]
    ious = overlaps.ious[enough]
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
