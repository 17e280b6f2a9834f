"""Thin and branching objects: filaments, hyphae, cells with long processes."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ._fields import FloatArray, IntArray, Shape, blur, log_uniform, texture
from ._render import Grey, blurred_focus, camera, debris, ghosts, illumination, per_object
from ._scene import Scene, tidy

__all__ = ["branching"]

_STEP = 2.0  # pixels between two points of a skeleton


def _walk(
    rng: np.random.Generator, start: FloatArray, angle: float, length: float, curl: float
) -> tuple[FloatArray, FloatArray]:
    """Points (n, 2) of a curve in pixels, and its direction at each, (n,)."""
    count = max(2, int(length / _STEP))
    angles = angle + np.cumsum(rng.normal(0, curl, count))
    steps = _STEP * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return (start + np.cumsum(steps, axis=0)).astype(np.float32), angles.astype(np.float32)


def _tree(rng: np.random.Generator, start: FloatArray, length: float, branches: int) -> FloatArray:
    """Points (n, 2) of a stem and of branches that leave it, in pixels."""
    curl = rng.uniform(0.02, 0.2)
    stem, angles = _walk(rng, start, rng.uniform(0, 2 * np.pi), length, curl)
    parts = [stem]
    for _ in range(branches):
        at = int(rng.integers(len(stem)))
        side = rng.choice([-1, 1]) * rng.uniform(0.4, 1.4)
        reach = length * rng.uniform(0.15, 0.5)
        parts.append(_walk(rng, stem[at], float(angles[at]) + side, reach, curl)[0])
    return np.concatenate(parts)


def _painted(rng: np.random.Generator, shape: Shape, trees: list[FloatArray]) -> Scene:
    """Thicken the trees to objects; a later one covers an earlier one."""
    labels = np.zeros(shape, np.int32)
    depth = np.zeros(shape, np.float32)
    width = log_uniform(rng, 3.0, 8.0)
    for number, points in enumerate(trees, start=1):
        rows, columns = np.round(points).astype(int).T
        seen = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        if not seen.any():
            continue
        skeleton = np.ones(shape, bool)
        skeleton[rows[seen], columns[seen]] = False
        distance = ndimage.distance_transform_edt(skeleton)
        half = 0.5 * width * rng.uniform(0.8, 1.25)
        inside = distance < half
        labels[inside] = number
        depth[inside] = 1 - distance[inside] / half
    return Scene(_kept(labels), depth, 2 * width)


def _kept(labels: IntArray) -> IntArray:
    tidied: IntArray = tidy(labels, min_area=16)
    return tidied


def branching(rng: np.random.Generator, shape: Shape, diameter: float) -> tuple[Grey, Scene]:
    """Filaments on a hazy ground, bright or dark, with or without branches."""
    # The area of an object is length times width: thin ones of the same area are long.
    length = max(30.0, 1.5 * diameter)
    density = rng.uniform(0.15, 0.6) * shape[0] * shape[1] / length**2
    count = int(np.clip(rng.poisson(density) + 1, 1, 24))
    branches = int(rng.integers(0, 6))
    starts = rng.uniform(0.1, 0.9, (count, 2)) * shape
    scene = _painted(
        rng, shape, [_tree(rng, start.astype(np.float32), length, branches) for start in starts]
    )
    if scene.count == 0:  # every object was covered or left the field
        middle = np.array([n / 2 for n in shape], np.float32)
        scene = _painted(rng, shape, [_tree(rng, middle, length, branches)])
    scene = Scene(scene.labels, scene.depth * (scene.labels > 0), scene.diameter)
    grain = texture(rng, shape, max(1.2, scene.diameter * rng.uniform(0.1, 0.5)))
    light = scene.mask * np.clip(0.8 + grain * rng.uniform(0, 0.35), 0.1, 2)
    light = light * (0.3 + 0.7 * per_object(rng, scene, 2.5))
    light = blur(light.astype(np.float32), min(blurred_focus(rng, scene), 0.15 * scene.diameter))
    light = light + ghosts(rng, scene) * rng.uniform(0, 0.3) + debris(rng, scene) * 0.5
    light = (light + rng.uniform(0, 0.2)) * illumination(rng, shape, 0.4)
    if rng.random() < 0.4:
        light = 1 - np.clip(light, 0, 1.2)
    return camera(rng, light.astype(np.float32), noise=(0.005, 0.08)), scene
