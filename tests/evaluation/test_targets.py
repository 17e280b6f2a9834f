"""Clicks and boxes as an attentive user would place them."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.errors import LabelError
from napari_peftsam.evaluation import Target
from napari_peftsam.types import Box, Point


def mask(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def rectangle(row0: int, col0: int, row1: int, col1: int) -> np.ndarray:
    canvas = np.zeros((20, 30), bool)
    canvas[row0:row1, col0:col1] = True
    return canvas


@pytest.mark.parametrize(
    ("object_mask", "expected"),
    [
        pytest.param(rectangle(3, 4, 8, 9), (5, 6), id="square"),
        pytest.param(rectangle(3, 4, 6, 17), (4, 10), id="bar: the middle of its axis"),
        pytest.param(rectangle(0, 0, 5, 5), (2, 2), id="at the corner: the edge is border"),
        pytest.param(rectangle(7, 9, 8, 10), (7, 9), id="one pixel"),
        pytest.param(rectangle(0, 0, 20, 30), (9, 14), id="the whole image"),
        pytest.param(
            rectangle(1, 1, 4, 4) | rectangle(8, 10, 17, 19), (12, 14), id="the thicker piece"
        ),
        pytest.param(
            mask("#######", "#.....#", "#.....#", "#######"), (0, 3), id="never inside a hole"
        ),
    ],
)
def test_first_click(object_mask: np.ndarray, expected: tuple[int, int]) -> None:
    click = Target.from_mask(object_mask).first_click()
    assert click == Point(*expected, positive=True)
    assert object_mask[int(click.row), int(click.col)]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        pytest.param(rectangle(5, 5, 10, 10), None, id="no error"),
        pytest.param(rectangle(0, 0, 0, 0), Point(7, 7), id="all is missing"),
        pytest.param(rectangle(5, 5, 10, 7), Point(7, 8), id="the right part is missing"),
        pytest.param(
            rectangle(5, 5, 10, 10) | rectangle(12, 20, 15, 23),
            Point(13, 21, positive=False),
            id="excess elsewhere",
        ),
        pytest.param(
            rectangle(5, 5, 10, 9) | rectangle(12, 20, 15, 23),
            Point(13, 21, positive=False),
            id="more excess than missing",
        ),
        pytest.param(
            rectangle(5, 5, 10, 7) | rectangle(12, 20, 17, 23),
            Point(7, 8),
            id="as much: missing first",
        ),
        pytest.param(
            rectangle(5, 5, 10, 7) | rectangle(0, 20, 2, 25) | rectangle(9, 20, 11, 25),
            Point(7, 8),
            id="regions count one by one",
        ),
    ],
)
def test_next_click(predicted: np.ndarray, expected: Point | None) -> None:
    assert Target.from_mask(rectangle(5, 5, 10, 10)).next_click(predicted) == expected


def test_clicks_leave_their_masks_alone() -> None:
    true, predicted = rectangle(5, 5, 10, 10), rectangle(4, 4, 8, 8)
    Target.from_mask(true).next_click(predicted)
    assert true.sum() == 25
    assert predicted.sum() == 16


def test_clicks_always_lie_on_the_error() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        true, predicted = rng.random((2, 12, 15)) > 0.5
        click = Target.from_mask(true).next_click(predicted)
        assert click is not None
        at = int(click.row), int(click.col)
        assert true[at] is np.bool_(click.positive)
        assert predicted[at] != true[at]


@pytest.mark.parametrize(
    ("object_mask", "box"),
    [
        (rectangle(3, 4, 8, 9), Box(3, 4, 8, 9)),
        (rectangle(7, 9, 8, 10), Box(7, 9, 8, 10)),
        (rectangle(1, 1, 2, 2) | rectangle(18, 28, 20, 30), Box(1, 1, 20, 30)),
    ],
)
def test_tight_box(object_mask: np.ndarray, box: Box) -> None:
    assert Target.from_mask(object_mask).box == box


def test_an_empty_object_cannot_be_prompted() -> None:
    with pytest.raises(LabelError, match="empty"):
        Target.from_mask(np.zeros((4, 4), bool))
