"""Lines drawn by hand as prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_peftsam.errors import PromptError
from napari_peftsam.geometry import deepest_pixel
from napari_peftsam.types import Box, Point, Prompts

__all__ = ["lasso_prompts", "scribble_points"]

Path = Sequence[tuple[float, float]]
"""Positions ``(row, col)`` in pixel centres."""

_POINTS = 5  # of a scribble


def lasso_prompts(path: Path, shape: tuple[int, int]) -> Prompts:
    """Return the prompts of an object that a line goes around.

    They are the box around the line, and the point deepest inside: the prompt encoder of SAM
    knows points and boxes only.

    Raises
    ------
    PromptError
        If the line goes around no pixel of the plane.
    """
    from skimage.draw import polygon2mask

    corners = np.clip(np.asarray(path, float), 0, np.array(shape) - 1)
    (row0, col0), (row1, col1) = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    rows, cols = corners.T
    area = abs(rows @ np.roll(cols, 1) - cols @ np.roll(rows, 1)) / 2
    size = int(row1 - row0) + 1, int(col1 - col0) + 1
    inside = polygon2mask(size, corners - (row0, col0))
    if area < 1 or not inside.any():
        raise PromptError("the line goes around nothing: draw it around an object")
    row, col = deepest_pixel(inside)
    point = Point(float(row0 + row), float(col0 + col))
    return Prompts((point,), Box(row0, col0, row1 + 1, col1 + 1))


def scribble_points(path: Path, shape: tuple[int, int], *, positive: bool) -> tuple[Point, ...]:
    """Return points along a line, at most five and evenly spaced.

    Raises
    ------
    PromptError
        If the line lies outside the plane.
    """
    places = np.asarray(path, float)
    places = places[((places > -0.5) & (places < np.array(shape) - 0.5)).all(axis=1)]
    if not len(places):
        raise PromptError("the line lies outside the image: draw it on an object")
    steps = np.hypot(*np.diff(places, axis=0).T)
    way = np.concatenate([[0], np.cumsum(steps)])
    number = int(min(_POINTS, 1 + way[-1] // 2))  # at least two pixels apart
    at = (np.arange(number) + 0.5) / number * way[-1]
    rows, cols = (np.interp(at, way, axis) for axis in places.T)
    return tuple(Point(float(r), float(c), positive) for r, c in zip(rows, cols, strict=True))
