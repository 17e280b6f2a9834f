"""Dense tissue: cells that touch along thin walls, without gaps between their labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ._fields import FloatArray, IntArray, Shape, blur, log_uniform, smooth_noise, texture
from ._render import Grey, blurred_focus, camera, illumination, per_object, sensor_noise
from ._scene import Scene, core_distance, tidy
from ._tiling import Tiling, tiles

__all__ = ["tissue"]


def _touching(tiling: Tiling) -> IntArray:
    """Interiors grown over the walls until they meet, (H, W)."""
    labels = tiling.scene.labels
    if not labels.any():
        return labels
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    grown: IntArray = tidy(np.where(tiling.tissue, labels[tuple(nearest)], 0).astype(np.int32))
    return grown


def _walls(rng: np.random.Generator, tiling: Tiling) -> FloatArray:
    """Stain along the walls, thin and uneven, about 0..1, (H, W)."""
    width = max(0.7, tiling.wall_width * rng.uniform(0.3, 0.8))
    line = np.exp(-((tiling.wall / np.float32(width)) ** 2)) * tiling.tissue
    if rng.random() < 0.3:  # two membranes with a gap
        line = line - 0.9 * np.exp(-((tiling.wall / np.float32(0.4 * width)) ** 2)) * tiling.tissue
    fade = smooth_noise(rng, line.shape, max(2.0, tiling.scene.diameter * rng.uniform(0.2, 0.7)))
    walls: FloatArray = line * np.clip(1 + fade * rng.uniform(0, 0.6), 0.05, 2)
    return walls.astype(np.float32)


def _colours(
    rng: np.random.Generator, wall: FloatArray, inner: FloatArray, nuclei: FloatArray
) -> NDArray[np.uint8]:
    """Show the three densities in colours of their own, (H, W, 3)."""
    vectors = rng.uniform(0.1, 1.0, (3, 3)).astype(np.float32)
    layers = (wall * log_uniform(rng, 0.3, 1.2), inner * rng.uniform(0.05, 0.4), nuclei)
    density = sum(layer[..., None] * vector for layer, vector in zip(layers, vectors, strict=True))
    light = np.exp(-np.asarray(density, np.float32))
    flat = sensor_noise(rng, light.reshape(len(light), -1), log_uniform(rng, 0.003, 0.03))
    rgb: NDArray[np.uint8] = np.clip(
        flat.reshape(light.shape) * rng.uniform(200, 255), 0, 255
    ).astype(np.uint8)
    return rgb


def tissue(
    rng: np.random.Generator, shape: Shape, diameter: float
) -> tuple[NDArray[np.uint8] | Grey, Scene]:
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
