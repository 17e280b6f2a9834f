"""Masks as people want them: the piece that was asked for, without holes and specks; smooth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_peftsam.types import BoolArray, Point, Prediction, Prompts

_LARGEST_HOLE = 0.05  # of the area; larger ones belong to the shape, as in a ring


def clean_prediction(prediction: Prediction, prompts: Prompts, smooth: int = 0) -> Prediction:
    """Return the same candidates, each cleaned; slow for large ones."""
    small = prediction.trimmed()
    masks = [clean_mask(mask, prompts.points, small.offset, smooth) for mask in small.masks]
    return replace(small, masks=np.stack(masks))


def clean_mask(
    mask: BoolArray,
    points: tuple[Point, ...] = (),
    offset: tuple[int, int] = (0, 0),
    smooth: int = 0,
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
    smooth
        Radius in pixels below which bumps and notches are rounded off; 0: not. The area stays,
        and so does a mask in whose notch somebody said that it is not on the object.
    """
    from scipy import ndimage

    if not mask.any():
        return mask
    piece = _asked_for(mask, points, offset)
    holes, number = ndimage.label(ndimage.binary_fill_holes(piece) & ~piece)
    if number:
        sizes = np.bincount(holes.ravel())
        small = sizes <= _LARGEST_HOLE * np.count_nonzero(piece)
        small[[0, *(_at(holes, point, offset) for point in points if not point.positive)]] = False
        piece |= small[holes]
    if smooth:
        rounded = _asked_for(_smoothed(piece, smooth), points, offset)
        denied = (_at(rounded & ~piece, point, offset) for point in points if not point.positive)
        piece = piece if any(denied) else rounded
    return piece


def _asked_for(mask: BoolArray, points: tuple[Point, ...], offset: tuple[int, int]) -> BoolArray:
    """Return the pieces of a mask that were clicked on, else the largest."""
    from scipy import ndimage

    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
    kept = {_at(pieces, point, offset) for point in points if point.positive} - {0}
    if not kept:
        kept = {int(np.bincount(pieces.ravel())[1:].argmax()) + 1}
    found: BoolArray = np.isin(pieces, sorted(kept))
    return found


def _smoothed(mask: BoolArray, radius: int) -> BoolArray:
    """Return the pixels in which the blurred mask is highest, about as many as it has."""
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(mask.astype(np.float32), radius, mode="constant")
    rank = blurred.size - np.count_nonzero(mask)
    lowest = np.partition(blurred, rank, axis=None)[rank]
    smooth: BoolArray = blurred > lowest  # or else a line becomes a band of equal pixels
    return smooth if smooth.any() else blurred >= lowest


def _at(numbers: BoolArray, point: Point, offset: tuple[int, int]) -> int:
    """Return the number at a point, 0 outside."""
    row, col = round(point.row) - offset[0], round(point.col) - offset[1]
    inside = 0 <= row < numbers.shape[0] and 0 <= col < numbers.shape[1]
    return int(numbers[row, col]) if inside else 0
