"""Electron microscopy, and nuclei in cells in clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from ._fields import (
    FloatArray,
    IntArray,
    Rng,
    Shape,
    blur,
    fibres,
    log_uniform,
    ridges,
    smooth_noise,
    texture,
)
from ._packed import tiles
from ._render import Rendered, blurred_focus, camera, debris, illumination, per_object
from ._scene import MIN_AREA, Scene, blobs, contact_lines, core_distance, random_style, tidy


def _sheaths(rng: Rng, fibre: Scene, share: float) -> tuple[Scene, FloatArray]:
    """Axons inside myelinated `fibre` objects, and the myelin mask (H, W).

    `share` is the sheath's thickness in radii of the fibre.
    """
    solid = fibre.mask
    solid[contact_lines(fibre.labels)] = 0
    # Beyond the image edge the fibre goes on: no sheath along the edge.
    inward = ndimage.distance_transform_edt(np.pad(solid, 1, mode="edge"))[1:-1, 1:-1]
    radius = np.sqrt(np.bincount(fibre.labels.ravel(), minlength=fibre.count + 1) / np.pi)
    ideal = share * rng.uniform(0.7, 1.3, fibre.count + 1) * radius
    thickness = np.maximum(ideal, 1.0)[fibre.labels]
    uneven = smooth_noise(rng, fibre.labels.shape, max(2.0, fibre.diameter * 0.12))
    axon = inward > thickness * np.clip(1 + uneven * rng.uniform(0, 0.3), 0.5, 2)
    labels = tidy(np.where(axon, fibre.labels, 0).astype(np.int32))
    # The pieces that `tidy` dropped become myelin, since they look like axons.
    myelin = ((fibre.labels > 0) & (labels == 0)).astype(np.float32)
    return Scene(labels, fibre.depth * (labels > 0), fibre.diameter * (1 - share)), myelin


def _neuropil(rng: Rng, shape: Shape, diameter: float) -> FloatArray:
    """Surroundings of axons: grain, small membranes, empty gaps; about -1..1."""
    grain = texture(rng, shape, max(1.5, diameter * rng.uniform(0.06, 0.3)))
    bed = grain * rng.uniform(0.1, 0.5)
    if rng.random() < 0.6:
        net = smooth_noise(rng, shape, max(2.0, diameter * rng.uniform(0.1, 0.25)))
        bed = bed + ridges(net, rng.uniform(0.3, 0.8)) * rng.uniform(0.2, 1.0)
    if rng.random() < 0.3:
        bed = bed + fibres(rng, shape, max(3.0, diameter * 0.3)) * rng.uniform(0.2, 0.8)
    if rng.random() < 0.4:
        gaps = smooth_noise(rng, shape, diameter * rng.uniform(0.5, 2)) > 0.8
        bed = bed - blur(gaps.astype(np.float32), 1.0) * rng.uniform(0.3, 1.0)
    return bed.astype(np.float32)


def electron(rng: Rng, shape: Shape, diameter: float) -> Rendered:
    """Axons in cross-section: myelin rings, dark or (backscatter) bright."""
    diameter = max(diameter, 8.0)
    families = ("round", "oval", "rough", "oval")
    style = random_style(
        rng, families, spacing=(0.8, 1.6), warps=(0.0, 0.02, 0.05, 0.08), spreads=(0.15, 0.3, 0.5)
    )
    share = rng.uniform(0.12, 0.45)
    fibre = blobs(rng, shape, diameter / (1 - share), style)
    scene, myelin = _sheaths(rng, fibre, share)
    fine = texture(rng, shape, max(1.0, diameter * rng.uniform(0.03, 0.1)))
    specks = smooth_noise(rng, shape, max(1.2, diameter * 0.06)) > 1.9  # mitochondria
    # Written for bright myelin; the other half of the images is inverted.
    axon = rng.uniform(0.05, 0.35) + fine * rng.uniform(0.01, 0.06) + specks * rng.uniform(0, 0.3)
    axon = axon * (1.3 - 0.6 * per_object(rng, scene, 2.0))
    sheath = rng.uniform(0.65, 0.95) + fine * rng.uniform(0.01, 0.08)
    sheath = sheath - 0.3 * rng.random() * per_object(rng, fibre, 4.0)
    between = rng.uniform(0.05, 0.55) + _neuropil(rng, shape, diameter) * rng.uniform(0.05, 0.3)
    grey = np.where(scene.labels > 0, axon, np.where(myelin > 0, sheath, between))
    grey = blur(grey.astype(np.float32), min(blurred_focus(rng, scene), 2.0))
    if rng.random() < 0.5:
        grey = 1 - grey
    grey = grey * illumination(rng, shape, 0.12)
    return camera(rng, grey, noise=(0.005, 0.08), dim=0.1, deep=0.05), scene


def _surroundings(rng: Rng, shape: Shape, diameter: float) -> FloatArray:
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
    return np.asarray(bed, np.float32)


def _inside(rng: Rng, scene: Scene) -> FloatArray:
    """Matrix, cristae or granules of the organelles, dark = 1, (H, W)."""
    shape = scene.labels.shape
    matrix = rng.uniform(0.1, 0.7) + 0.3 * per_object(rng, scene, 2.0)
    if rng.random() < 0.6:
        cristae = fibres(rng, shape, max(2.0, scene.diameter * rng.uniform(0.12, 0.3)))
        matrix = matrix + cristae * rng.uniform(-0.4, 0.5)
    else:
        grain = texture(rng, shape, max(1.0, scene.diameter * rng.uniform(0.04, 0.12)))
        matrix = matrix + grain * rng.uniform(0, 0.2)
    return matrix.astype(np.float32)


def organelles(rng: Rng, shape: Shape, diameter: float) -> Rendered:
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
