"""Bounding regions of labels, as tuples of slices; what keeps every edit local."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Region", "region_of", "regions_of_labels", "union"]

Region = tuple[slice, ...]
"""One slice with explicit start and stop per axis of a label array."""
Coordinates = tuple[npt.NDArray[np.intp], ...]


def region_of(coordinates: Coordinates) -> Region:
    """Return the smallest region holding the (at least one) pixels.

    Parameters
    ----------
    coordinates
        One array of N positions per axis, as ``np.nonzero`` returns them.
    """
    return tuple(slice(int(c.min()), int(c.max()) + 1) for c in coordinates)


def union(first: Region, second: Region) -> Region:
    """Return the smallest region holding both."""
    pairs = zip(first, second, strict=True)
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)


def regions_of_labels(
    coordinates: Coordinates, values: npt.NDArray[np.integer[Any]]
) -> dict[int, Region]:
    """Return the region of every nonzero label among N pixels.

    Parameters
    ----------
    coordinates
        One array of N positions per axis.
    values
        ``(N,)`` the label of each pixel.
    """
    labels, owner = np.unique(values, return_inverse=True)
    starts, stops = [], []
    for positions in coordinates:
        low = np.full(len(labels), np.iinfo(np.intp).max, np.intp)
        high = np.zeros(len(labels), np.intp)
        np.minimum.at(low, owner, positions)
        np.maximum.at(high, owner, positions + 1)
        starts.append(low.tolist())
        stops.append(high.tolist())
    regions = {}
    for i, label in enumerate(labels.tolist()):
        if label:
            regions[label] = tuple(slice(a[i], b[i]) for a, b in zip(starts, stops, strict=True))
    return regions
