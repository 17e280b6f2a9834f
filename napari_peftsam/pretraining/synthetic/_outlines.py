"""Outlines of cells, and their painting into label images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._fields import FloatArray, IntArray, Rng, Shape

_HARMONICS = np.arange(2, 8)

_Range = float | tuple[float, float]


def _superellipse(aspect: FloatArray, power: float, theta: FloatArray) -> FloatArray:
    """Radii (n, bins) of |x/a|^p + |y a|^p = 1 with a = sqrt(aspect)."""
    a = np.sqrt(aspect)[:, None]
    along, across = np.abs(np.cos(theta)) / a, np.abs(np.sin(theta)) * a
    radii = (along**power + across**power) ** (-1.0 / power)
    return radii.astype(np.float32, copy=False)


def _waves(rng: Rng, count: int, theta: FloatArray, amount: float) -> FloatArray:
    """Factor 1 + random harmonics of falling strength, (n, bins)."""
    angles = np.outer(_HARMONICS, theta)
    basis = np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)
    size = np.tile(amount / (_HARMONICS - 1), 2)
    weights = (rng.standard_normal((count, size.size)) * size).astype(np.float32)
    return np.asarray(np.clip(1 + weights @ basis, 0.35, 2.5), np.float32)


# Of each family of smooth outlines: length / width, power of the superellipse (above 2 the ends
# are blunt, below pointed) and strength of the waves; of two numbers one between them is drawn.
_OUTLINES: dict[str, tuple[tuple[float, float], _Range, _Range]] = {
    "round": ((1.0, 1.25), 2.0, 0.02),
    "oval": ((1.1, 2.2), (1.9, 2.6), 0.03),
    "rod": ((2.5, 6.0), (1.4, 3.5), 0.02),
    "rough": ((1.0, 1.8), 2.0, (0.06, 0.16)),
    "spindle": ((1.5, 4.0), (1.0, 1.7), (0.02, 0.1)),
}


def _smooth(family: str, rng: Rng, count: int, theta: FloatArray) -> FloatArray:
    """Radii (n, bins) of one of `_OUTLINES`, not yet of unit area."""
    aspects, power, waves = _OUTLINES[family]
    drawn = rng.uniform(*aspects, count).astype(np.float32)
    table = _superellipse(drawn, _number(rng, power), theta)
    return table * _waves(rng, count, theta, _number(rng, waves))


def _number(rng: Rng, choice: _Range) -> float:
    return rng.uniform(*choice) if isinstance(choice, tuple) else choice


def _star(rng: Rng, count: int, theta: FloatArray) -> FloatArray:
    """Draw a rough body out into one to five tapering processes."""
    table = _smooth("rough", rng, count, theta)
    # A fixed angle per process, jittered, so that they seldom coincide.
    slots = int(rng.integers(2, 6))
    start = rng.uniform(0, 2 * np.pi, (count, 1))
    for slot in range(slots):
        towards = start + (slot + rng.uniform(-0.3, 0.3, (count, 1))) * (2 * np.pi / slots)
        length = rng.uniform(0.3, 3.5, (count, 1)) * (rng.random((count, 1)) < 0.75)
        away = np.sqrt(2 * np.clip(1 - np.cos(theta - towards), 0, None))
        # Exponential flanks are concave, like a membrane stretched to a tip.
        table = table + length * np.exp(-away * rng.uniform(3, 10, (count, 1)))
    return table.astype(np.float32)


def outline_table(rng: Rng, families: tuple[str, ...], count: int, bins: int) -> FloatArray:
    """Draw (n, bins) radii over the full circle, each object of one of `families`.

    They are in units of the equivalent radius: each outline encloses the unit circle's area, so
    that an object's mean diameter does not depend on its family.
    """
    theta = (np.arange(bins, dtype=np.float32) + 0.5) * np.float32(2 * np.pi / bins)
    choice = rng.integers(len(families), size=count)
    table = np.empty((count, bins), np.float32)
    for i, family in enumerate(families):
        members = np.flatnonzero(choice == i)
        drawn = (rng, members.size, theta)
        table[members] = _star(*drawn) if family == "star" else _smooth(family, *drawn)
    table /= np.sqrt(np.mean(table**2, axis=1, keepdims=True))
    return table


# Candidate pixels handled at a time: bounds memory on large images.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Blobs:
    """Objects before painting."""

    centre: FloatArray  # (n, 2), y and x in pixels
    table: FloatArray  # (n, bins), see `outline_table`; `bins` is a power of two
    radius: FloatArray  # (n,), equivalent radius in pixels
    angle: FloatArray  # (n,), direction of the long axis in radians
    bend: FloatArray  # (n,), curvature of the long axis in 1 / radius

    @property
    def reach(self) -> FloatArray:
        """Farthest distance of an outline from its centre, (n,)."""
        far = self.table.max(axis=1)
        return np.asarray(self.radius * (far + np.abs(self.bend) * far**2) + 1.5, np.float32)


def _candidates(
    blobs: Blobs, members: slice, shape: Shape
) -> tuple[NDArray[np.intp], FloatArray, FloatArray, NDArray[np.intp]]:
    """Object, y and x offset (pixels) and flat position of every pixel in reach."""
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
    return np.asarray(np.sqrt(u * u + v * v) / outline, np.float32)


def paint(
    blobs: Blobs, shape: Shape, warp: tuple[FloatArray, FloatArray] | None, stacked: bool
) -> tuple[IntArray, FloatArray]:
    """Paint labels 1..n and the depth, 1 at centres and 0 at outlines; (H, W) each.

    `warp` displaces outlines along y and x, (H, W) pixels each. Of overlapping objects the later
    one covers the earlier if `stacked`; else they meet where both are equally deep.
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
