"""Transmitted light: adherent cells in phase contrast, stained sections and smears."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._fields import FloatArray, Rng, Shape, blur, fibres, log_uniform, smooth_noise, texture
from ._render import (
    Rendered,
    blurred_focus,
    camera,
    debris,
    ghosts,
    illumination,
    per_object,
    sensor_noise,
)
from ._scene import Scene, blobs, contact_lines, core_distance, random_style


def _cell_bodies(rng: Rng, scene: Scene) -> FloatArray:
    """Phase shift of cytoplasm, nucleus and granules, about -1..1, (H, W)."""
    shape, size = scene.labels.shape, scene.diameter
    inner = texture(rng, shape, max(1.2, size * rng.uniform(0.03, 0.15)))
    body = inner * 0.4 * rng.random() ** 1.5 + rng.uniform(-0.7, 0.4) * rng.random()
    core = core_distance(rng, scene)
    if rng.random() < 0.7:
        nucleus = np.clip((rng.uniform(0.3, 0.6) - core) * 6, 0, 1)
        # Smoother than the cytoplasm, and set off by its rim or by its level.
        body = body * (1 - nucleus * rng.random()) + nucleus * rng.uniform(-0.4, 0.4)
        body = body - nucleus * (1 - nucleus) * rng.uniform(0, 2.0)
    if rng.random() < 0.7:  # nucleoli and granules gather around the nucleus
        grains = smooth_noise(rng, shape, max(1.2, size * rng.uniform(0.02, 0.06)))
        grains = (grains > 1.3 + core) * rng.choice([-1.0, -1.0, 0.8])
        body = body + blur(grains.astype(np.float32), 0.5) * rng.uniform(0.3, 1.5)
    return np.asarray(body * (0.4 + per_object(rng, scene, 2.5)) * scene.mask, np.float32)


def _edges(rng: Rng, scene: Scene) -> FloatArray:
    """Bright fringe outside outlines and dark line inside, about -1..2, (H, W).

    A band-passed mask is what the phase ring does to a thick object.
    """
    width = float(np.clip(scene.diameter * rng.uniform(0.02, 0.1), 0.7, 7.0))
    solid = scene.mask
    solid[contact_lines(scene.labels)] = 0
    step = blur(solid, width) - blur(solid, 0.5)
    outside, inside = np.clip(step, 0, None), np.clip(step, None, 0)
    uneven = np.clip(
        1 + 0.6 * smooth_noise(rng, scene.labels.shape, scene.diameter * 0.4), 0.2, 2.5
    )
    fringe = outside * log_uniform(rng, 0.6, 5.0) + inside * rng.uniform(-0.5, 3.0)
    return np.asarray(fringe * uneven, np.float32)


def _thickness(rng: Rng, scene: Scene) -> FloatArray:
    """Cells with thin, uneven margins that swell around the nucleus, about 0..1.5, (H, W)."""
    height = (scene.depth + np.float32(0.02)) ** np.float32(rng.uniform(0.1, 0.7))
    uneven = smooth_noise(rng, scene.labels.shape, scene.diameter * rng.uniform(0.1, 0.5))
    height = height * np.clip(1 + np.float32(0.4 * rng.random()) * uneven, 0.2, 2)
    core = core_distance(rng, scene)
    nucleus = np.clip(rng.uniform(0.4, 0.8) - core, 0, 1)
    height = height + nucleus * rng.uniform(0, 1.5)
    height[contact_lines(scene.labels)] *= np.float32(rng.uniform(0.2, 1))
    return np.asarray(height * per_object(rng, scene, 3.0), np.float32)


def _phase_ring(rng: Rng, scene: Scene) -> FloatArray:
    """Show thickness as the phase ring does: dark, shaded off inside, haloed; about -1..1."""
    thickness = blur(_thickness(rng, scene), rng.uniform(0.4, 1.2))
    narrow = float(np.clip(scene.diameter * rng.uniform(0.03, 0.08), 1.0, 6.0))
    wide = float(np.clip(scene.diameter * rng.uniform(0.15, 0.5), 3.0, 30.0))
    share = np.float32(rng.uniform(0.3, 0.8))
    halo = share * blur(thickness, narrow) + (1 - share) * blur(thickness, wide)
    light = (halo - thickness) * np.float32(log_uniform(rng, 1.0, 4.0))
    # The bright fringe saturates less than the dark body.
    return (np.where(light > 0, light * np.float32(rng.uniform(0.8, 2.5)), light)).astype(
        np.float32
    )


def phase(rng: Rng, shape: Shape, diameter: float) -> Rendered:
    """Phase contrast: grey field, cells with halo, rim and granular inside."""
    diameter = max(diameter, 24.0)
    families = ("star", "spindle", "rough", "oval", "star", "star", "spindle")
    style = random_style(rng, families, warps=(0.0, 0.02, 0.05), spreads=(0.15, 0.3, 0.4))
    scene = blobs(rng, shape, diameter, style)
    rim = _phase_ring if rng.random() < 0.65 else _edges
    grey = _cell_bodies(rng, scene) + rim(rng, scene)
    if rng.random() < 0.4:  # rounded cells shine
        shining = per_object(rng, scene, 20.0) > 0.75
        grey = grey + shining * scene.depth * rng.uniform(0.5, 2.5)
    dish = texture(rng, shape, rng.uniform(3, 20)) * 0.12 * rng.random() ** 3
    grey = grey + dish * (1 - scene.mask) + debris(rng, scene) * rng.uniform(-1, 1)
    grey = grey + ghosts(rng, scene) * rng.uniform(-0.3, 0.5)
    if rng.random() < 0.15:
        grey = -grey
    grey = blur(grey.astype(np.float32), blurred_focus(rng, scene) * 0.5)
    field = np.float32(rng.uniform(0.35, 0.55)) * illumination(rng, shape, 0.12)
    grey = field + grey * np.float32(log_uniform(rng, 0.1, 0.4))
    return camera(rng, grey, noise=(0.003, 0.02), dim=0.1), scene


def _granules(rng: Rng, scene: Scene) -> FloatArray:
    """Nucleus and granules, which only some of the cells show, (H, W)."""
    shape, size = scene.labels.shape, scene.diameter
    core = core_distance(rng, scene)
    shown = (rng.random(scene.count + 1) < rng.uniform(0.2, 1.0))[scene.labels]
    rim = np.abs(core - rng.uniform(0.3, 0.55)) < rng.uniform(0.03, 0.1)
    grains = smooth_noise(rng, shape, max(1.2, size * rng.uniform(0.015, 0.05)))
    grains = (grains > 1.2 + 0.8 * core) * rng.choice([-1.0, 1.0])
    inner = rim * rng.uniform(-1, 0.6) + grains * rng.uniform(0.2, 1.2)
    return blur((inner * shown * scene.mask).astype(np.float32), rng.uniform(0.5, 1.2))


def _fringes(rng: Rng, scene: Scene) -> FloatArray:
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
    return np.asarray((halo + dark) * np.clip(0.8 + 0.6 * attached, 0.05, 2.5), np.float32)


def flat_phase(rng: Rng, shape: Shape, diameter: float) -> Rendered:
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


# Optical densities in red, green, blue: blue haematoxylin, violet (overstained
# or methyl-violet like), magenta (thionine like), and the pink counterstain.
_NUCLEAR_STAINS = np.array([[0.65, 0.70, 0.29], [0.60, 1.00, 0.22], [0.40, 1.00, 0.30]])
_EOSIN = np.array([0.10, 0.95, 0.28])


def _tissue_bed(rng: Rng, scene: Scene) -> FloatArray:
    """Counterstain density around nuclei, about 0..1, (H, W)."""
    shape = scene.labels.shape
    scale = max(4.0, scene.diameter * rng.uniform(0.3, 1.0))
    bed = np.clip(0.5 + 0.3 * texture(rng, shape, scale), 0.05, 1.5)
    if rng.random() < 0.6:
        bed = bed + fibres(rng, shape, max(3.0, scene.diameter * rng.uniform(0.1, 0.5))) * 0.7
    if rng.random() < 0.5:  # lumen, fat or cracks: empty glass
        gaps = smooth_noise(rng, shape, scene.diameter * rng.uniform(0.5, 2))
        empty = (gaps > rng.uniform(0.5, 1.5)).astype(np.float32)
        bed = bed * (1 - blur(empty, 1.0))
    return np.asarray(bed, np.float32)


def _chromatin(rng: Rng, scene: Scene) -> FloatArray:
    """Nuclear stain density, about 0..1.5, (H, W)."""
    shape = scene.labels.shape
    clumps = texture(rng, shape, max(1.0, scene.diameter * rng.uniform(0.04, 0.15)))
    stain = np.clip(1 + clumps * rng.uniform(0.05, 0.4), 0.1, 2.5)
    if rng.random() < 0.4 and scene.diameter > 15:  # dark grains on a pale ground
        grains = smooth_noise(rng, shape, scene.diameter * rng.uniform(0.03, 0.07)) > 1.2
        stain = stain * np.where(grains, np.float32(rng.uniform(1.2, 2.0)), 1)
    rim = np.exp(-scene.depth * np.float32(rng.uniform(4, 10)))  # vesicular nuclei
    stain = stain * (rng.uniform(0.5, 1.0) + rim * rng.uniform(0, 0.8))
    return np.asarray(stain * per_object(rng, scene, rng.choice([1.3, 2.0, 3.5])), np.float32)


def _stain_vectors(rng: Rng) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours of this slide's two stains, (3,) each."""
    nuclear = rng.dirichlet([0.5, 0.5, 0.5]) @ _NUCLEAR_STAINS * rng.uniform(0.85, 1.15, 3)
    counter = _EOSIN * rng.uniform(0.6, 1.3, 3)
    # From pink towards lilac, as in weakly eosinated or single-stain slides.
    lilac = rng.random()
    return nuclear, (1 - lilac) * counter + lilac * nuclear * 0.8


def _develop(rng: Rng, nuclear: FloatArray, counter: FloatArray) -> NDArray[np.uint8]:
    """White light through both stains (densities (H, W)), as RGB (H, W, 3)."""
    a, b = (vector.astype(np.float32) for vector in _stain_vectors(rng))
    density = nuclear[..., None] * a + counter[..., None] * b
    # The glass or an even wash of stain tints the whole field.
    density += (b * rng.choice([0.0, 0.15, 0.4]) * rng.random()).astype(np.float32)
    white = rng.uniform(0.9, 1.0, 3) * rng.uniform(195, 262)
    light = np.exp(-density)
    grain = sensor_noise(rng, light.reshape(len(light), -1), log_uniform(rng, 0.002, 0.025))
    rgb = grain.reshape(light.shape) * white.astype(np.float32)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def histology(rng: Rng, shape: Shape, diameter: float) -> tuple[NDArray[np.uint8], Scene]:
    """Stained section, RGB: purple nuclei on pink, lilac or white."""
    families = ("round", "oval", "oval", "oval", "rough", "spindle")
    style = random_style(rng, families, warps=(0.0, 0.02, 0.04), spreads=(0.15, 0.3, 0.4))
    scene = blobs(rng, shape, diameter, style)
    nuclear = _chromatin(rng, scene) * log_uniform(rng, 0.5, 2.2)
    # Neighbours at different depth in the section: some faint and soft.
    nuclear = nuclear + ghosts(rng, scene) * rng.uniform(0.1, 0.6)
    nuclear = nuclear + blur(scene.mask, diameter * 0.3) * rng.uniform(0, 0.15)
    nuclear = nuclear + debris(rng, scene) * rng.uniform(0, 0.8)
    sigma = blurred_focus(rng, scene) * 0.7
    nuclear = blur(nuclear.astype(np.float32), sigma) * illumination(rng, shape, 0.1)
    strength = rng.choice([0.03, 0.12, 0.25, 0.5]) * rng.uniform(0.7, 1.4)
    counter = _tissue_bed(rng, scene) * (1 - 0.5 * scene.mask) * np.float32(strength)
    return _develop(rng, nuclear, blur(counter, 0.5 * sigma)), scene


# Optical densities in red, green, blue: pink cytoplasm, blue cytoplasm, violet nuclei.
_CYTOPLASM = np.array([[0.15, 0.55, 0.40], [0.60, 0.45, 0.20], [0.35, 0.40, 0.45]])
_NUCLEUS = np.array([0.75, 0.95, 0.35])


def _density(rng: Rng, scene: Scene) -> tuple[FloatArray, FloatArray]:
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


def smear(rng: Rng, shape: Shape, diameter: float) -> Rendered:
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
