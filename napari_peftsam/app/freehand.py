"""Lines drawn by hand, their pixels, and what they are as prompts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from napari_peftsam.errors import PromptError
from napari_peftsam.geometry import deepest_pixel
from napari_peftsam.types import Box, LabelArray, Point, Prompts

Line = Sequence[tuple[float, float]]
"""Positions ``(row, col)`` in pixel centres along a line."""

_POINTS = 5  # of a scribble
_ACROSS = 200  # pixels across an area among which the deepest is sought, in 30 ms; 1,400 took 1.6 s


def line_pixels(path: Line) -> LabelArray:
    """Return ``(N, 2)``: rows and columns of the pixels of a line; some may lie outside."""
    from skimage.draw import line

    corners = np.round(np.asarray(path, float)).astype(int)
    return np.concatenate(
        [np.stack(line(*begin, *end), axis=1) for begin, end in pairwise([corners[0], *corners])]
    )


def lasso_prompts(path: Line, shape: tuple[int, int]) -> Prompts:
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
    size = np.array([row1 - row0, col1 - col0])
    # Every n-th pixel of a large area does: those inside are inside for certain.
    for step in (max(1, int(-(-size.max() // _ACROSS))), 1):
        inside = polygon2mask(tuple(size.astype(int) // step + 1), (corners - (row0, col0)) / step)
        if inside.any():
            break
    if area < 1 or not inside.any():
        raise PromptError("the line goes around nothing: draw it around an object")
    row, col = deepest_pixel(inside)
    point = Point(float(row0 + row * step), float(col0 + col * step))
    return Prompts((point,), Box(row0, col0, row1 + 1, col1 + 1))


def scribble_points(path: Line, shape: tuple[int, int], *, positive: bool) -> tuple[Point, ...]:
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
