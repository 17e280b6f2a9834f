"""Bounding regions and pixel counts of labels, which keep edits local, and snapshots of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.document.records import Index
from napari_peftsam.types import LabelArray, Window

__all__ = ["Snapshot"]

Region = tuple[slice, ...]
"""One slice with explicit start and stop per axis of a label array."""
Integers = npt.NDArray[np.integer[Any]]


def regions_of(
    where: Integers, values: int | Integers, shape: tuple[int, ...]
) -> dict[int, Region]:
    """Return the smallest region of every label, 0 included.

    Parameters
    ----------
    where
        ``(N,)`` flat positions in a label array.
    values
        Their label, or ``(N,)`` labels.
    shape
        Shape of the label array.
    """
    # Runs of neighbours with one label: far fewer than pixels, so sorting is cheap.
    labels = np.broadcast_to(values, where.shape)
    breaks = np.diff(where) != 1
    if np.ndim(values):
        breaks |= labels[1:] != labels[:-1]
    first = np.append(0, np.flatnonzero(breaks) + 1)
    lengths = np.diff(first, append=len(where))
    starts = np.stack(np.unravel_index(where[first], shape))
    ends = np.stack(np.unravel_index(where[first] + lengths - 1, shape))
    present, owner = np.unique(labels[first], return_inverse=True)
    lows = np.full((len(shape), len(present)), np.iinfo(np.intp).max, np.intp)
    highs = np.zeros_like(lows)
    wraps = np.zeros(len(first), np.bool_)  # into the next row, or plane: all columns are in it
    for axis, size in enumerate(shape):
        np.minimum.at(lows[axis], owner, np.where(wraps, 0, starts[axis]))
        np.maximum.at(highs[axis], owner, np.where(wraps, size, ends[axis] + 1))
        wraps |= starts[axis] != ends[axis]
    return {
        label: tuple(map(slice, low, high))
        for label, low, high in zip(
            present.tolist(), lows.T.tolist(), highs.T.tolist(), strict=True
        )
    }


def union(first: Region, second: Region) -> Region:
    """Return the smallest region holding both."""
    pairs = zip(first, second, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)


class LabelIndex:
    """Bounding regions and pixel counts of labels, kept up to date change by change."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._regions: dict[int, Region] = {}  # may be too large, never too small
        self._counts: dict[int, dict[int, int]] = {}  # pixels by label and number of the plane

    def regions(self) -> dict[int, Region]:
        """Return the regions of all labels as they are now."""
        return dict(self._regions)

    def region(self, label: int) -> Region:
        """Return a region that holds all pixels of a label, an empty one if it has none."""
        return self._regions.get(label, tuple(slice(0, 0) for _ in self._shape))

    def area(self, label: int) -> int:
        """Return the number of pixels of a label."""
        return sum(self._counts.get(label, {}).values())

    def planes(self, label: int) -> tuple[Index, ...]:
        """Return the planes in which a label has pixels, ascending."""
        return tuple(self._index(n) for n in sorted(self._counts.get(label, ())))

    def after(
        self, where: Integers, old: int | Integers, new: int | Integers
    ) -> dict[int, tuple[Index, ...]]:
        """Return the planes of all labels that a change touches, as they are once it is done."""
        return {
            label: tuple(self._index(n) for n, count in sorted(counts.items()) if count)
            for label, counts in self._counts_after(where, old, new).items()
        }

    def update(self, where: Integers, old: int | Integers, new: int | Integers) -> Region:
        """Update for a change of N >= 1 pixels and return the region they lie in."""
        for label, counts in self._counts_after(where, old, new).items():
            left = {number: count for number, count in counts.items() if count}
            if left:
                self._counts[label] = left
            else:
                self._counts.pop(label, None)
                self._regions.pop(label, None)
        written = regions_of(where, new, self._shape)
        for label, region in written.items():
            if label:
                self._regions[label] = union(self._regions.get(label, region), region)
        return reduce(union, written.values())

    def _counts_after(
        self, where: Integers, old: int | Integers, new: int | Integers
    ) -> dict[int, dict[int, int]]:
        result: dict[int, dict[int, int]] = {}
        is_flat, size = len(self._shape) == 2, self._shape[-2] * self._shape[-1]
        planes = np.broadcast_to(0, where.shape) if is_flat else where // size
        for values, sign in ((old, -1), (new, 1)):
            if isinstance(values, int) and not values:
                continue  # of pixels without label nothing is counted
            for label, number, count in tally(planes, values):
                counts = result.setdefault(label, dict(self._counts.get(label, {})))
                counts[number] = counts.get(number, 0) + sign * count
        return result

    def _index(self, number: int) -> Index:
        return tuple(int(i) for i in np.unravel_index(number, self._shape[:-2]))


def tally(places: Integers, values: int | Integers) -> Iterator[tuple[int, int, int]]:
    """Yield label, place and number of pixels for every nonzero label in every place.

    Parameters
    ----------
    places, values
        ``(N,)`` of neighbouring pixels: plane or another number, and label.
    """
    values = np.broadcast_to(values, places.shape)
    # Runs of equal pairs are few where pixels are many.
    breaks = np.ones(len(places), np.bool_)
    breaks[1:] = values[1:] != values[:-1]
    if places.strides != (0,):  # else all are in one place
        breaks[1:] |= places[1:] != places[:-1]
    first = np.flatnonzero(breaks)
    lengths = np.diff(first, append=len(places))
    pairs = np.stack([values[first].astype(np.int64), places[first].astype(np.int64)])
    order = np.lexsort(pairs[::-1])  # a tenth of the time of `numpy.unique` with an axis
    pairs, lengths = pairs[:, order], lengths[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    begins = np.flatnonzero(is_new)
    pairs = pairs[:, begins]
    counts = np.add.reduceat(lengths, begins) if len(begins) else lengths
    for label, number, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        if label:
            yield label, number, count


def first_of(where: Integers, owner: Integers) -> tuple[Integers, Integers]:
    """Return positions once each and the first owner of each; ascending if any had several.

    Parameters
    ----------
    where, owner
        ``(N,)`` flat positions, and numbers from 0.
    """
    low = int(where.min(initial=np.iinfo(np.int64).max))
    span = int(where.max(initial=low)) - low + 1
    if span > 8 * len(where):  # else a map of them is sooner made than sorted
        found, first = np.unique(where, return_index=True)
        return found, owner[first]
    is_owned = np.zeros(span, np.bool_)
    is_owned[where - low] = True
    if np.count_nonzero(is_owned) == len(where):
        return where, owner
    owners = np.full(span, -1, np.int32)
    owners[where[::-1] - low] = owner[::-1]
    inside = np.flatnonzero(owners >= 0)
    return inside + low, owners[inside]


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
