"""Masks are cleaned to the piece that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.app.clean import clean_mask, clean_prediction
from napari_peftsam.types import Box, Point, Prediction, Prompts


def square(row: int, col: int, side: int) -> np.ndarray:
    mask = np.zeros((40, 50), bool)
    mask[row : row + side, col : col + side] = True
    return mask


LARGE, SMALL, SPECK = square(2, 2, 20), square(25, 30, 10), square(0, 45, 1)
HOLE = square(8, 8, 4)
ON_LARGE, ON_SMALL = Point(5, 5), Point(28, 33)

CASES = {
    "the clicked piece": (LARGE | SMALL | SPECK, (ON_SMALL,), SMALL),
    "both clicked pieces": (LARGE | SMALL | SPECK, (ON_SMALL, ON_LARGE), LARGE | SMALL),
    "the largest without a click": (LARGE | SMALL | SPECK, (), LARGE),
    "the largest beside the click": (LARGE | SMALL, (Point(39, 49),), LARGE),
    "a small hole is filled": (LARGE & ~HOLE, (ON_LARGE,), LARGE),
    "a hole that was denied stays": (
        LARGE & ~HOLE, (ON_LARGE, Point(10, 10, positive=False)), LARGE & ~HOLE,
    ),
    "a ring stays a ring": (LARGE & ~square(6, 6, 12), (ON_LARGE,), LARGE & ~square(6, 6, 12)),
    "pieces that touch at a corner are one": (
        square(2, 2, 5) | square(7, 7, 5), (Point(3, 3),), square(2, 2, 5) | square(7, 7, 5),
    ),
    "nothing": (square(0, 0, 0), (ON_LARGE,), square(0, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize(("mask", "points", "expected"), CASES.values(), ids=CASES.keys())
def test_clean(mask: np.ndarray, points: tuple[Point, ...], expected: np.ndarray) -> None:
    np.testing.assert_array_equal(clean_mask(mask, points), expected)


BUMP = square(2, 2, 20) | square(10, 22, 2)
NOTCH = square(2, 2, 20) & ~square(10, 20, 2)
LINE = np.zeros((40, 50), bool)
LINE[10, 5:30] = True

SMOOTH = {
    "a bump goes": (BUMP, (ON_LARGE,), (10, 23), False),
    "a notch is filled": (NOTCH, (ON_LARGE,), (10, 20), True),
    "unless it was denied": (
        NOTCH, (ON_LARGE, Point(10, 20, positive=False)), (10, 20), False,
    ),
    "the middle stays": (BUMP, (ON_LARGE,), (12, 12), True),
    "a speck stays": (SPECK, (), (0, 45), True),
    "a thin line stays": (LINE, (), (10, 17), True),
}  # fmt: skip


@pytest.mark.parametrize(("mask", "points", "place", "inside"), SMOOTH.values(), ids=SMOOTH.keys())
@pytest.mark.parametrize("radius", [2, 20])
def test_smooth_masks_lose_what_is_small_and_keep_their_area(
    mask: np.ndarray, points: tuple[Point, ...], place: tuple[int, int], inside: bool, radius: int
) -> None:
    smooth = clean_mask(mask, points, smooth=radius)
    assert smooth[place] == inside
    assert 0.8 * mask.sum() <= smooth.sum() <= 1.1 * mask.sum()


def test_points_are_those_of_the_plane() -> None:
    part = (LARGE | SMALL)[20:, 20:]
    cleaned = clean_mask(part, (ON_SMALL,), (20, 20))
    np.testing.assert_array_equal(cleaned, SMALL[20:, 20:])


def test_every_candidate_is_cleaned_and_nothing_else_changes() -> None:
    masks = np.stack([LARGE | SPECK, SMALL | SPECK])
    scores = np.array([0.9, 0.5], np.float32)
    prediction = Prediction(masks, scores, np.zeros((2, 8, 8), np.float32))
    cleaned = clean_prediction(prediction, Prompts(box=Box(0, 0, 30, 40)))
    np.testing.assert_array_equal(cleaned.whole(0), LARGE)
    np.testing.assert_array_equal(cleaned.whole(1), SMALL)
    assert cleaned.scores is scores
    assert cleaned.plane_shape == (40, 50)
