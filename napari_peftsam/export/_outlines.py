"""Outlines of objects along the edges of their pixels, valid and exact, holes included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from napari_peftsam.geometry import object_windows
from napari_peftsam.types import BoolArray, LabelArray

__all__ = ["outlines", "path_through_holes", "polygons_of", "rings_of"]


def outlines(plane: LabelArray) -> Iterator[tuple[int, Any]]:
    """Yield each label of a plane ``(H, W)`` with its outline.

    The outline is a shapely polygon, or several, whose ``(x, y)`` run along the edges of
    pixels: the pixel in row 0 and column 0 covers 0 to 1.
    """
    for label, window in object_windows(plane).items():
        row, col = (part.start for part in window)
        yield label, _outline(plane[window] == label, row, col)


def _outline(mask: BoolArray, row: int, col: int) -> Any:
    import shapely

    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    boxes = shapely.box(starts + col, rows + row, stops + col, rows + row + 1)
    return shapely.normalize(shapely.union_all(boxes))


def polygons_of(outline: Any) -> list[Any]:
    """Return the polygons of an outline, the largest first."""
    parts = list(outline.geoms) if outline.geom_type == "MultiPolygon" else [outline]
    return sorted(parts, key=lambda part: -part.area)


def rings_of(outline: Any) -> list[Any]:
    """Return all rings of an outline as ``(N, 2)`` arrays of x and y, without the repeated end."""
    rings = []
    for part in polygons_of(outline):
        for ring in (part.exterior, *part.interiors):
            rings.append(np.asarray(ring.coords)[:-1])  # noqa: PERF401  # two loops
    return rings


def path_through_holes(outline: Any) -> Any:
    """Return one closed path ``(N, 2)`` around all parts and holes, for formats without either.

    It leads to each further ring and back on the same line, so that the even-odd rule gives
    the same pixels.
    """
    rings = rings_of(outline)
    path = rings[0]
    for ring in rings[1:]:
        distances = ((path[:, None] - ring[None]) ** 2).sum(-1)
        here, there = np.unravel_index(int(np.argmin(distances)), distances.shape)
        detour = np.concatenate([np.roll(ring, -there, axis=0), ring[there : there + 1]])
        path = np.concatenate([path[: here + 1], detour, path[here:]])
    return path
