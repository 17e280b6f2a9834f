"""A label image too large for memory, written object by object where they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_peftsam.segmentation._resize import enlarged
from napari_peftsam.types import Earlier, FloatArray, Window

__all__ = ["RegionLabels", "logits_in_pixels"]


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
    corner
        Row and column in the plane where the arrays begin, if they are a part of it.
    """

    def __init__(
        self, labels: Any, highest: Any, stride: int, corner: tuple[int, int] = (0, 0)
    ) -> None:
        self._labels = labels
        self._highest = highest
        self._stride = stride
        self._part = Window(*corner, *labels.shape)
        self._areas: dict[int, int] = {}

    def write(self, label: int, best: Earlier) -> None:
        """Give the pixels of an object, unless others have a better claim, to `label`.

        Parameters
        ----------
        best
            The logits of its best candidate, see `Prediction.earlier`.
        """
        logits, window = logits_in_pixels(best, self._stride)
        visible = window & self._part
        logits = logits[visible.seen_from(window).slices]
        here = visible.seen_from(self._part).slices
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


def logits_in_pixels(decoded: Earlier, stride: int) -> tuple[FloatArray, Window]:
    """Return the part ``(h, w)`` of a candidate's logits that is above 0, and where it is.

    It may reach over the end of the plane by less than `stride` pixels.
    """
    logits, corner = enlarged(decoded.logits[None], stride)
    row, col = (a + b for a, b in zip(decoded.offset, corner, strict=True))
    return logits[0], Window(row, col, *logits.shape[1:])
