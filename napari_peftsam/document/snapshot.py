"""An image's objects as they were at one moment, for other threads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from napari_peftsam.document.records import Index
from napari_peftsam.document.regions import Integers, Region
from napari_peftsam.types import LabelArray, Window

__all__ = ["Snapshot"]


class Snapshot:
    """Objects of an image as they were when it was taken; labels are copied when they are read.

    Taking one copies no pixels. Read it in any thread, without a lock: as long as it lives, the
    image notes here what it is about to write over. A stroke whose button is still held down
    is not noted yet.

    Parameters
    ----------
    labels
        The image's own ``(..., H, W)`` arrays by label set, background included.
    regions
        Of its objects by label; not changed any more.
    """

    def __init__(self, labels: Mapping[str, LabelArray], regions: Mapping[int, Region]) -> None:
        self._labels, self._regions = labels, regions
        self._written: list[tuple[str, Integers, int | LabelArray]] = []

    def note(self, label_set: str, where: Integers, old: int | LabelArray) -> None:
        """Keep what is about to be written over at N flat positions: one label, or ``(N,)``."""
        self._written.append((label_set, where, old))

    @property
    def label_sets(self) -> tuple[str, ...]:
        """The label sets that can be read."""
        return tuple(self._labels)

    def window(self, label: int) -> Window:
        """Return a window that holds an object in all planes."""
        return Window.from_slices(*self._regions[label][-2:])

    def labels(self, label_set: str, index: Index, window: Window) -> LabelArray:
        """Return a copy ``(h, w)`` of a window of a plane."""
        array = self._labels[label_set]
        copied: LabelArray = array[index][window.slices].copy()
        # All that the copy may have of later changes is noted by now: notes come first.
        for changed, where, old in reversed(self._written[:]):
            if changed != label_set:
                continue
            *leading, rows, cols = np.unravel_index(where, array.shape)
            rows, cols = rows - window.row, cols - window.col
            inside = (rows >= 0) & (rows < window.height) & (cols >= 0) & (cols < window.width)
            for axis, position in zip(leading, index, strict=True):
                inside &= axis == position
            copied[rows[inside], cols[inside]] = np.broadcast_to(old, where.shape)[inside]
        return copied
