"""Optics, clutter and camera: what every modality goes through."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._fields import FloatArray, Shape, blur, log_uniform, smooth_noise
from ._scene import Scene

__all__ = [
    "Grey",
    "blurred_focus",
    "camera",
    "debris",
    "ghosts",
    "illumination",
    "per_object",
    "sensor_noise",
]


Grey = NDArray[np.uint8] | NDArray[np.uint16]


def per_object(rng: np.random.Generator, scene: Scene, spread: float) -> FloatArray:
    """Brightness of each pixel's object, (H, W): 1/spread..1, background 0."""
    levels = np.exp(rng.uniform(-np.log(spread), 0, scene.count + 1)).astype(np.float32)
    levels[0] = 0
    picked: FloatArray = levels[scene.labels]
    return picked


def illumination(rng: np.random.Generator, shape: Shape, strength: float) -> FloatArray:
    """Slowly varying factor around 1, (H, W); `strength` 0.3 is a strong slope."""
    field = smooth_noise(rng, shape, max(shape) * rng.uniform(0.4, 1.5))
    factor: FloatArray = np.exp(field * np.float32(strength * rng.random()))
    return factor


def _points(rng: np.random.Generator, shape: Shape, count: float) -> FloatArray:
    """Single bright pixels of random height at random places, (H, W)."""
    image = np.zeros(shape, np.float32)
    n = int(rng.poisson(count))
    y, x = rng.integers(shape[0], size=n), rng.integers(shape[1], size=n)
    image[y, x] = rng.uniform(0.3, 1.0, n)
    return image


def debris(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """Specks far smaller than the objects, peak about 1, (H, W); often none."""
    shape = scene.labels.shape
    if rng.random() < 0.5:
        return np.zeros(shape, np.float32)
    sigma = min(rng.uniform(0.5, 1.3), scene.diameter / 12)
    density = log_uniform(rng, 1 / 10_000, 1 / 500)
    specks = blur(_points(rng, shape, density * shape[0] * shape[1]), sigma)
    specks *= np.float32(1 + 2 * np.pi * sigma**2)
    return specks


def ghosts(rng: np.random.Generator, scene: Scene) -> FloatArray:
    """Objects far out of focus, unlabelled: soft blobs, peak about 1, (H, W)."""
    shape = scene.labels.shape
    if rng.random() < 0.6:
        return np.zeros(shape, np.float32)
    sigma = scene.diameter * rng.uniform(0.4, 0.8)
    area = shape[0] * shape[1] / scene.diameter**2
    soft = blur(_points(rng, shape, area * rng.uniform(0.02, 0.3)), max(sigma, 3.1))
    return soft * np.float32(1 / max(float(soft.max()), 1e-6))


def blurred_focus(rng: np.random.Generator, scene: Scene) -> float:
    """Sigma in px of the point spread: none to strong, kept below object size."""
    if rng.random() < 0.2:
        return 0.0
    return min(log_uniform(rng, 0.4, 3.5), scene.diameter / 9)


def sensor_noise(rng: np.random.Generator, image: FloatArray, level: float) -> FloatArray:
    """Add read and shot noise to `image` (H, W), values about 0..1.

    Shot noise is drawn as Gaussian of Poisson variance, which is far faster
    and, after quantisation, not distinguishable.
    """
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if rng.random() < 0.3:  # compression and resampling correlate the grain
        sigma = rng.uniform(0.5, 0.9)
        noise = blur(noise, sigma) * np.float32(3.2 * sigma)
    shot = np.float32(rng.random())
    variance = (1 - shot) + shot * np.clip(image, 0, 2) * 2
    noisy: FloatArray = image + noise * np.sqrt(variance) * np.float32(level)
    return noisy


def _quantised(values: NDArray[np.floating], dtype: type[np.uint8] | type[np.uint16]) -> Grey:
    """Round to the integers of `dtype` and clip to its range, (H, W)."""
    grey: Grey = np.clip(values + 0.5, 0, np.iinfo(dtype).max).astype(dtype)
    return grey


def camera(
    rng: np.random.Generator,
    image: FloatArray,
    *,
    noise: tuple[float, float] = (0.004, 0.08),
    dim: float = 0.25,
    deep: float = 0.15,
) -> Grey:
    """Noise, exposure and quantisation.

    Parameters
    ----------
    rng
        Source of randomness.
    image
        (H, W), the scene's range being about 0..1.
    noise
        Least and greatest standard deviation of the noise, log-uniform.
    dim
        Probability of using a small part of the value range only.
    deep
        Probability of 16 bit output.

    Returns
    -------
    Grey
        (H, W).
    """
    noisy = sensor_noise(rng, image, log_uniform(rng, *noise)) if rng.random() < 0.85 else image
    if rng.random() < deep:
        low = rng.uniform(0, 2000)
        high = low + log_uniform(rng, 300, 60_000)
        return _quantised(low + noisy * (high - low), np.uint16)
    if rng.random() < dim:
        low = rng.uniform(0, 20)
        high = low + rng.uniform(15, 70)
    else:
        low, high = rng.uniform(0, 60), rng.uniform(140, 270)
    return _quantised(low + noisy * np.float32(high - low), np.uint8)
