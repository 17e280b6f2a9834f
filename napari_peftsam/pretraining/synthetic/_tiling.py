"""Cells that tile the plane, with walls between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._fields import FloatArray, IntArray, Shape, smooth_noise
from ._scene import Scene, tidy

__all__ = ["Tiling", "tiles"]


@dataclass(frozen=True)
class Tiling:
    """Packed cells.

    Attributes
    ----------
    scene
        The cell interiors.
    wall
        (H, W) float32: distance in px from the middle of the nearest wall.
    tissue
        (H, W) bool: False in the empty parts of the field.
    wall_width
        Wall thickness in px.
    """

    scene: Scene
    wall: FloatArray
    tissue: NDArray[np.bool_]
    wall_width: float


def _seeds(rng: np.random.Generator, rows: int, columns: int) -> tuple[FloatArray, FloatArray]:
    """Seed positions in lattice units, (rows, columns) each, brick pattern."""
    jitter = rng.uniform(0.15, 0.45)
    y = np.arange(rows)[:, None] + 0.5 + rng.uniform(-jitter, jitter, (rows, columns))
    x = np.arange(columns) + 0.5 + rng.uniform(-jitter, jitter, (rows, columns))
    x += np.where(np.arange(rows) % 2, 0.25, -0.25)[:, None]
    return y.astype(np.float32), x.astype(np.float32)


def _lattice(
    rng: np.random.Generator, shape: Shape, spacing: float
) -> tuple[FloatArray, FloatArray]:
    """Warped, turned and stretched pixel coordinates in lattice units, >= 2."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / np.float32(spacing)
    bend = np.float32(rng.choice([0.0, 0.1, 0.2]))
    if bend > 0:
        scale = spacing * rng.uniform(0.4, 1.5)
        y = y + bend * smooth_noise(rng, shape, scale)
        x = x + bend * smooth_noise(rng, shape, scale)
    angle = rng.uniform(0, np.pi)
    stretch = np.sqrt(1 if rng.random() < 0.6 else rng.uniform(1, 3))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    v = (y * cos - x * sin) * np.float32(stretch)
    u = (y * sin + x * cos) / np.float32(stretch)
    offset = rng.random(2).astype(np.float32) + 2
    return v - v.min() + offset[0], u - u.min() + offset[1]


def _two_nearest(
    v: FloatArray, u: FloatArray, seed_v: FloatArray, seed_u: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Nearest and second nearest seed (flat index) and the wall distance."""
    columns = seed_v.shape[1]
    home = v.astype(np.int32) * columns + u.astype(np.int32)
    flat_v, flat_u = seed_v.ravel(), seed_u.ravel()
    first, second = home, home
    near = np.full(v.shape, np.inf, np.float32)
    next_near = near
    for step in (i * columns + j for i in (-1, 0, 1) for j in (-1, 0, 1)):
        seed = home + step
        squared = (v - flat_v[seed]) ** 2 + (u - flat_u[seed]) ** 2
        closer = squared < near
        second = np.where(closer, first, np.where(squared < next_near, seed, second))
        next_near = np.where(closer, near, np.minimum(squared, next_near))
        first, near = np.where(closer, seed, first), np.minimum(squared, near)
    apart = np.hypot(flat_v[first] - flat_v[second], flat_u[first] - flat_u[second])
    return first, second, (next_near - near) / (2 * np.maximum(apart, 1e-3))


def _occupied(rng: np.random.Generator, seeds: Shape) -> NDArray[np.bool_]:
    """Which cells exist, (rows * columns,): mostly all, else a tissue patch."""
    if rng.random() < 0.6:
        return np.ones(seeds[0] * seeds[1], bool)
    # Coarse, as one missing cell would look like an unlabelled one.
    field = smooth_noise(rng, seeds, rng.uniform(2.5, 6))
    occupied: NDArray[np.bool_] = (field > rng.uniform(-1.5, 0.0)).ravel()
    return occupied


def tiles(rng: np.random.Generator, shape: Shape, diameter: float) -> Tiling:
    """Tile the field with cells.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        (H, W) in px.
    diameter
        Mean equivalent diameter of the interiors in px.

    Returns
    -------
    Tiling
        Interiors are the objects of its scene.
    """
    width = float(np.clip(diameter * rng.uniform(0.03, 0.2), 1.2, 10))
    # Circle and square of equal area: diameter = 1.128 side.
    spacing = diameter / 1.128 + width
    v, u = _lattice(rng, shape, spacing)
    seeds = (int(v.max()) + 3, int(u.max()) + 3)
    first, second, wall = _two_nearest(v, u, *_seeds(rng, *seeds))
    occupied = _occupied(rng, seeds)
    occupied[first[shape[0] // 2, shape[1] // 2]] = True  # never an empty image
    wall *= np.float32(spacing)
    interior = occupied[first] & (wall > width / 2)
    labels = tidy(np.where(interior, first + 1, 0).astype(np.int32))
    depth = np.clip(wall / np.float32(spacing / 2), 0, 1) * (labels > 0)
    tissue = occupied[first] | (occupied[second] & (wall < width / 2))
    return Tiling(Scene(labels, depth, diameter), wall, tissue, width)
