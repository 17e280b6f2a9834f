"""Grey-level looks: fluorescence, absorption and texture; thin objects; empty fields."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ._fields import (
    FloatArray,
    Rng,
    Shape,
    blur,
    fibres,
    log_uniform,
    ridges,
    smooth_noise,
    texture,
)
from ._render import Rendered, blurred_focus, camera, debris, ghosts, illumination, per_object
from ._scene import Scene, blobs, random_style, tidy

_COMPACT = ("round", "oval", "round", "oval", "oval", "rough", "rod")
_ANY = ("round", "oval", "rough", "rod", "star", "spindle")
_STEP = 2.0  # pixels between two points of a skeleton of thin objects


def _staining(rng: Rng, scene: Scene) -> FloatArray:
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
    return np.asarray(stain * per_object(rng, scene, rng.choice([1.2, 2.0, 5.0])), np.float32)


def _separate(rng: Rng, scene: Scene, image: FloatArray) -> FloatArray:
    """Sometimes darken where objects meet, as thick objects do."""
    if rng.random() < 0.4:
        return image
    width = max(0.6, 0.06 * scene.diameter)
    near_rim = np.clip(scene.depth * np.float32(0.5 * scene.diameter / width), 0, 1)
    return np.asarray(image * (0.4 + 0.6 * near_rim), np.float32)


def fluorescence(rng: Rng, shape: Shape, diameter: float) -> Rendered:
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


def dark_on_light(rng: Rng, shape: Shape, diameter: float) -> Rendered:
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


def _two_grains(rng: Rng, shape: Shape, diameter: float) -> tuple[FloatArray, FloatArray]:
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


def textured(rng: Rng, shape: Shape, diameter: float) -> Rendered:
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


def _walk(
    rng: Rng, start: FloatArray, angle: float, length: float, curl: float
) -> tuple[FloatArray, FloatArray]:
    """Points (n, 2) of a curve in pixels, and its direction at each, (n,)."""
    count = max(2, int(length / _STEP))
    angles = angle + np.cumsum(rng.normal(0, curl, count))
    steps = _STEP * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return (start + np.cumsum(steps, axis=0)).astype(np.float32), angles.astype(np.float32)


def _tree(rng: Rng, start: FloatArray, length: float, branches: int) -> FloatArray:
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


def _painted(rng: Rng, shape: Shape, trees: list[FloatArray]) -> Scene:
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
    labels = tidy(labels, min_area=16)
    return Scene(labels, depth * (labels > 0), 2 * width)


def branching(rng: Rng, shape: Shape, diameter: float) -> Rendered:
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
    grain = texture(rng, shape, max(1.2, scene.diameter * rng.uniform(0.1, 0.5)))
    light = scene.mask * np.clip(0.8 + grain * rng.uniform(0, 0.35), 0.1, 2)
    light = light * (0.3 + 0.7 * per_object(rng, scene, 2.5))
    light = blur(light.astype(np.float32), min(blurred_focus(rng, scene), 0.15 * scene.diameter))
    light = light + ghosts(rng, scene) * rng.uniform(0, 0.3) + debris(rng, scene) * 0.5
    light = (light + rng.uniform(0, 0.2)) * illumination(rng, shape, 0.4)
    if rng.random() < 0.4:
        light = 1 - np.clip(light, 0, 1.2)
    return camera(rng, light.astype(np.float32), noise=(0.005, 0.08)), scene


def _ground(rng: Rng, shape: Shape, diameter: float) -> FloatArray:
    """Background of some modality, about -1..1, (H, W)."""
    kind = rng.integers(4)
    grain = texture(rng, shape, max(1.5, diameter * rng.uniform(0.1, 1.0)))
    if kind == 0:  # dark field or dish
        return grain * np.float32(0.2 * rng.random() ** 2)
    if kind == 1:  # tissue bed
        return (grain * 0.3 + fibres(rng, shape, max(3.0, diameter * 0.3)) * 0.7).astype(np.float32)
    if kind == 2:  # neuropil
        net = smooth_noise(rng, shape, max(2.0, diameter * 0.2))
        return (grain * 0.3 + ridges(net, rng.uniform(0.3, 0.8)) * 0.6).astype(np.float32)
    return blur(grain, diameter * 0.2) * np.float32(rng.uniform(0.1, 0.6))  # haze


def empty(rng: Rng, shape: Shape, diameter: float) -> Rendered:
    """Background alone, often with specks and with light from other planes."""
    nothing = Scene(np.zeros(shape, np.int32), np.zeros(shape, np.float32), diameter)
    grey = _ground(rng, shape, diameter) * log_uniform(rng, 0.05, 0.4)
    for _ in range(2):
        grey = grey + debris(rng, nothing) * rng.uniform(-0.5, 0.8)
        grey = grey + ghosts(rng, nothing) * rng.uniform(0, 0.3)
    grey = (rng.uniform(0.05, 0.7) + grey) * illumination(rng, shape, 0.5)
    return camera(rng, grey.astype(np.float32), noise=(0.01, 0.1)), nothing
