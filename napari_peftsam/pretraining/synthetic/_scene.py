"""Label images and what the renderers need to know about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._fields import FloatArray, IntArray

__all__ = ["MIN_AREA", "Scene", "contact_lines", "core_distance", "tidy"]

# Objects with fewer pixels (slivers at the image edge) are not labelled.
MIN_AREA = 8


@dataclass(frozen=True)
class Scene:
    """Instances on the pixel grid.

    Attributes
    ----------
    labels
        (H, W) int32, 0 = background, 1..n.
    depth
        (H, W) float32: 0 outside and at an object's outline, 1 at its centre.
    diameter
        Typical diameter of the objects in px.
    parts, groups
        (H, W) int32 of nested objects: what each object contains, with its id, and what it
        belongs to, with ids of its own; None if objects are not nested.
    """

    labels: IntArray
    depth: FloatArray
    diameter: float
    parts: IntArray | None = None
    groups: IntArray | None = None

    @property
    def count(self) -> int:
        """Number of objects."""
        return int(self.labels.max(initial=0))

    @property
    def mask(self) -> FloatArray:
        """(H, W) float32: 1 inside objects, else 0."""
        return (self.labels > 0).astype(np.float32)


def contact_lines(labels: IntArray) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour belongs to another object, (H, W)."""
    lines = np.zeros(labels.shape, bool)
    for here, there in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        a, b = labels[here], labels[there]
        lines[here] |= (a != b) & (a > 0) & (b > 0)
    return lines


def tidy(labels: IntArray, *, min_area: int = MIN_AREA) -> IntArray:
    """Keep the largest piece of each object and renumber to 1..n.

    Parameters
    ----------
    labels
        (H, W) int32, 0 = background; ids may have gaps and several pieces.
    min_area
        Smallest area in px of a piece that stays.

    Returns
    -------
    IntArray
        (H, W); every object is 4-connected.
    """
    from skimage.measure import label as connected_pieces  # heavy import, kept lazy

    pieces = connected_pieces(labels, background=0, connectivity=1)
    area = np.bincount(pieces.ravel())
    owner = np.zeros(area.size, np.int32)
    owner[pieces.ravel()] = labels.ravel()
    by_area = np.argsort(area, kind="stable")
    by_area = by_area[(area[by_area] >= min_area) & (owner[by_area] > 0)]
    largest = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    largest[owner[by_area]] = by_area  # the last write, the largest piece, wins
    kept = largest[largest > 0]
    renumber = np.zeros(area.size, np.int32)
    renumber[kept] = np.arange(1, kept.size + 1)
    tidied: IntArray = renumber[pieces]
    return tidied


def core_distance(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """Distance from near each object's centroid, for drawing nuclei.

    Parameters
    ----------
    rng
        Shifts the centres off the centroids and makes level sets elliptic.
    scene
        The objects.

    Returns
    -------
    FloatArray
        (H, W) in units of the object's equivalent radius; infinite outside.
    """
    y, x = np.nonzero(scene.labels)
    owner = scene.labels[y, x]
    area = np.maximum(np.bincount(owner, minlength=scene.count + 1), 1)
    radius = np.sqrt(area / np.pi)
    offsets = []
    for at in (y, x):
        centre = np.bincount(owner, at, minlength=scene.count + 1) / area
        centre += rng.normal(0, 0.12, centre.size) * radius
        offsets.append((at - centre[owner]) / radius[owner])
    angle = rng.uniform(0, np.pi, radius.size)[owner]
    stretch = rng.uniform(1, 1.4, radius.size)[owner]
    u = offsets[1] * np.cos(angle) + offsets[0] * np.sin(angle)
    v = offsets[0] * np.cos(angle) - offsets[1] * np.sin(angle)
    distance = np.full(scene.labels.shape, np.inf, np.float32)
    distance[y, x] = np.hypot(u / stretch, v * stretch)
    return distance
