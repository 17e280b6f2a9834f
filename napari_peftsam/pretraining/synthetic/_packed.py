"""Cells that tile the plane: between stained walls, or as dense tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ._fields import (
    BoolArray,
    FloatArray,
    IntArray,
    Rng,
    Shape,
    blur,
    log_uniform,
    smooth_noise,
    texture,
)
from ._render import Rendered, blurred_focus, camera, debris, illumination, per_object, sensor_noise
from ._scene import Scene, core_distance, tidy


@dataclass(frozen=True)
class Tiling:
    """Packed cells, all arrays (H, W)."""

    scene: Scene  # the cell interiors
    wall: FloatArray  # distance in pixels from the middle of the nearest wall
    tissue: BoolArray  # False in the empty parts of the field
    wall_width: float  # pixels


def _seeds(rng: Rng, rows: int, columns: int) -> tuple[FloatArray, FloatArray]:
    """Seed positions in lattice units, (rows, columns) each, brick pattern."""
    jitter = rng.uniform(0.15, 0.45)
    y = np.arange(rows)[:, None] + 0.5 + rng.uniform(-jitter, jitter, (rows, columns))
    x = np.arange(columns) + 0.5 + rng.uniform(-jitter, jitter, (rows, columns))
    x += np.where(np.arange(rows) % 2, 0.25, -0.25)[:, None]
    return y.astype(np.float32), x.astype(np.float32)


def _lattice(rng: Rng, shape: Shape, spacing: float) -> tuple[FloatArray, FloatArray]:
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


def _occupied(rng: Rng, seeds: Shape) -> BoolArray:
    """Draw the cells that exist, (rows * columns,): mostly all, else a patch of tissue."""
    if rng.random() < 0.6:
        return np.ones(seeds[0] * seeds[1], bool)
    # Coarse, as one missing cell would look like an unlabelled one.
    field = smooth_noise(rng, seeds, rng.uniform(2.5, 6))
    return (field > rng.uniform(-1.5, 0.0)).ravel()


def tiles(rng: Rng, shape: Shape, diameter: float) -> Tiling:
    """Tile the field with cells; `diameter` is that of their interiors in pixels, on average."""
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


def _touching(tiling: Tiling) -> IntArray:
    """Interiors grown over the walls until they meet, (H, W)."""
    labels = tiling.scene.labels
    if not labels.any():
        return labels
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    return tidy(np.where(tiling.tissue, labels[tuple(nearest)], 0).astype(np.int32))


def _walls(rng: Rng, tiling: Tiling) -> FloatArray:
    """Stain along the walls, thin and uneven, about 0..1, (H, W)."""
    width = max(0.7, tiling.wall_width * rng.uniform(0.3, 0.8))
    line = np.exp(-((tiling.wall / np.float32(width)) ** 2)) * tiling.tissue
    if rng.random() < 0.3:  # two membranes with a gap
        line = line - 0.9 * np.exp(-((tiling.wall / np.float32(0.4 * width)) ** 2)) * tiling.tissue
    fade = smooth_noise(rng, line.shape, max(2.0, tiling.scene.diameter * rng.uniform(0.2, 0.7)))
    return np.asarray(line * np.clip(1 + fade * rng.uniform(0, 0.6), 0.05, 2), np.float32)


def _colours(
    rng: Rng, wall: FloatArray, inner: FloatArray, nuclei: FloatArray
) -> NDArray[np.uint8]:
    """Show the three densities in colours of their own, (H, W, 3)."""
    vectors = rng.uniform(0.1, 1.0, (3, 3)).astype(np.float32)
    layers = (wall * log_uniform(rng, 0.3, 1.2), inner * rng.uniform(0.05, 0.4), nuclei)
    density = sum(layer[..., None] * vector for layer, vector in zip(layers, vectors, strict=True))
    light = np.exp(-np.asarray(density, np.float32))
    flat = sensor_noise(rng, light.reshape(len(light), -1), log_uniform(rng, 0.003, 0.03))
    lit = flat.reshape(light.shape) * rng.uniform(200, 255)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


def tissue(rng: Rng, shape: Shape, diameter: float) -> Rendered:
    """Packed cells between thin walls, some with nuclei; RGB or grey."""
    tiling = tiles(rng, shape, max(diameter, 10.0))
    labels = _touching(tiling)
    scene = Scene(labels, tiling.scene.depth * (labels > 0), tiling.scene.diameter)
    sigma = min(blurred_focus(rng, scene), 0.5 * tiling.wall_width)
    wall = blur(_walls(rng, tiling), sigma)
    grain = texture(rng, shape, max(1.0, diameter * rng.uniform(0.05, 0.2)))
    inner = np.clip(1 + grain * rng.uniform(0, 0.5), 0, 3) * per_object(rng, scene, 2.0)
    nuclei = np.zeros(shape, np.float32)
    if rng.random() < 0.5 and diameter > 15:
        core = np.clip((rng.uniform(0.3, 0.6) - core_distance(rng, scene)) * 7, 0, 1)
        nuclei = blur((core * rng.uniform(0.3, 1.2)).astype(np.float32), sigma)
    if rng.random() < 0.4:
        return _colours(rng, wall, inner.astype(np.float32), nuclei), scene
    light = wall + inner * rng.uniform(0, 0.3) + nuclei * rng.uniform(-0.2, 0.4)
    light = (light + rng.uniform(0, 0.2)) * illumination(rng, shape, 0.4)
    if rng.random() < 0.5:
        light = 1 - np.clip(light, 0, 1.2)
    return camera(rng, light.astype(np.float32), noise=(0.005, 0.1)), scene


def _wall_light(rng: Rng, tiling: Tiling) -> FloatArray:
    """Membrane stain, about 0..1, (H, W); gaps where it fades."""
    shape = tiling.wall.shape
    width = tiling.wall_width * rng.uniform(0.7, 1.2)
    profile = np.exp(-((tiling.wall / np.float32(0.5 * width)) ** 2)) * tiling.tissue
    uneven = smooth_noise(rng, shape, max(2.0, tiling.scene.diameter * rng.uniform(0.2, 0.8)))
    return np.asarray(profile * np.clip(1 + uneven * rng.uniform(0, 0.45), 0.15, 2), np.float32)


def membranes(rng: Rng, shape: Shape, diameter: float) -> Rendered:
    """Packed cells: bright or dark walls around noisy interiors."""
    tiling = tiles(rng, shape, max(diameter, 8.0))
    scene = tiling.scene
    light = _wall_light(rng, tiling)
    inner = texture(rng, shape, max(1.0, diameter * rng.uniform(0.04, 0.2)))
    inner = np.clip(1 + inner * rng.uniform(0, 0.7), 0, 3) * per_object(rng, scene, 2.5)
    light = light + inner * rng.uniform(0, 0.35)
    if rng.random() < 0.3 and diameter > 15:  # a nucleus, bright or empty
        nucleus = np.clip((rng.uniform(0.3, 0.65) - core_distance(rng, scene)) * 8, 0, 1)
        light = light + nucleus * rng.uniform(-0.25, 0.4)
    light = blur(light.astype(np.float32), min(blurred_focus(rng, scene), 0.6 * tiling.wall_width))
    light = light + debris(rng, scene) * rng.uniform(0.2, 0.8)
    light = light + blur(light, diameter) * rng.uniform(0, 0.3)
    light = (light + rng.uniform(0, 0.2)) * illumination(rng, shape, 0.4)
    if rng.random() < 0.4:
        light = 1 - np.clip(light, 0, 1.2)
    return camera(rng, light.astype(np.float32), noise=(0.005, 0.12)), scene
