"""True objects: chosen from labelled images, and prompted as a user would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from napari_peftsam.errors import LabelError
from napari_peftsam.geometry import check_labels, deepest_pixel, iou
from napari_peftsam.normalisation import Limits
from napari_peftsam.types import BoolArray, Box, LabelArray, PixelArray, Point, Window

__all__ = ["LabelledImage", "Target"]

LabelledImage = tuple[str, PixelArray, LabelArray] | tuple[str, PixelArray, LabelArray, Limits]
"""Name, pixels ``(H, W[, 3])`` and instance labels ``(H, W)``; of a tile of a large image also
the intensity limits of the whole image."""

_TOUCHING = np.ones((3, 3), bool)  # pixels that share a corner are connected


@dataclass(frozen=True, eq=False)
class Target:
    """A true object: its bounding window in the image, and its mask there, not empty."""

    window: Window
    mask: BoolArray = field(repr=False)

    @classmethod
    def from_mask(cls, mask: BoolArray) -> Target:
        """Cut an object out of a mask ``(H, W)``; it may be in several pieces.

        Raises
        ------
        LabelError
            If the mask is empty.
        """
        window = Window.around(mask)
        if not window:
            raise LabelError("the object's mask is empty: there is nothing to prompt")
        return cls(window, mask[window.slices].astype(bool))

    @property
    def box(self) -> Box:
        """The tight bounding box, in pixel edges."""
        return Box(self.window.row, self.window.col, *self.window.stop)

    def first_click(self) -> Point:
        """Return a positive click on the deepest pixel, see `deepest_pixel`."""
        row, col = deepest_pixel(self.mask)
        return Point(row + self.window.row, col + self.window.col)

    def next_click(self, predicted: BoolArray) -> Point | None:
        """Return the click that corrects the largest error of a mask ``(H, W)``, if any.

        The largest connected region (8 neighbours) of missing or of excess pixels is clicked at
        its deepest pixel: positive where the object is missing, negative where the mask is too
        large; of two regions of equal size the missing one.
        """
        inside = predicted[self.window.slices]
        excess = predicted.copy()
        excess[self.window.slices] = inside & ~self.mask
        missing_size, missing_at = _largest_region(self.mask & ~inside)
        excess_size, excess_at = _largest_region(excess)
        if missing_size == excess_size == 0:
            return None
        if missing_size >= excess_size:
            row, col = missing_at
            return Point(row + self.window.row, col + self.window.col)
        return Point(*excess_at, positive=False)

    def iou(self, predicted: BoolArray) -> float:
        """Return the intersection over union with a predicted mask ``(H, W)``."""
        return iou(self.mask, predicted, self.window)


def _largest_region(errors: BoolArray) -> tuple[int, tuple[int, int]]:
    """Return size and deepest pixel of the largest connected region; size 0 if none."""
    window = Window.around(errors)
    if not window:
        return 0, (0, 0)
    regions, _ = ndimage.label(errors[window.slices], _TOUCHING)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    largest = int(np.argmax(sizes))
    rows, cols = ndimage.find_objects(regions, largest)[largest - 1]
    row, col = deepest_pixel(regions[rows, cols] == largest)
    return int(sizes[largest]), (row + rows.start + window.row, col + cols.start + window.col)


def select_objects(
    images: Sequence[LabelledImage], min_area: int, max_objects: int | None, seed: int
) -> tuple[dict[int, tuple[int, ...]], int]:
    """Select all objects of at least `min_area` pixels, or a random sample of them.

    Returns
    -------
    dict
        Ascending labels by index of the image; images without an object are left out.
    int
        Number of objects that are too small.

    Raises
    ------
    LabelError
        If labels are unusable or no object is left.
    """
    found: list[tuple[int, int]] = []
    skipped = 0
    for index in range(len(images)):
        name, pixels, labels, *_ = images[index]
        check_labels(labels, name)
        if labels.ndim != 2 or labels.shape != pixels.shape[:2]:
            raise LabelError(
                f"{name}: labels of shape {labels.shape} do not fit an image of shape "
                f"{pixels.shape}: give one label per pixel of one plane"
            )
        values, areas = np.unique(labels[labels > 0], return_counts=True)
        found += [(index, int(value)) for value in values[areas >= min_area]]
        skipped += int(np.count_nonzero(areas < min_area))
    if not found:
        raise LabelError(_nothing_left(len(images), skipped, min_area))
    if max_objects is not None and len(found) > max_objects:
        order = np.random.default_rng(seed).choice(len(found), max_objects, replace=False)
        found = [found[i] for i in sorted(order)]
    chosen: dict[int, tuple[int, ...]] = {}
    for index, label in found:
        chosen[index] = (*chosen.get(index, ()), label)
    return chosen, skipped


def _nothing_left(images: int, skipped: int, min_area: int) -> str:
    if not images:
        return "there is no labelled image to evaluate on: give at least one"
    if not skipped:
        return f"none of the {images} label images has an object: all their pixels are 0"
    return (
        f"all {skipped} labelled objects are smaller than {min_area} pixels: give images with "
        "larger ones, or lower the smallest area"
    )


def targets_of(labels: LabelArray, chosen: Sequence[int]) -> list[Target]:
    """Cut the objects with the labels `chosen` (ascending, at least one) out of a label image."""
    # Renumbered, because `find_objects` lists all numbers up to the largest label.
    wanted = np.asarray(chosen)
    index = np.searchsorted(wanted, labels).clip(max=len(wanted) - 1)
    numbered = np.where(wanted[index] == labels, index + 1, 0)
    return [
        Target(Window.from_slices(*slices), numbered[slices] == number)
        for number, slices in enumerate(ndimage.find_objects(numbered), start=1)
    ]
