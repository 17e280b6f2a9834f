"""Prompts a user would give, simulated from true masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from napari_peftsam.errors import LabelError
from napari_peftsam.types import BoolArray, Box, Point

__all__ = ["Target", "first_click", "next_click", "tight_box"]

_TOUCHING = np.ones((3, 3), bool)  # pixels that share a corner are connected


@dataclass(frozen=True, eq=False)
class Target:
    """A true object in its bounding window: all work on it is done there.

    Attributes
    ----------
    rows, cols
        The bounding window in the image.
    mask
        ``(rows, cols)`` of the window; not empty.
    """

    rows: slice
    cols: slice
    mask: BoolArray = field(repr=False)

    @classmethod
    def from_mask(cls, mask: BoolArray) -> Target:
        """Cut an object out of a mask ``(H, W)``.

        Raises
        ------
        LabelError
            If the mask is empty.
        """
        window = _bounds(mask)
        if window is None:
            raise LabelError("the object's mask is empty: there is nothing to prompt")
        return cls(*window, mask[window].astype(bool))

    @property
    def box(self) -> Box:
        """The tight bounding box, in pixel edges."""
        return Box(self.rows.start, self.cols.start, self.rows.stop, self.cols.stop)

    def first_click(self) -> Point:
        """Return the first click, see `first_click`."""
        row, col = _deepest(self.mask)
        return Point(row + self.rows.start, col + self.cols.start)

    def next_click(self, predicted: BoolArray) -> Point | None:
        """Return the correcting click for a predicted mask ``(H, W)``, see `next_click`."""
        inside = predicted[self.rows, self.cols]
        missing = self.mask & ~inside
        excess = predicted.copy()
        excess[self.rows, self.cols] = inside & ~self.mask
        missing_size, missing_at = _largest_region(missing)
        excess_size, excess_at = _largest_region(excess)
        if missing_size == excess_size == 0:
            return None
        if missing_size >= excess_size:
            row, col = missing_at
            return Point(row + self.rows.start, col + self.cols.start)
        return Point(*excess_at, positive=False)

    def iou(self, predicted: BoolArray) -> float:
        """Return the intersection over union with a predicted mask ``(H, W)``."""
        overlap = np.count_nonzero(predicted[self.rows, self.cols] & self.mask)
        return overlap / (np.count_nonzero(predicted) + np.count_nonzero(self.mask) - overlap)


def first_click(mask: BoolArray) -> Point:
    """Return a positive click on the pixel of an object farthest from its border.

    The distance is Euclidean; the image's edge counts as border, since an object that is
    cut off there is clicked where it can be seen. Of equally far pixels the one nearest
    to their common centre is taken, then the uppermost, then the leftmost.

    Parameters
    ----------
    mask
        ``(H, W)``; an object in several pieces is clicked in the thickest one.

    Raises
    ------
    LabelError
        If the mask is empty.
    """
    return Target.from_mask(mask).first_click()


def next_click(mask: BoolArray, predicted: BoolArray) -> Point | None:
    """Return the click that corrects the largest error, or None if there is none.

    The largest connected region (8 neighbours) of missing or of excess pixels is clicked
    at its pixel farthest from its border: positive where the object is missing, negative
    where the mask is too large; of two regions of equal size the missing one.

    Parameters
    ----------
    mask, predicted
        ``(H, W)``.

    Raises
    ------
    LabelError
        If the true mask is empty.
    """
    return Target.from_mask(mask).next_click(predicted)


def tight_box(mask: BoolArray) -> Box:
    """Return the smallest box around an object, in pixel edges.

    Raises
    ------
    LabelError
        If the mask is empty.
    """
    return Target.from_mask(mask).box


def _bounds(mask: BoolArray) -> tuple[slice, slice] | None:
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    first, end = int(rows[0]), int(rows[-1]) + 1
    cols = np.flatnonzero(mask[first:end].any(axis=0))
    return slice(first, end), slice(int(cols[0]), int(cols[-1]) + 1)


def _deepest(mask: BoolArray) -> tuple[int, int]:
    """Return the pixel farthest from the background; outside of `mask` is background."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    ties = np.argwhere(depth >= depth.max() - 1e-6)
    offsets = ((ties - ties.mean(axis=0)) ** 2).sum(axis=1)
    row, col = ties[int(np.argmin(np.round(offsets, 6)))]
    return int(row), int(col)


def _largest_region(errors: BoolArray) -> tuple[int, tuple[int, int]]:
    """Return size and deepest pixel of the largest connected region; size 0 if none."""
    window = _bounds(errors)
    if window is None:
        return 0, (0, 0)
    regions, _ = ndimage.label(errors[window], _TOUCHING)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    largest = int(np.argmax(sizes))
    rows, cols = ndimage.find_objects(regions, largest)[largest - 1]
    row, col = _deepest(regions[rows, cols] == largest)
    return int(sizes[largest]), (
        row + rows.start + window[0].start,
        col + cols.start + window[1].start,
    )
