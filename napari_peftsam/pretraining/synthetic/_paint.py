"""Paints outlines into a label image, all objects of an image at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._fields import FloatArray, IntArray, Shape

__all__ = ["Blobs", "paint"]

# Candidate pixels handled at a time: bounds memory on large images.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Blobs:
    """Objects before painting.

    Attributes
    ----------
    centre
        (n, 2) float32, y and x in px.
    radius
        (n,) equivalent radius in px.
    angle
        (n,) direction of the long axis in radians.
    bend
        (n,) curvature of the long axis in 1 / radius.
    table
        (n, bins) outline radius over angle in units of `radius`; `bins` is a
        power of two.
    """

    centre: FloatArray
    radius: FloatArray
    angle: FloatArray
    bend: FloatArray
    table: FloatArray

    @property
    def reach(self) -> FloatArray:
        """Farthest distance of an outline from its centre, (n,)."""
        far = self.table.max(axis=1)
        reach: FloatArray = self.radius * (far + np.abs(self.bend) * far**2) + 1.5
        return reach


def _candidates(
    blobs: Blobs, members: slice, shape: Shape
) -> tuple[NDArray[np.intp], FloatArray, FloatArray, NDArray[np.intp]]:
    """Object, y and x offset (px) and flat position of every pixel in reach."""
    centre, reach = blobs.centre[members], blobs.reach[members]
    half = int(np.ceil(reach.max()))
    grid = np.arange(-half, half + 1)
    y = np.round(centre[:, 0]).astype(int)[:, None] + grid
    x = np.round(centre[:, 1]).astype(int)[:, None] + grid
    dy = np.where((y >= 0) & (y < shape[0]), y - centre[:, :1], np.inf).astype(np.float32)
    dx = np.where((x >= 0) & (x < shape[1]), x - centre[:, 1:], np.inf).astype(np.float32)
    near = dy[:, :, None] ** 2 + dx[:, None, :] ** 2 <= (reach**2)[:, None, None]
    which, i, j = np.nonzero(near)
    flat = y[which, i] * shape[1] + x[which, j]
    return which + (members.start or 0), dy[which, i], dx[which, j], flat


def _relative_distance(
    blobs: Blobs, which: NDArray[np.intp], dy: FloatArray, dx: FloatArray
) -> FloatArray:
    """Distance from the centre in units of the outline's radius there."""
    cos, sin = np.cos(blobs.angle) / blobs.radius, np.sin(blobs.angle) / blobs.radius
    u = dx * cos[which] + dy * sin[which]
    v = dy * cos[which] - dx * sin[which]
    if blobs.bend.any():
        v += blobs.bend[which] * u * u
    bins = blobs.table.shape[1]
    turn = np.arctan2(v, u) * np.float32(bins / (2 * np.pi)) + np.float32(bins)
    outline = blobs.table[which, turn.astype(np.int32) & (bins - 1)]
    distance: FloatArray = np.sqrt(u * u + v * v) / outline
    return distance


def paint(
    blobs: Blobs, shape: Shape, warp: tuple[FloatArray, FloatArray] | None, stacked: bool
) -> tuple[IntArray, FloatArray]:
    """Paint `blobs` on a field of `shape` (H, W) px.

    Parameters
    ----------
    blobs
        The objects; those reaching beyond the field are cut.
    shape
        (H, W) in px.
    warp
        Displacement of the outlines along y and x in px, (H, W) each, or None.
    stacked
        Where objects overlap: True lets the later one cover the earlier,
        False lets them meet where both are equally deep.

    Returns
    -------
    tuple[IntArray, FloatArray]
        Labels, ids 1..n with n as in `blobs`, and depth, 1 at centres and
        falling to 0 at outlines; (H, W) each.
    """
    labels = np.zeros(shape[0] * shape[1], np.int32)
    nearest = np.ones(labels.size, np.float32)
    patch = (2 * int(np.ceil(blobs.reach.max())) + 1) ** 2
    step = max(1, _CHUNK // patch)
    for start in range(0, len(blobs.centre), step):
        which, dy, dx, flat = _candidates(blobs, slice(start, start + step), shape)
        if warp is not None:
            dy, dx = dy + warp[0].ravel()[flat], dx + warp[1].ravel()[flat]
        distance = _relative_distance(blobs, which, dy, dx)
        inside = distance < 1
        which, flat, distance = which[inside], flat[inside], distance[inside]
        if stacked:  # candidates come ordered by object: the last one covers
            labels[flat], nearest[flat] = which + 1, distance
            continue
        np.minimum.at(nearest, flat, distance)
        wins = distance <= nearest[flat]
        labels[flat[wins]] = which[wins] + 1
    return labels.reshape(shape), (1 - nearest).reshape(shape)
