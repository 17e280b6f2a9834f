"""Which objects of a labelled data set are evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from napari_peftsam.errors import LabelError
from napari_peftsam.evaluation.prompts import Target
from napari_peftsam.normalisation import Limits
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["LabelledImage", "Selection", "select_objects", "targets_of"]

LabelledImage = tuple[str, PixelArray, LabelArray] | tuple[str, PixelArray, LabelArray, Limits]
"""Name, pixels ``(H, W[, 3])`` and instance labels ``(H, W)``; of a tile of a large image also
the intensity limits of the whole image."""


@dataclass(frozen=True)
class Selection:
    """Objects to evaluate.

    Attributes
    ----------
    labels
        By index of the image: the labels of its objects, ascending. Images without any
        are left out.
    skipped_small
        Objects left out because they are too small.
    """

    labels: dict[int, tuple[int, ...]]
    skipped_small: int

    @property
    def objects(self) -> int:
        """Number of objects."""
        return sum(len(labels) for labels in self.labels.values())


def select_objects(
    images: Sequence[LabelledImage], min_area: int, max_objects: int | None, seed: int
) -> Selection:
    """Select all objects of at least `min_area` pixels, or a random sample of them.

    Raises
    ------
    LabelError
        If labels are unusable or no object is left.
    """
    found: list[tuple[int, int]] = []
    skipped = 0
    for index in range(len(images)):
        name, pixels, labels, *_ = images[index]
        _check_labels(name, pixels, labels)
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
    return Selection(chosen, skipped)


def targets_of(labels: LabelArray, chosen: Sequence[int]) -> list[Target]:
    """Cut the objects with the labels `chosen` (ascending) out of a label image."""
    # Renumbered, because `find_objects` lists all numbers up to the largest label.
    if not len(chosen):
        return []
    wanted = np.asarray(chosen)
    index = np.searchsorted(wanted, labels).clip(max=len(wanted) - 1)
    numbered = np.where(wanted[index] == labels, index + 1, 0)
    return [
        Target(rows, cols, numbered[rows, cols] == number)
        for number, (rows, cols) in enumerate(ndimage.find_objects(numbered), start=1)
    ]


def _check_labels(name: str, pixels: PixelArray, labels: LabelArray) -> None:
    if labels.dtype.kind not in "iub":
        raise LabelError(f"{name}: labels must be integers, got {labels.dtype}")
    if labels.ndim != 2 or labels.shape != pixels.shape[:2]:
        raise LabelError(
            f"{name}: labels of shape {labels.shape} do not fit an image of shape "
            f"{pixels.shape}: give one label per pixel of one plane"
        )
    if labels.size and labels.min() < 0:
        raise LabelError(f"{name}: labels must not be negative, found {labels.min()}")


def _nothing_left(images: int, skipped: int, min_area: int) -> str:
    if not images:
        return "there is no labelled image to evaluate on: give at least one"
    if not skipped:
        return f"none of the {images} label images has an object: all their pixels are 0"
    return (
        f"all {skipped} labelled objects are smaller than {min_area} pixels: give images with "
        "larger ones, or lower the smallest area"
    )
