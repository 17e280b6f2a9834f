"""Overlap and deepest point of masks, and the check of labels; numpy only until scipy is needed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from napari_peftsam.errors import LabelError
from napari_peftsam.types import BoolArray, LabelArray, PixelArray, Window


def iou(mask: BoolArray, other: BoolArray, window: Window | None = None) -> float:
    """Return the intersection over union of two masks; 1 if both are empty.

    Parameters
    ----------
    mask
        ``(H, W)``, or the part of it in `window`, where all of its pixels are.
    other
        ``(H, W)``.
    window
        Place of `mask` in `other`; default: they have the same shape.

    Raises
    ------
    LabelError
        If their shapes differ.
    """
    part = other if window is None else other[window.slices]
    if mask.shape != part.shape:
        raise LabelError(
            f"cannot compare {mask.shape} with {part.shape} pixels: give arrays of the same shape"
        )
    overlap = np.count_nonzero(mask & part)
    union = np.count_nonzero(mask) + np.count_nonzero(other) - overlap
    return overlap / union if union else 1.0


def deepest_pixel(mask: BoolArray) -> tuple[int, int]:
    """Return row and column of the pixel of a mask ``(H, W)`` farthest from its border.

    The distance is Euclidean; the edge of the array counts as border, since an object that is
    cut off there is clicked where it can be seen. Of equally far pixels the one nearest to
    their common centre is taken, then the uppermost, then the leftmost.
    """
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    ties = np.argwhere(depth >= depth.max() - 1e-6)
    offsets = ((ties - ties.mean(axis=0)) ** 2).sum(axis=1)
    row, col = ties[int(np.argmin(np.round(offsets, 6)))]
    return int(row), int(col)


def object_windows(plane: LabelArray) -> dict[int, tuple[slice, slice]]:
    """Return the rows and columns around each object of a plane ``(H, W)``, by ascending label."""
    from scipy import ndimage

    # find_objects makes a list of all numbers up to the highest, so they are counted anew.
    numbers = np.unique(plane[plane > 0])
    dense = np.where(plane > 0, np.searchsorted(numbers, plane) + 1, 0)
    return dict(zip(numbers.tolist(), ndimage.find_objects(dense), strict=True))


def sizes(shape: Iterable[int]) -> str:
    """Return a shape in words: ``3 x 40 x 50``."""
    return " x ".join(map(str, shape))


def check_labels(array: PixelArray, name: str) -> LabelArray:
    """Return an array of any shape as labels (booleans as 0 and 1).

    Parameters
    ----------
    array
        Instance labels; 0 is unlabelled.
    name
        Name of the array in messages.

    Raises
    ------
    LabelError
        If they are not whole numbers of at least 0.
    """
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind not in "iu":
        raise LabelError(
            f"{name}: labels must be whole numbers, got {array.dtype}: save them as an integer "
            "image, one number per object and 0 where there is none"
        )
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise LabelError(
            f"{name}: labels must not be negative, got {array.min()}: use 0 where there is none"
        )
    return array


def flattened(sets: Iterable[LabelArray]) -> LabelArray:
    """Return label sets of one shape as one, that of smaller objects on top, as nuclei in cells."""

    def size(labels: LabelArray) -> float:
        inside = labels[labels > 0]
        return inside.size / max(1, len(np.unique(inside)))

    every = list(sets)
    first, *others = sorted(every, key=size, reverse=True) if len(every) > 1 else every
    for each in others:
        first = np.where(each > 0, each, first)
    return first
