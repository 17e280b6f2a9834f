"""Places of possible objects: seeds of the dense maps at several thresholds, grown by watershed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_peftsam.segmentation.automatic.maps import DenseMaps
from napari_peftsam.types import BoolArray, Box, Point, Prompts

__all__ = ["Hypotheses", "find_hypotheses", "watershed_labels"]

Ints = npt.NDArray[np.int64]

# The first is the best alone, so that fast stops there and duplicates of later ones are dropped.
THRESHOLDS = (0.5, 0.4, 0.6, 0.3, 0.7)
_FOREGROUND, _BOUNDARY = 0.5, 0.5
_SAME_BOX = 0.8  # IoU from which on two boxes ask for one object
_NEGATIVES = 6
_LEAST = 4  # pixels of the maps; a seed's region below is noise
_CHUNK = 512


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """Places of N objects in pixels of the maps.

    Attributes
    ----------
    boxes
        ``(N, 4)``: first row and column, and those behind the last.
    points
        ``(N, 2)``: row and column of the deepest pixel.
    others
        ``(N, 6, 2)``: deepest pixels of the nearest other objects outside the box, nearest first;
        -1 where there are no more.
    regions
        Per object its pixels in its box, as the watershed found them.
    left_out
        Objects beyond the number that was asked for.
    coarse
        Whether a grid of clicks stood in for the head that the model lacks.
    """

    boxes: Ints
    points: Ints
    others: Ints
    regions: Sequence[BoolArray]
    left_out: int = 0
    coarse: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    def prompts(self, steps: tuple[float, float]) -> list[Prompts]:
        """Return a box, a click and up to six clicks on others for each, in image pixels.

        Parameters
        ----------
        steps
            Image pixels per pixel of the maps, along rows and columns.
        """
        scale = np.asarray(steps)
        boxes = self.boxes * np.tile(scale, 2)
        points, others = ((p + 0.5) * scale - 0.5 for p in (self.points, self.others))
        found = []
        for box, point, near, known in zip(
            boxes.tolist(), points.tolist(), others.tolist(), self.others[..., 0] >= 0, strict=True
        ):
            denied = (
                Point(at[0], at[1], positive=False)
                for at, is_one in zip(near, known, strict=True)
                if is_one
            )
            found.append(Prompts((Point(*point), *denied), Box(*box)))
        return found


def watershed_labels(maps: DenseMaps, threshold: float) -> npt.NDArray[np.int32]:
    """Return instances ``(H, W)`` that are grown from the pixels deeper than a threshold."""
    from skimage.segmentation import watershed

    inside = maps.foreground > _FOREGROUND
    seeds, _ = ndimage.label((maps.depth > threshold) & (maps.boundary < _BOUNDARY) & inside)
    labels: npt.NDArray[np.int32] = watershed(maps.landscape, seeds, mask=inside)
    return labels


def find_hypotheses(
    maps: DenseMaps,
    taken: BoolArray | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    at_most: int = 2000,
) -> Hypotheses:
    """Find where objects may be.

    Parameters
    ----------
    maps
        The dense maps.
    taken
        ``(H, W)``: pixels of objects that are known; what lies mostly inside is left out.
    thresholds
        Of the depth, one after the other; an object whose box agrees with an earlier one's is
        left out.
    at_most
        Objects; those of the first thresholds are kept.
    """
    boxes, points = np.zeros((0, 4), int), np.zeros((0, 2), int)
    others, regions = np.zeros((0, _NEGATIVES, 2), int), list[BoolArray]()
    for threshold in thresholds:
        labels = watershed_labels(maps, threshold)
        found, deepest, pixels = _instances(labels)
        if not len(found):
            continue
        new = ~_known(found, boxes)
        if taken is not None:
            new &= np.array(
                [not _mostly_in(taken, b, r) for b, r in zip(found, pixels, strict=True)]
            )
        others = np.concatenate([others, _nearest(found, deepest)[new]])
        boxes = np.concatenate([boxes, found[new]])
        points = np.concatenate([points, deepest[new]])
        regions += [pixels[i] for i in np.flatnonzero(new)]
    left_out = max(0, len(boxes) - at_most)
    return Hypotheses(
        boxes[:at_most], points[:at_most], others[:at_most], regions[:at_most], left_out
    )


def hypotheses_of(labels: npt.NDArray[np.int32]) -> Hypotheses:
    """Return instances ``(H, W)`` that clicks have found, as hypotheses."""
    boxes, points, regions = _instances(labels)
    others = _nearest(boxes, points) if len(boxes) else np.zeros((0, _NEGATIVES, 2), int)
    return Hypotheses(boxes, points, others, regions, coarse=True)


def _instances(labels: npt.NDArray[np.int32]) -> tuple[Ints, Ints, list[BoolArray]]:
    """Return boxes, deepest pixels and regions of all instances that are large enough."""
    slices = ndimage.find_objects(labels)
    boxes, points, regions = [], [], []
    for number, window in enumerate(slices, start=1):
        if window is None:
            continue
        region = labels[window] == number
        if np.count_nonzero(region) < _LEAST:
            continue
        depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        row, col = np.unravel_index(depth.argmax(), depth.shape)
        rows, cols = window
        boxes.append((rows.start, cols.start, rows.stop, cols.stop))
        points.append((rows.start + row, cols.start + col))
        regions.append(region)
    return np.array(boxes, int).reshape(-1, 4), np.array(points, int).reshape(-1, 2), regions


def _known(boxes: Ints, earlier: Ints) -> BoolArray:
    """Return which boxes agree with one of the earlier ones."""
    known = np.zeros(len(boxes), bool)
    if not len(earlier):
        return known
    for start in range(0, len(boxes), _CHUNK):
        part = slice(start, start + _CHUNK)
        known[part] = (box_ious(boxes[part], earlier) > _SAME_BOX).any(axis=1)
    return known


def box_ious(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the IoU of all pairs of boxes, ``(N, 4)`` and ``(M, 4)``: ``(N, M)``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=-1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - both
    return np.asarray(both / np.maximum(union, 1), np.float64)


def _mostly_in(taken: BoolArray, box: npt.NDArray[np.int64], region: BoolArray) -> bool:
    row0, col0, row1, col1 = box
    return bool(taken[row0:row1, col0:col1][region].mean() > 0.5)


def _nearest(boxes: Ints, points: Ints) -> Ints:
    """Return the nearest points of others that lie outside each box, ``(N, 6, 2)``."""
    from scipy.spatial import cKDTree

    found = np.full((len(points), _NEGATIVES, 2), -1)
    count = min(len(points), 2 * _NEGATIVES + 1)
    _, near = cKDTree(points).query(points, k=[*range(1, count + 1)])
    for number, (box, candidates) in enumerate(zip(boxes, near, strict=True)):
        at = points[candidates[candidates != number]]
        outside = (at < box[:2]).any(axis=1) | (at >= box[2:]).any(axis=1)
        at = at[outside][:_NEGATIVES]
        found[number, : len(at)] = at
    return found
