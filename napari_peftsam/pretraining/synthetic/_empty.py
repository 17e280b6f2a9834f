"""Fields without an object: bare grounds, haze, debris."""

from __future__ import annotations

import numpy as np

from ._fields import FloatArray, Shape, blur, fibres, log_uniform, ridges, smooth_noise, texture
from ._render import Grey, camera, debris, ghosts, illumination
from ._scene import Scene

__all__ = ["empty"]


def _ground(rng: np.random.Generator, shape: Shape, diameter: float) -> FloatArray:
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


def empty(rng: np.random.Generator, shape: Shape, diameter: float) -> tuple[Grey, Scene]:
    """Background alone, often with specks and with light from other planes."""
    nothing = Scene(np.zeros(shape, np.int32), np.zeros(shape, np.float32), diameter)
    grey = _ground(rng, shape, diameter) * log_uniform(rng, 0.05, 0.4)
    for _ in range(2):
        grey = grey + debris(rng, nothing) * rng.uniform(-0.5, 0.8)
        grey = grey + ghosts(rng, nothing) * rng.uniform(0, 0.3)
    grey = (rng.uniform(0.05, 0.7) + grey) * illumination(rng, shape, 0.5)
    return camera(rng, grey.astype(np.float32), noise=(0.01, 0.1)), nothing
