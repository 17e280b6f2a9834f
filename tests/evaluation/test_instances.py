"""Instance metrics, each on images small enough to count by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from napari_peftsam.errors import LabelError
from napari_peftsam.evaluation import (
    MSA_THRESHOLDS,
    compare_instances,
    match_instances,
)
from napari_peftsam.geometry import iou

EMPTY = np.zeros((4, 6), int)
TWO = np.array([[1, 1, 0, 7, 7, 7]] * 4)
ONE_SHIFTED = np.array([[5, 5, 5, 0, 3, 3]] * 4)  # IoU 2/3 with both


@pytest.mark.parametrize(
    ("true", "predicted", "threshold", "counts"),
    [
        pytest.param(TWO, TWO, 1.0, (2, 0, 0), id="equal"),
        pytest.param(TWO, TWO * 100, 0.95, (2, 0, 0), id="numbers do not count"),
        pytest.param(TWO, ONE_SHIFTED, 0.5, (2, 0, 0), id="shifted, low threshold"),
        pytest.param(TWO, ONE_SHIFTED, 0.7, (0, 2, 2), id="shifted, high threshold"),
        pytest.param(TWO, np.where(TWO == 1, 1, 0), 0.5, (1, 0, 1), id="one missed"),
        pytest.param(np.where(TWO == 1, 1, 0), TWO, 0.5, (1, 1, 0), id="one too many"),
        pytest.param(TWO, EMPTY, 0.5, (0, 0, 2), id="nothing found"),
        pytest.param(EMPTY, TWO, 0.5, (0, 2, 0), id="nothing there"),
        pytest.param(EMPTY, EMPTY, 0.5, (0, 0, 0), id="nothing at all"),
        pytest.param(TWO, np.ones_like(TWO), 0.5, (1, 0, 1), id="merged, without background"),
        pytest.param(
            np.ones((2, 4), int), np.array([[1, 1, 2, 2]] * 2), 0.5, (1, 1, 0), id="split in halves"
        ),
    ],
)
def test_match_instances(
    true: np.ndarray, predicted: np.ndarray, threshold: float, counts: tuple[int, int, int]
) -> None:
    found = match_instances(true, predicted, threshold)
    assert (found.true_positives, found.false_positives, found.false_negatives) == counts
    total = sum(counts)
    assert found.precision == (counts[0] / total if total else 1.0)


def test_pairs_name_labels_and_iou() -> None:
    assert match_instances(TWO, ONE_SHIFTED).pairs == (
        (1, 5, pytest.approx(2 / 3)),
        (7, 3, pytest.approx(2 / 3)),
    )


def test_matching_is_the_best_of_all() -> None:
    """Compared with trying all assignments, at a threshold where objects have choices."""
    rng = np.random.default_rng(0)
    threshold = 0.1
    for _ in range(20):
        true, predicted = rng.integers(0, 4, (2, 5, 5))
        names, others = range(1, 4), range(1, 4)
        ious = np.array([[iou(true == a, predicted == b) for b in others] for a in names])
        ious[[not (true == a).any() for a in names]] = 0
        ious[:, [not (predicted == b).any() for b in others]] = 0
        enough = ious >= threshold
        best = max(
            (enough[range(3), order].sum(), ious[range(3), order][enough[range(3), order]].sum())
            for order in map(list, permutations(range(3)))
        )
        found = match_instances(true, predicted, threshold)
        assert found.true_positives == best[0]
        assert sum(value for *_, value in found.pairs) == pytest.approx(best[1])


def test_msa_is_the_mean_over_ten_thresholds() -> None:
    assert pytest.approx(np.arange(0.5, 1, 0.05)) == MSA_THRESHOLDS
    assert compare_instances(TWO, TWO).msa == 1.0
    assert compare_instances(EMPTY, EMPTY).msa == 1.0
    # IoU 2/3 passes 0.50, 0.55, 0.60 and 0.65
    assert compare_instances(TWO, ONE_SHIFTED).msa == pytest.approx(0.4)


@pytest.mark.parametrize("metric", [match_instances, compare_instances])
@pytest.mark.parametrize(
    ("predicted", "message"), [(TWO[:, :3], "same shape"), (-TWO, "not be negative")]
)
def test_unusable_labels_are_told(metric, predicted: np.ndarray, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        metric(TWO, predicted)
