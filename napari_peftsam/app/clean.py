"""Masks as people want them: the piece that was asked for, without holes and specks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_peftsam.types import BoolArray, Point, Prediction, Prompts

__all__ = ["clean_mask", "clean_prediction"]

_LARGEST_HOLE = 0.05  # of the area; larger ones belong to the shape, as in a ring


def clean_prediction(prediction: Prediction, prompts: Prompts) -> Prediction:
    """Return the same candidates, each cleaned; slow for large ones."""
    small = prediction.trimmed()
    masks = [clean_mask(mask, prompts.points, small.offset) for mask in small.masks]
    return replace(small, masks=np.stack(masks))


def clean_mask(
    mask: BoolArray, points: tuple[Point, ...] = (), offset: tuple[int, int] = (0, 0)
) -> BoolArray:
    """Return the pieces of a mask that were clicked on, without small holes.

    Without a click on it, the largest piece is kept.

    Parameters
    ----------
    mask
        ``(h, w)``, a part of a plane.
    points
        Prompts in the plane; a hole with a negative one stays.
    offset
        Row and column in the plane of the first pixel of `mask`.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return mask
    kept = {_at(pieces, point, offset) for point in points if point.positive} - {0}
    if not kept:
        kept = {int(np.bincount(pieces.ravel())[1:].argmax()) + 1}
    piece: BoolArray = np.isin(pieces, sorted(kept))
    holes, number = ndimage.label(ndimage.binary_fill_holes(piece) & ~piece)
    if number:
        sizes = np.bincount(holes.ravel())
        small = sizes <= _LARGEST_HOLE * np.count_nonzero(piece)
        small[[0, *(_at(holes, point, offset) for point in points if not point.positive)]] = False
        piece |= small[holes]
    return piece


def _at(numbers: BoolArray, point: Point, offset: tuple[int, int]) -> int:
    """Return the number at a point, 0 outside."""
    row, col = round(point.row) - offset[0], round(point.col) - offset[1]
    inside = 0 <= row < numbers.shape[0] and 0 <= col < numbers.shape[1]
    return int(numbers[row, col]) if inside else 0
