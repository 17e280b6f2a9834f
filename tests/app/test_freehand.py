"""Lines drawn by hand as prompts."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.app.freehand import lasso_prompts, scribble_points
from napari_peftsam.errors import PromptError

SHAPE = (40, 50)
CIRCLE = [(20 + 8 * np.sin(a), 25 + 8 * np.cos(a)) for a in np.linspace(0, 6, 30)]


def test_a_lasso_is_a_box_and_the_point_deepest_inside() -> None:
    prompts = lasso_prompts(CIRCLE, SHAPE)
    assert prompts.box is not None
    assert prompts.box.as_tuple() == pytest.approx((12, 17, 29, 34), abs=1)
    [point] = prompts.points
    assert point.positive
    assert np.hypot(point.row - 20, point.col - 25) < 2


def test_a_lasso_is_cut_off_at_the_edges() -> None:
    prompts = lasso_prompts([(row - 20, col - 25) for row, col in CIRCLE], SHAPE)
    assert prompts.box is not None
    assert (prompts.box.row0, prompts.box.col0) == (0, 0)
    prompts.check_inside(SHAPE)


@pytest.mark.parametrize(
    "path", [[(3, 3), (3, 9)], [(90, 90), (95, 90), (95, 95)]], ids=["a line", "outside"]
)
def test_a_lasso_goes_around_something(path: list[tuple[float, float]]) -> None:
    with pytest.raises(PromptError, match="goes around nothing"):
        lasso_prompts(path, SHAPE)


def test_a_scribble_is_evenly_spaced_points() -> None:
    points = scribble_points([(10, 5), (10, 9), (10, 25)], SHAPE, positive=True)
    assert [(p.row, p.col) for p in points] == [(10, col) for col in (7, 11, 15, 19, 23)]
    assert all(p.positive for p in points)


def test_a_short_scribble_is_one_point() -> None:
    [point] = scribble_points([(10, 5), (10, 6)], SHAPE, positive=False)
    assert (point.row, point.col, point.positive) == (10, 5.5, False)


def test_what_is_drawn_outside_is_left_out() -> None:
    points = scribble_points([(-5, 10), (-1, 10), (3, 10), (9, 10)], SHAPE, positive=True)
    assert all(0 <= p.row <= 9 for p in points)
    with pytest.raises(PromptError, match="outside the image"):
        scribble_points([(-5, 10), (-1, 10)], SHAPE, positive=True)


def test_the_point_of_a_large_lasso_is_deep_inside() -> None:
    corners = [
        (0.0, 0.0),
        (0.0, 1000.0),
        (1000.0, 1000.0),
        (1000.0, 700.0),
        (300.0, 700.0),
        (300.0, 0.0),
    ]
    [point] = lasso_prompts(corners, (1200, 1200)).points
    assert abs(point.row - 176) < 10  # where the two bars of the angle meet
    assert abs(point.col - 824) < 10
