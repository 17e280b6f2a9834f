"""Phase contrast of flat cells: interiors like the background, seen by their edges only."""

from __future__ import annotations

import numpy as np

from ._fields import FloatArray, Shape, blur, log_uniform, smooth_noise, texture
from ._render import Grey, camera, debris, illumination
from ._scene import Scene, contact_lines, core_distance
from ._shapes import blobs, random_style

__all__ = ["flat_phase"]


def _granules(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """Nucleus and granules, which only some of the cells show, (H, W)."""
    shape, size = scene.labels.shape, scene.diameter
    core = core_distance(rng, scene)
    shown = (rng.random(scene.count + 1) < rng.uniform(0.2, 1.0))[scene.labels]
    rim = np.abs(core - rng.uniform(0.3, 0.55)) < rng.uniform(0.03, 0.1)
    grains = smooth_noise(rng, shape, max(1.2, size * rng.uniform(0.015, 0.05)))
    grains = (grains > 1.2 + 0.8 * core) * rng.choice([-1.0, 1.0])
    inner = rim * rng.uniform(-1, 0.6) + grains * rng.uniform(0.2, 1.2)
    return blur((inner * shown * scene.mask).astype(np.float32), rng.uniform(0.5, 1.2))


def _fringes(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """Bright halo outside and dark line inside, broken where a margin lies flat, (H, W)."""
    width = float(np.clip(scene.diameter * rng.uniform(0.015, 0.06), 0.6, 4.0))
    solid = scene.mask
    solid[contact_lines(scene.labels)] = 0
    step = blur(solid, width) - blur(solid, 0.4)
    wide = blur(solid, 3 * width) - solid
    halo = np.clip(step, 0, None) * log_uniform(rng, 1.0, 5.0)
    halo = halo + np.clip(wide, 0, None) * rng.uniform(0, 0.8)
    dark = np.clip(step, None, 0) * rng.uniform(0.5, 3.0)
    attached = smooth_noise(rng, scene.labels.shape, scene.diameter * rng.uniform(0.2, 0.6))
    fringes: FloatArray = (halo + dark) * np.clip(0.8 + 0.6 * attached, 0.05, 2.5)
    return fringes


def flat_phase(rng: np.random.Generator, shape: Shape, diameter: float) -> tuple[Grey, Scene]:
    """Adherent cells whose interior is as bright as the dish."""
    diameter = max(diameter, 24.0)
    families = ("star", "spindle", "rough", "oval", "rough", "star")
    style = random_style(
        rng, families, spacing=(0.85, 2.2), warps=(0.0, 0.03, 0.06), spreads=(0.2, 0.35, 0.5)
    )
    scene = blobs(rng, shape, diameter, style)
    grey = _fringes(rng, scene) + _granules(rng, scene) * rng.uniform(0.1, 0.5)
    ground = texture(rng, shape, max(1.5, diameter * rng.uniform(0.03, 0.1)))
    grey = grey + ground * np.float32(0.12 * rng.random())
    # The thick middle shades off; the flat margin does not.
    middle = blur((scene.depth > rng.uniform(0.5, 0.8)).astype(np.float32), diameter * 0.1)
    grey = grey + middle * rng.uniform(-0.5, 0.3) + debris(rng, scene) * rng.uniform(-1, 1)
    field = rng.uniform(0.35, 0.6) * illumination(rng, shape, 0.2)
    grey = field + grey * np.float32(log_uniform(rng, 0.08, 0.35))
    return camera(rng, grey.astype(np.float32), noise=(0.003, 0.03), dim=0.1), scene
