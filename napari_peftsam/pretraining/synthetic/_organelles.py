"""Electron microscopy of cells: membranes everywhere, and organelles with a rim and an inside."""

from __future__ import annotations

import numpy as np

from ._fields import FloatArray, Shape, blur, fibres, ridges, smooth_noise, texture
from ._render import Grey, camera, illumination, per_object
from ._scene import Scene
from ._shapes import blobs, random_style
from ._tiling import tiles

__all__ = ["organelles"]


def _surroundings(rng: np.random.Generator, shape: Shape, diameter: float) -> FloatArray:
    """Cytoplasm with cell membranes and vesicles around the organelles, dark = 1, (H, W)."""
    grain = texture(rng, shape, max(1.2, diameter * rng.uniform(0.05, 0.2)))
    bed = grain * rng.uniform(0.05, 0.2)
    if rng.random() < 0.7:
        tiling = tiles(rng, shape, diameter * rng.uniform(1.5, 5))
        bed = bed + np.exp(-((tiling.wall / np.float32(rng.uniform(0.8, 2.0))) ** 2)) * 0.8
    if rng.random() < 0.6:  # reticulum
        net = smooth_noise(rng, shape, max(2.0, diameter * rng.uniform(0.15, 0.4)))
        bed = bed + ridges(net, rng.uniform(0.1, 0.4)) * rng.uniform(0.2, 0.8)
    vesicles = smooth_noise(rng, shape, max(1.5, diameter * 0.08))
    bed = bed + (np.abs(vesicles - 1.6) < 0.25) * rng.uniform(0, 0.7)
    result: FloatArray = bed.astype(np.float32)
    return result


def _inside(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """Matrix, cristae or granules of the organelles, dark = 1, (H, W)."""
    shape = scene.labels.shape
    matrix = rng.uniform(0.1, 0.7) + 0.3 * per_object(rng, scene, 2.0)
    if rng.random() < 0.6:
        cristae = fibres(rng, shape, max(2.0, scene.diameter * rng.uniform(0.12, 0.3)))
        matrix = matrix + cristae * rng.uniform(-0.4, 0.5)
    else:
        grain = texture(rng, shape, max(1.0, scene.diameter * rng.uniform(0.04, 0.12)))
        matrix = matrix + grain * rng.uniform(0, 0.2)
    result: FloatArray = matrix.astype(np.float32)
    return result


def organelles(rng: np.random.Generator, shape: Shape, diameter: float) -> tuple[Grey, Scene]:
    """Mitochondria and alike among membranes; dark membranes, or (backscatter) bright ones."""
    diameter = max(diameter, 10.0)
    style = random_style(
        rng, ("oval", "rod", "oval", "rough", "round"), spacing=(1.0, 3.0), warps=(0.0, 0.02, 0.04)
    )
    scene = blobs(rng, shape, diameter, style)
    rim = np.exp(-scene.depth * np.float32(rng.uniform(5, 14))) * scene.mask
    dark = np.where(scene.labels > 0, _inside(rng, scene), _surroundings(rng, shape, diameter))
    dark = dark + rim * rng.uniform(0.2, 0.9)
    # A bright cleft sets the organelle off from the cytoplasm.
    around = blur(scene.mask, max(0.7, 0.04 * diameter)) * (1 - scene.mask)
    dark = dark - around * rng.uniform(0, 0.8)
    dark = blur(dark.astype(np.float32), rng.uniform(0.3, min(1.5, diameter / 15)))
    grey = 0.75 - 0.45 * dark if rng.random() < 0.75 else 0.2 + 0.5 * dark
    grey = grey * illumination(rng, shape, 0.12)
    return camera(rng, grey.astype(np.float32), noise=(0.01, 0.1), dim=0.15, deep=0.05), scene
