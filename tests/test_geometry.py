"""Overlap, deepest pixel and bounding window of masks; labels that can be used."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.errors import LabelError
from napari_peftsam.geometry import check_labels, deepest_pixel, iou
from napari_peftsam.types import Window


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
        ([1, 1, 0, 0], [0, 1, 1, 0], 1 / 3),
        ([1, 0, 0, 0], [0, 1, 0, 0], 0.0),
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0),
    ],
)
def test_iou(a: list[int], b: list[int], expected: float) -> None:
    assert iou(np.array([a], bool), np.array([b], bool)) == pytest.approx(expected)


def test_iou_in_a_window_is_that_of_the_whole_masks() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask, other = np.zeros((9, 11), bool), rng.random((9, 11)) > 0.5
        mask[3:7, 2:6] = rng.random((4, 4)) > 0.4
        window = Window(3, 2, 4, 4)
        assert iou(mask[window.slices], other, window) == iou(mask, other)


@pytest.mark.parametrize("window", [None, Window(0, 0, 3, 3)], ids=["whole", "a window"])
def test_iou_needs_equal_shapes(window: Window | None) -> None:
    with pytest.raises(LabelError, match="same shape"):
        iou(np.ones((2, 2), bool), np.ones((3, 3), bool), window)


@pytest.mark.parametrize(
    ("filled", "expected"),
    [
        pytest.param([(2, 3, 5, 9)], Window(2, 3, 3, 6), id="one piece"),
        pytest.param([(0, 0, 1, 1), (8, 9, 9, 10)], Window(0, 0, 9, 10), id="two pieces"),
        pytest.param([(0, 0, 10, 12)], Window(0, 0, 10, 12), id="the whole image"),
        pytest.param([], Window(0, 0, 0, 0), id="nothing"),
    ],
)
def test_the_window_around_a_mask(filled: list[tuple[int, ...]], expected: Window) -> None:
    mask = np.zeros((10, 12), bool)
    for row0, col0, row1, col1 in filled:
        mask[row0:row1, col0:col1] = True
    assert Window.around(mask) == expected


def test_the_deepest_pixel_is_in_the_middle_of_the_thickest_piece() -> None:
    mask = np.zeros((20, 30), bool)
    mask[1:4, 1:4] = mask[8:17, 10:19] = True
    assert deepest_pixel(mask) == (12, 14)
    assert deepest_pixel(np.ones((5, 9), bool)) == (2, 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool], ids=lambda dtype: dtype.__name__)
def test_whole_numbers_are_labels(dtype: type) -> None:
    given = np.array([[0, 1], [1, 0]], dtype)
    found = check_labels(given, "a")
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(np.zeros((2, 2)), "a: labels must be whole numbers, got float64", id="float"),
        pytest.param(np.full((2, 2), -3), "a: labels must not be negative, got -3", id="negative"),
    ],
)
def test_other_arrays_are_no_labels(labels: np.ndarray, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        check_labels(labels, "a")
