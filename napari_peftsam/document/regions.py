"""Bounding regions, runs and pixel counts of labels, which keep every edit local."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.document.records import Index

__all__ = ["Integers", "LabelIndex", "Region", "Runs", "find_runs", "union"]

Region = tuple[slice, ...]
"""One slice with explicit start and stop per axis of a label array."""
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of pixels that are neighbours in a row and have the same label.

    Segmented images have far fewer runs than pixels, so sorting them is cheap. `starts` and
    `stops` are one ``(R,)`` array per axis of the label array, half-open; `labels` is ``(R,)``.
    """

    starts: tuple[Integers, ...]
    stops: tuple[Integers, ...]
    labels: Integers

    def region(self) -> Region:
        """Return the smallest region holding all runs (at least one)."""
        pairs = zip(self.starts, self.stops, strict=True)
        return tuple(slice(int(a.min()), int(b.max())) for a, b in pairs)

    def regions(self) -> dict[int, Region]:
        """Return the smallest region of every nonzero label."""
        labels, owner = np.unique(self.labels, return_inverse=True)
        lows, highs = [], []
        for starts, stops in zip(self.starts, self.stops, strict=True):
            low = np.full(len(labels), np.iinfo(np.intp).max, np.intp)
            high = np.zeros(len(labels), np.intp)
            np.minimum.at(low, owner, starts)
            np.maximum.at(high, owner, stops)
            lows.append(low.tolist())
            highs.append(high.tolist())
        return {
            label: tuple(slice(low[i], high[i]) for low, high in zip(lows, highs, strict=True))
            for i, label in enumerate(labels.tolist())
            if label
        }


def find_runs(where: Integers, values: int | Integers, shape: tuple[int, ...]) -> Runs:
    """Return the runs among pixels at ``(N,)`` flat positions; fewest runs if ascending.

    `values` is their label, or ``(N,)`` labels; `shape` is that of the label array.
    """
    breaks = np.empty(len(where), np.bool_)
    breaks[:1] = True
    breaks[1:] = (where[1:] != where[:-1] + 1) | (where[1:] % shape[-1] == 0)
    if not isinstance(values, int):
        breaks[1:] |= values[1:] != values[:-1]
    first = np.flatnonzero(breaks)
    lengths = np.diff(first, append=len(where))
    starts = np.unravel_index(where[first], shape)
    stops = (*(s + 1 for s in starts[:-1]), starts[-1] + lengths)
    labels = np.full(len(first), values) if isinstance(values, int) else values[first]
    return Runs(starts, stops, labels)


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

    def __iter__(self) -> Iterator[int]:
        """Iterate over the labels that have pixels."""
        return iter(self._counts)

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
        runs = find_runs(where, new, self._shape)
        for label, region in runs.regions().items():
            known = self._regions.get(label)
            self._regions[label] = region if known is None else union(known, region)
        return runs.region()

    def _counts_after(
        self, where: Integers, old: int | Integers, new: int | Integers
    ) -> dict[int, dict[int, int]]:
        result: dict[int, dict[int, int]] = {}
        planes = where // (self._shape[-2] * self._shape[-1])
        for values, sign in ((old, -1), (new, 1)):
            for label, number, count in _tally(planes, values):
                counts = result.setdefault(label, dict(self._counts.get(label, {})))
                counts[number] = counts.get(number, 0) + sign * count
        return result

    def _index(self, number: int) -> Index:
        return tuple(int(i) for i in np.unravel_index(number, self._shape[:-2]))


def _tally(planes: Integers, values: int | Integers) -> Iterator[tuple[int, int, int]]:
    """Yield label, plane and number of pixels for every nonzero label in every plane."""
    if isinstance(values, int):
        if values:
            numbers, counts = np.unique(planes, return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                yield values, number, count
        return
    # Runs of equal pairs are few where pixels are many.
    breaks = np.ones(len(planes), np.bool_)
    breaks[1:] = (planes[1:] != planes[:-1]) | (values[1:] != values[:-1])
    first = np.flatnonzero(breaks)
    lengths = np.diff(first, append=len(planes))
    pairs, owner = np.unique(
        np.stack([values[first].astype(np.int64), planes[first].astype(np.int64)]),
        axis=1,
        return_inverse=True,
    )
    counts = np.bincount(owner.reshape(-1), lengths).astype(np.int64)
    for label, number, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        if label:
            yield label, number, count
