"""Label images from the logits of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_peftsam.embeddings import Embedding
from napari_peftsam.segmentation._resize import enlarged
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.types import Earlier, FloatArray, LabelArray, Prompts, Window

__all__ = ["RegionLabels", "logits_in_pixels", "segment"]


class RegionLabels:
    """Writer of objects' best candidates into a label array, part by part.

    Where objects overlap, a pixel goes to the one of the highest logit, the earlier one if
    they are equal: the order of the objects decides the numbers but not the shapes.

    Parameters
    ----------
    labels
        ``(H, W)`` signed integers, zero where there is no object, e.g. a zarr array.
    highest
        ``(H, W)`` float32 zeros, a scratch array: the logit by which a pixel got its label.
    corner
        Row and column in the plane where the arrays begin, if they are a part of it.
    """

    def __init__(self, labels: Any, highest: Any, corner: tuple[int, int] = (0, 0)) -> None:
        self._labels = labels
        self._highest = highest
        self._part = Window(*corner, *labels.shape)
        self._areas: dict[int, int] = {}

    def write(self, label: int, logits: FloatArray, window: Window) -> None:
        """Write `label` where this object's logit exceeds 0 and those of all earlier objects.

        Parameters
        ----------
        logits
            ``(h, w)`` of its best candidate in the pixels of `window`.
        """
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


def segment(predictor: Predictor, embedding: Embedding, prompts: Sequence[Prompts]) -> LabelArray:
    """Segment prompted objects of one tile into a label image, see `RegionLabels`.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` int32; object ``i`` of the list has label ``i + 1``, 0 is background.
        The label of an object without a pixel stays unused.
    """
    labels = np.zeros((embedding.frame.height, embedding.frame.width), np.int32)
    regions = RegionLabels(labels, np.zeros(labels.shape, np.float32))
    for label, best in enumerate(predictor.best_parts(embedding, prompts), start=1):
        regions.write(label, *best)
    return labels
