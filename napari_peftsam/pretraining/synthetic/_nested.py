"""Nuclei in cells in clusters: a click may mean a part, the whole or a group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from ._fields import FloatArray, IntArray, Rng, Shape, blur, log_uniform, smooth_noise, texture
from ._render import Rendered, blurred_focus, camera, debris, illumination, per_object
from ._scene import MIN_AREA, Scene, blobs, contact_lines, core_distance, random_style

_FAMILIES = ("round", "oval", "rough", "oval")


def _nuclei(rng: Rng, scene: Scene) -> tuple[IntArray, FloatArray]:
    """One nucleus per cell with the cell's id, and how far inside it a pixel is (0..1)."""
    core = core_distance(rng, scene)
    radius = rng.uniform(0.35, 0.7) * rng.uniform(0.85, 1.15, scene.count + 1)
    # Noise bends the outline: nuclei are no perfect ellipses.
    wobble = 1 + 0.08 * smooth_noise(rng, scene.labels.shape, max(2.0, 0.3 * scene.diameter))
    inside = np.clip(1 - core * wobble / radius[scene.labels], 0, 1).astype(np.float32)
    inside *= scene.depth > 0.05  # cytoplasm remains around it
    parts = np.where(inside > 0, scene.labels, 0)
    area = np.bincount(parts.ravel(), minlength=scene.count + 1)
    small = area < MIN_AREA
    small[0] = True
    parts[small[parts]] = 0
    return parts.astype(np.int32), inside * (parts > 0)


def _clusters(scene: Scene) -> IntArray:
    """Cells that touch each other, or almost do, as one object each."""
    reach = max(1, round(0.06 * scene.diameter))
    joined = ndimage.binary_dilation(scene.labels > 0, iterations=reach)
    groups, _ = ndimage.label(joined)
    return np.where(scene.labels > 0, groups, 0).astype(np.int32)


def _stain(rng: Rng, scene: Scene, inside: FloatArray) -> FloatArray:
    """Cytoplasm and nuclei, the cytoplasm always visible, (H, W)."""
    shape = scene.labels.shape
    grain = texture(rng, shape, max(1.2, scene.diameter * rng.uniform(0.04, 0.15)))
    cytoplasm = np.clip(1 + grain * rng.uniform(0.05, 0.3), 0.3, 2)
    cytoplasm = cytoplasm * (scene.depth + np.float32(0.1)) ** np.float32(rng.uniform(0, 0.5))
    cytoplasm = cytoplasm * (0.5 + 0.5 * per_object(rng, scene, 2.0)) * scene.mask
    edge = np.clip(inside * np.float32(rng.uniform(4, 12)), 0, 1)
    level = rng.uniform(0.5, 1.5) * rng.choice([1.0, 1.0, 1.0, -0.45])  # or a hole in the stain
    return np.asarray(cytoplasm * log_uniform(rng, 0.25, 0.6) * (1 + level * 2 * edge), np.float32)


def nested(rng: Rng, shape: Shape, diameter: float) -> Rendered:
    """Cells in clusters, each with a nucleus; bright on dark, or dark on bright."""
    diameter = max(diameter, 20.0)  # a smaller cell has no room for a nucleus
    style = random_style(rng, _FAMILIES, spacing=(0.8, 1.4), warps=(0.0, 0.02, 0.05))
    style = replace(style, keep=float(rng.uniform(0.3, 0.8)), clumped=True)
    scene = blobs(rng, shape, diameter, style)
    parts, inside = _nuclei(rng, scene)
    scene = replace(scene, parts=parts, groups=_clusters(scene))
    light = _stain(rng, scene, inside)
    light[contact_lines(scene.labels)] *= np.float32(rng.uniform(0.3, 0.8))
    light = blur(light, blurred_focus(rng, scene) * 0.7) + debris(rng, scene) * rng.uniform(0, 0.4)
    light = light * illumination(rng, shape, 0.3) + rng.uniform(0, 0.15)
    if rng.random() < 0.4:
        light = np.exp(-light * rng.uniform(0.8, 2.0))
    return camera(rng, light.astype(np.float32), noise=(0.004, 0.05)), scene
