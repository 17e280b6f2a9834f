"""Grey-level looks: fluorescence, absorption, texture, membranes."""

from __future__ import annotations

import numpy as np

from ._fields import FloatArray, Shape, blur, fibres, log_uniform, ridges, smooth_noise, texture
from ._render import Grey, blurred_focus, camera, debris, ghosts, illumination, per_object
from ._scene import Scene, core_distance
from ._shapes import blobs, random_style
from ._tiling import Tiling, tiles

__all__ = ["dark_on_light", "fluorescence", "membranes", "textured"]

Rendered = tuple[Grey, Scene]

_COMPACT = ("round", "oval", "round", "oval", "oval", "rough", "rod")
_ANY = ("round", "oval", "rough", "rod", "star", "spindle")


def _staining(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """Stain density inside objects, about 0.2..1.5, (H, W)."""
    shape = scene.labels.shape
    grain = max(1.0, scene.diameter * rng.uniform(0.04, 0.25))
    uneven = texture(rng, shape, grain) * np.float32(0.4 * rng.random() ** 1.5)
    # A dome, a flat disc, or (negative power) a stained rim.
    power = float(rng.choice([0.0, 0.2, 0.4, 0.7, -0.15]))
    profile = (scene.depth + np.float32(0.05)) ** np.float32(power)
    stain = profile * np.clip(1 + uneven, 0.15, 2)
    if rng.random() < 0.3 and scene.diameter > 12:  # nucleoli or bright foci
        spots = smooth_noise(rng, shape, scene.diameter * rng.uniform(0.06, 0.12)) > 1.4
        stain = stain * np.where(spots, np.float32(rng.choice([0.5, 1.6, 2.2])), 1)
    result: FloatArray = stain * per_object(rng, scene, rng.choice([1.2, 2.0, 5.0]))
    return result


def _separate(rng: np.random.Generator, scene: Scene, image: FloatArray) -> FloatArray:
    """Sometimes darken where objects meet, as thick objects do."""
    if rng.random() < 0.4:
        return image
    width = max(0.6, 0.06 * scene.diameter)
    near_rim = np.clip(scene.depth * np.float32(0.5 * scene.diameter / width), 0, 1)
    result: FloatArray = image * (0.4 + 0.6 * near_rim)
    return result


def fluorescence(rng: np.random.Generator, shape: Shape, diameter: float) -> Rendered:
    """Bright objects on a dark, hazy background."""
    compact = rng.random() < 0.75
    warps = (0.0, 0.0, 0.0, 0.02, 0.04) if compact else (0.0, 0.05, 0.1)
    style = random_style(rng, _COMPACT if compact else _ANY, warps=warps)
    scene = blobs(rng, shape, diameter, style)
    light = _separate(rng, scene, _staining(rng, scene))
    light = blur(light, blurred_focus(rng, scene))
    if rng.random() < 0.6:  # light from outside the focal plane
        light = light + blur(light, diameter * rng.uniform(0.3, 1.0)) * rng.uniform(0, 0.4)
    light = light + ghosts(rng, scene) * rng.uniform(0.05, 0.35)
    light = light + debris(rng, scene) * rng.uniform(0.1, 0.8)
    background = rng.uniform(0, 0.25) * illumination(rng, shape, 0.8)
    if rng.random() < 0.3:  # autofluorescent surroundings
        haze = texture(rng, shape, diameter * rng.uniform(0.3, 1.5))
        background = background * np.clip(1 + 0.4 * haze, 0, 3)
    light = light * illumination(rng, shape, 0.4) + background
    if rng.random() < 0.3:  # display gamma, or saturation
        light = np.clip(light, 0, 3) ** rng.uniform(0.5, 1.6)
    return camera(rng, light.astype(np.float32)), scene


def dark_on_light(rng: np.random.Generator, shape: Shape, diameter: float) -> Rendered:
    """Absorbing objects in transmitted light."""
    scene = blobs(rng, shape, diameter, random_style(rng, _ANY))
    density = _separate(rng, scene, _staining(rng, scene)) * log_uniform(rng, 0.3, 2.0)
    if rng.random() < 0.4:  # faintly stained surroundings
        tissue = np.clip(texture(rng, shape, diameter * rng.uniform(0.2, 1.0)) + 0.5, 0, 3)
        density = density + tissue * rng.uniform(0.02, 0.15)
    if rng.random() < 0.2:
        density = density + fibres(rng, shape, max(3.0, diameter * 0.4)) * rng.uniform(0.05, 0.3)
    density = density + ghosts(rng, scene) * rng.uniform(0.05, 0.3)
    density = density + debris(rng, scene) * rng.uniform(0.2, 1.0)
    light = blur(np.exp(-density).astype(np.float32), blurred_focus(rng, scene))
    light = light * illumination(rng, shape, 0.25)
    return camera(rng, light, noise=(0.003, 0.05), dim=0.1), scene


def _two_grains(
    rng: np.random.Generator, shape: Shape, diameter: float
) -> tuple[FloatArray, FloatArray]:
    """Two patterns, (H, W) each, that differ clearly in scale or kind."""
    fine = smooth_noise(rng, shape, rng.uniform(1.0, 1.8))
    scale = rng.uniform(3.5, max(4.0, diameter * 0.25))
    kind = rng.random()
    if kind < 0.25:
        return fine, (fibres(rng, shape, scale * 1.5) - np.float32(0.3)) * 3
    coarse = smooth_noise(rng, shape, scale)
    if kind < 0.5:
        return fine, (ridges(coarse, rng.uniform(0.3, 1.0)) - np.float32(0.3)) * 3
    return fine, coarse


def textured(rng: np.random.Generator, shape: Shape, diameter: float) -> Rendered:
    """Objects that differ from the background by their grain only, or little else."""
    diameter = max(diameter, 16.0)  # a smaller patch holds no texture
    scene = blobs(rng, shape, diameter, random_style(rng, _ANY))
    fine, coarse = _two_grains(rng, shape, diameter)
    inside, outside = (fine, coarse) if rng.random() < 0.5 else (coarse, fine)
    mask = blur(scene.mask, rng.uniform(0, 1.0))
    grey = inside * rng.uniform(0.5, 1.2) * mask + outside * rng.uniform(0.1, 1.0) * (1 - mask)
    if rng.random() < 0.7:  # some offset in brightness as well
        lift = rng.uniform(0.3, 1.5) * rng.choice([-1, 1])
        grey = grey + lift * mask + per_object(rng, scene, 3.0) * rng.uniform(-0.3, 0.3)
    grey = blur(grey.astype(np.float32), rng.uniform(0, 0.8)) * illumination(rng, shape, 0.2)
    return camera(rng, np.float32(0.5) + grey * np.float32(0.14), noise=(0.004, 0.025)), scene


def _wall_light(rng: np.random.Generator, tiling: Tiling) -> FloatArray:
    """Membrane stain, about 0..1, (H, W); gaps where it fades."""
    shape = tiling.wall.shape
    width = tiling.wall_width * rng.uniform(0.7, 1.2)
    profile = np.exp(-((tiling.wall / np.float32(0.5 * width)) ** 2)) * tiling.tissue
    uneven = smooth_noise(rng, shape, max(2.0, tiling.scene.diameter * rng.uniform(0.2, 0.8)))
    light: FloatArray = profile * np.clip(1 + uneven * rng.uniform(0, 0.45), 0.15, 2)
    return light.astype(np.float32)


def membranes(rng: np.random.Generator, shape: Shape, diameter: float) -> Rendered:
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
