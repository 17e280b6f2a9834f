"""Figures of instance segmentation agree with `stardist.matching`, where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_peftsam.evaluation import MSA_THRESHOLDS, compare_instances, match_instances

matching = pytest.importorskip("stardist.matching").matching


def cells(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and others that are shifted, split, merged, lost and invented."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((96, 96), int)
    seeds[tuple(rng.integers(0, 96, (2, 40)))] = np.arange(1, 41)
    distance, nearest = ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    true = np.where(distance < 7, seeds[tuple(nearest)], 0)
    found = np.roll(true, rng.integers(-1, 2, 2), (0, 1))
    for label in rng.permutation(41)[:12]:
        inside = found == label
        if label % 4 == 0:
            found[inside] = 0
        elif label % 4 == 1:
            found[inside] = int(rng.integers(1, 41))
        elif label % 4 == 2:
            found[inside & (np.arange(96) % 8 < 3)] = label + 50
        else:
            found[:6, 8 * (label % 8) : 8 * (label % 8) + 6] = label + 100
    return true, found


@pytest.mark.parametrize("seed", range(6))
def test_every_figure(seed: int) -> None:
    true, found = cells(seed)
    mine, theirs = compare_instances(true, found), matching(true, found, MSA_THRESHOLDS)
    assert mine.msa == pytest.approx(np.mean([each.accuracy for each in theirs]))
    assert mine.ap50 == pytest.approx(theirs[0].accuracy)
    assert mine.ap75 == pytest.approx(theirs[5].accuracy)
    assert mine.pq == pytest.approx(theirs[0].panoptic_quality)
    assert mine.rq == pytest.approx(theirs[0].f1)
    assert mine.sq == pytest.approx(theirs[0].mean_matched_score)
    assert 0 < theirs[0].accuracy < 1


@pytest.mark.parametrize("threshold", [0.1, 0.3, *MSA_THRESHOLDS])
def test_every_match(threshold: float) -> None:
    true, found = cells(7)
    mine, theirs = match_instances(true, found, threshold), matching(true, found, threshold)
    counts = mine.true_positives, mine.false_positives, mine.false_negatives
    assert counts == (theirs.tp, theirs.fp, theirs.fn)
