"""Bright-field smears: translucent stained cells that touch and overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._fields import FloatArray, Shape, blur, log_uniform, texture
from ._render import Grey, blurred_focus, camera, debris, illumination, per_object, sensor_noise
from ._scene import Scene, contact_lines, core_distance
from ._shapes import blobs, random_style

__all__ = ["smear"]

# Optical densities in red, green, blue: pink cytoplasm, blue cytoplasm, violet nuclei.
_CYTOPLASM = np.array([[0.15, 0.55, 0.40], [0.60, 0.45, 0.20], [0.35, 0.40, 0.45]])
_NUCLEUS = np.array([0.75, 0.95, 0.35])


def _density(rng: np.random.Generator, scene: Scene) -> tuple[FloatArray, FloatArray]:
    """Densities of cytoplasm and nuclei, about 0..1 each, (H, W)."""
    shape = scene.labels.shape
    grain = texture(rng, shape, max(1.0, scene.diameter * rng.uniform(0.05, 0.2)))
    body = scene.mask * np.clip(1 + grain * rng.uniform(0, 0.2), 0.2, 2)
    if rng.random() < 0.5:  # discs that are thin in their middle, as red blood cells
        body = body * (1 - rng.uniform(0.3, 0.9) * np.clip(scene.depth * 2 - 0.8, 0, 1))
    rim = np.exp(-scene.depth * np.float32(rng.uniform(6, 15))) * scene.mask
    body = body * (0.4 + 0.6 * per_object(rng, scene, 2.5)) + rim * rng.uniform(-0.3, 0.8)
    body[contact_lines(scene.labels)] *= np.float32(rng.uniform(0.8, 1.6))
    nucleated = per_object(rng, scene, 10.0) > rng.uniform(0.1, 1.0)
    core = np.clip((rng.uniform(0.4, 0.8) - core_distance(rng, scene)) * 6, 0, 1)
    nuclei = core * nucleated * np.clip(1 + 0.3 * grain, 0.3, 2)
    return np.clip(body, 0, 2).astype(np.float32), nuclei.astype(np.float32)


def smear(
    rng: np.random.Generator, shape: Shape, diameter: float
) -> tuple[NDArray[np.uint8] | Grey, Scene]:
    """Stained smear in transmitted light, RGB or grey."""
    families = ("round", "round", "oval", "rough")
    style = random_style(rng, families, spacing=(0.75, 2.0), warps=(0.0, 0.0, 0.02))
    scene = blobs(rng, shape, max(diameter, 10.0), style)
    body, nuclei = (d * np.float32(log_uniform(rng, 0.25, 1.2)) for d in _density(rng, scene))
    specks = debris(rng, scene) * rng.uniform(0, 0.8)
    sigma = blurred_focus(rng, scene) * 0.6
    body, nuclei = blur(body, sigma), blur((nuclei + specks).astype(np.float32), sigma)
    light = illumination(rng, shape, 0.2)
    if rng.random() < 0.4:
        return camera(rng, np.exp(-body - nuclei) * light, noise=(0.003, 0.04), dim=0.1), scene
    tint = rng.dirichlet([0.7, 0.7, 0.7]) @ _CYTOPLASM * rng.uniform(0.8, 1.2, 3)
    density = body[..., None] * tint + nuclei[..., None] * (_NUCLEUS * rng.uniform(0.8, 1.2, 3))
    rgb = np.exp(-density) * light[..., None] * rng.uniform(0.85, 1.0, 3) * rng.uniform(190, 255)
    noise = sensor_noise(
        rng, rgb.reshape(shape[0], -1).astype(np.float32) / 255, log_uniform(rng, 0.002, 0.03)
    )
    grainy: NDArray[np.uint8] = np.clip(noise * 255, 0, 255).astype(np.uint8)
    return grainy.reshape(*shape, 3), scene
