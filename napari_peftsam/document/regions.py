"""Bounding regions of labels and runs of equal labels; what keeps every edit local."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Region", "Runs", "bounding_box", "distinct", "find_runs", "union"]

Region = tuple[slice, ...]
"""One slice with explicit start and stop per axis of a label array."""
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of pixels that are neighbours in a row and have the same label.

    Segmented images have far fewer runs than pixels, so what is computed for every
    run is cheap even where it sorts.

    Attributes
    ----------
    starts, stops
        One array of ``(R,)`` positions per axis of the label array; half-open.
    labels
        ``(R,)`` the label of each run.
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
    """Return the runs among pixels.

    Parameters
    ----------
    where
        ``(N,)`` flat positions in an array of `shape`; fewest runs if ascending.
    values
        Their label, or ``(N,)`` labels.
    shape
        Of the label array.
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


def distinct(values: int | Integers) -> set[int]:
    """Return the nonzero labels among `values`, sorting runs of them only."""
    if isinstance(values, int):
        return {values} - {0}
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return {*np.unique(values[changes]).tolist(), int(values[0])} - {0}


def union(first: Region, second: Region) -> Region:
    """Return the smallest region holding both."""
    pairs = zip(first, second, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)


def bounding_box(masks: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the smallest rows and columns holding all of ``(K, H, W)`` masks."""
    rows = np.flatnonzero(masks.any(axis=2).any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    high = slice(int(rows[0]), int(rows[-1]) + 1)
    columns = np.flatnonzero(masks[:, high].any(axis=1).any(axis=0))
    return high, slice(int(columns[0]), int(columns[-1]) + 1)
