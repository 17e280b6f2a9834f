"""Parts of an image of which more is known than its objects: complete ones, and background."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from napari_peftsam.app.freehand import Line, line_pixels
from napari_peftsam.document import (
    CompleteRegion,
    DocumentImage,
    MarkComplete,
    PaintBackground,
    PlaneKey,
    Snapshot,
)
from napari_peftsam.document.records import BACKGROUND, Index
from napari_peftsam.errors import PromptError
from napari_peftsam.types import BoolArray, Box, Window


def known_background(
    image: DocumentImage, plane: PlaneKey, window: Window | None = None
) -> BoolArray | None:
    """Return ``(H, W)``: the pixels that are known to hold no object; None if nothing is known.

    They are those that strokes declare background, and what is unlabelled in complete regions.
    With a window, return its pixels ``(h, w)`` only.
    """
    return background_in(image.snapshot(), image.info.complete, plane.index, window or image.window)


def background_in(
    taken: Snapshot, complete: Sequence[CompleteRegion], index: Index, window: Window
) -> BoolArray | None:
    """Return `known_background` of a snapshot with these complete regions; in any thread."""
    known = np.zeros(window.shape, np.bool_)
    for region in complete:
        if region.index in (None, index):
            known |= _inside(region, window)
    if BACKGROUND in taken.label_sets:
        known |= taken.labels(BACKGROUND, index, window) > 0
    if not known.any():
        return None
    for label_set in taken.label_sets:
        if label_set != BACKGROUND:
            known &= taken.labels(label_set, index, window) == 0
    return known


def regions_at(
    image: DocumentImage, plane: PlaneKey, row: float, col: float
) -> tuple[CompleteRegion, ...]:
    """Return the complete regions that hold a position."""
    at = Window(round(row), round(col), 1, 1)
    if not at & Window(0, 0, *image.plane_shape):
        return ()
    found = (r for r in image.info.complete if r.index in (None, plane.index))
    return tuple(r for r in found if _inside(r, at).all())


def complete_area(plane: PlaneKey, path: Line, *, is_rectangle: bool) -> MarkComplete:
    """Return the action that declares complete what a line goes around.

    Parameters
    ----------
    path
        The line; of a rectangle its first and last position are opposite corners.
    """
    around = window_around(path)
    if not is_rectangle:
        outline = tuple((float(row), float(col)) for row, col in path)
        return MarkComplete(plane.image, CompleteRegion(plane.index, outline=outline))
    box = Box(float(around.row), float(around.col), *map(float, around.stop))
    return MarkComplete(plane.image, CompleteRegion(plane.index, box))


def window_around(path: Line) -> Window:
    """Return the rectangle whose opposite corners are the first and last position of a line.

    Raises
    ------
    PromptError
        If the line goes around less than a pixel.
    """
    places = np.asarray(path, float)
    if (np.ptp(places, axis=0) < 1).any():
        raise PromptError("the line goes around nothing: draw it around a part of the image")
    (row0, col0), (row1, col1) = np.sort(places[[0, -1]], axis=0)
    top, left, bottom, right = (round(value) for value in (row0, col0, row1 + 1, col1 + 1))
    return Window(top, left, bottom - top, right - left)


def background_stroke(
    image: DocumentImage, plane: PlaneKey, path: Line, radius: float, *, is_background: bool
) -> PaintBackground:
    """Return the action that declares pixels around a line background, or revokes that.

    Raises
    ------
    PromptError
        If the line lies outside the plane.
    """
    from scipy.ndimage import distance_transform_edt

    drawn = line_pixels(path)
    reach = int(np.ceil(radius))
    low, high = drawn.min(axis=0) - reach, drawn.max(axis=0) + reach + 1
    around = np.ones(high - low, np.bool_)
    around[tuple((drawn - low).T)] = False
    near = distance_transform_edt(around) < radius
    window = Window(*map(int, low), *map(int, high - low))
    inside = window & Window(0, 0, *image.plane_shape)
    touched = near[inside.seen_from(window).slices]
    where = image.positions(plane, touched, (inside.row, inside.col))
    if not len(where):
        raise PromptError("the line lies outside the image: draw it on the background")
    return PaintBackground(image.id, where, is_background)


def _inside(region: CompleteRegion, window: Window) -> BoolArray:
    """Return ``(h, w)``: the pixels of a window in a plane that lie in a region."""
    if not region.outline and region.box is None:
        return np.ones(window.shape, np.bool_)
    if region.box is None or region.outline:
        around, mask = _filled(region.outline)
    else:
        row0, col0, row1, col1 = map(round, region.box.as_tuple())
        around = Window(row0, col0, row1 - row0, col1 - col0)
        mask = np.broadcast_to(True, around.shape)
    inside = np.zeros(window.shape, np.bool_)
    part = around & window
    if part:
        inside[part.seen_from(window).slices] = mask[part.seen_from(around).slices]
    return inside


@lru_cache(maxsize=4)  # a lasso 1,200 pixels across takes 1 s, and every stroke asks for it
def _filled(outline: tuple[tuple[float, float], ...]) -> tuple[Window, BoolArray]:
    """Return the window around an outline, and its pixels ``(h, w)`` that lie inside."""
    from skimage.draw import polygon2mask

    places = np.array(outline)
    low, high = np.floor(places.min(axis=0)), np.ceil(places.max(axis=0)) + 1
    window = Window(*low.astype(int).tolist(), *(high - low).astype(int).tolist())
    return window, polygon2mask(window.shape, places - low)
