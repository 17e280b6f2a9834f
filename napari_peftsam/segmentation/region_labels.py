"""A label image too large for memory, written object by object where they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_peftsam.segmentation._resize import enlarged
from napari_peftsam.types import Prediction, Window

__all__ = ["RegionLabels"]


class RegionLabels:
    """Writes the best candidates of objects into a label array, reading and writing parts.

    As in `segment`, a pixel goes to the object of the highest logit, the earlier one if
    they are equal: the order of the objects decides the numbers but not the shapes.

    Parameters
    ----------
    labels
        ``(H, W)`` signed integers, zero where there is no object, e.g. a zarr array.
    highest
        ``(H, W)`` float32 zeros, a scratch array: the logit by which a pixel got its label.
    stride
        Pixels per logit, see `TileGrid.stride`.
    """

    def __init__(self, labels: Any, highest: Any, stride: int) -> None:
        self._labels = labels
        self._highest = highest
        self._stride = stride
        self._areas: dict[int, int] = {}

    def write(self, label: int, prediction: Prediction) -> None:
        """Give the pixels of an object, unless others have a better claim, to `label`."""
        logits, corner = enlarged(prediction.logits[:1], self._stride)
        row, col = (a + b for a, b in zip(prediction.logits_offset, corner, strict=True))
        image = Window(0, 0, *self._labels.shape)
        window = Window(row, col, *logits.shape[1:]) & image
        logits = logits[0, : window.height, : window.width]
        here = window.slices
        known = np.asarray(self._highest[here])
        higher = logits > known  # logit 0 is where background begins
        labels = np.asarray(self._labels[here])
        lost, counts = np.unique(labels[higher], return_counts=True)
        for other, count in zip(lost.tolist(), counts.tolist(), strict=True):
            self._areas[other] = self._areas.get(other, 0) - count
        self._areas[label] = self._areas.get(label, 0) + int(np.count_nonzero(higher))
        if higher.any():
            self._labels[here] = np.where(higher, label, labels)
            self._highest[here] = np.where(higher, logits, known)

    def area(self, label: int) -> int:
        """Return how many pixels an object has now."""
        return self._areas.get(label, 0)
