"""Optics, clutter and camera, and the faults of real cameras and files."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._fields import FloatArray, Rng, Shape, blur, log_uniform, smooth_noise
from ._scene import Scene

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
Rendered = tuple[Pixels, Scene]


def per_object(rng: Rng, scene: Scene, spread: float) -> FloatArray:
    """Brightness of each pixel's object, (H, W): 1/spread..1, background 0."""
    levels = np.exp(rng.uniform(-np.log(spread), 0, scene.count + 1)).astype(np.float32)
    levels[0] = 0
    return levels[scene.labels]


def illumination(rng: Rng, shape: Shape, strength: float) -> FloatArray:
    """Slowly varying factor around 1, (H, W); `strength` 0.3 is a strong slope."""
    field = smooth_noise(rng, shape, max(shape) * rng.uniform(0.4, 1.5))
    return np.asarray(np.exp(field * np.float32(strength * rng.random())), np.float32)


def _points(rng: Rng, shape: Shape, count: float) -> FloatArray:
    """Single bright pixels of random height at random places, (H, W)."""
    image = np.zeros(shape, np.float32)
    n = int(rng.poisson(count))
    y, x = rng.integers(shape[0], size=n), rng.integers(shape[1], size=n)
    image[y, x] = rng.uniform(0.3, 1.0, n)
    return image


def debris(rng: Rng, scene: Scene) -> FloatArray:
    """Specks far smaller than the objects, peak about 1, (H, W); often none."""
    shape = scene.labels.shape
    if rng.random() < 0.5:
        return np.zeros(shape, np.float32)
    sigma = min(rng.uniform(0.5, 1.3), scene.diameter / 12)
    density = log_uniform(rng, 1 / 10_000, 1 / 500)
    specks = blur(_points(rng, shape, density * shape[0] * shape[1]), sigma)
    specks *= np.float32(1 + 2 * np.pi * sigma**2)
    return specks


def ghosts(rng: Rng, scene: Scene) -> FloatArray:
    """Objects far out of focus, unlabelled: soft blobs, peak about 1, (H, W)."""
    shape = scene.labels.shape
    if rng.random() < 0.6:
        return np.zeros(shape, np.float32)
    sigma = scene.diameter * rng.uniform(0.4, 0.8)
    area = shape[0] * shape[1] / scene.diameter**2
    soft = blur(_points(rng, shape, area * rng.uniform(0.02, 0.3)), max(sigma, 3.1))
    return soft * np.float32(1 / max(float(soft.max()), 1e-6))


def blurred_focus(rng: Rng, scene: Scene) -> float:
    """Sigma in pixels of the point spread: none to strong, kept below object size."""
    if rng.random() < 0.2:
        return 0.0
    return min(log_uniform(rng, 0.4, 3.5), scene.diameter / 9)


def sensor_noise(rng: Rng, image: FloatArray, level: float) -> FloatArray:
    """Add read and shot noise to `image` (H, W), values about 0..1."""
    # Gaussian shot noise of Poisson variance: far faster and, quantised, not distinguishable.
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    if rng.random() < 0.3:  # compression and resampling correlate the grain
        sigma = rng.uniform(0.5, 0.9)
        noise = blur(noise, sigma) * np.float32(3.2 * sigma)
    shot = np.float32(rng.random())
    variance = (1 - shot) + shot * np.clip(image, 0, 2) * 2
    return np.asarray(image + noise * np.sqrt(variance) * np.float32(level), np.float32)


def _quantised(values: NDArray[np.floating], dtype: type[np.uint8] | type[np.uint16]) -> Pixels:
    """Round to the integers of `dtype` and clip to its range, (H, W)."""
    pixels: Pixels = np.clip(values + 0.5, 0, np.iinfo(dtype).max).astype(dtype)
    return pixels


def camera(
    rng: Rng,
    image: FloatArray,
    *,
    noise: tuple[float, float] = (0.004, 0.08),
    dim: float = 0.25,
    deep: float = 0.15,
) -> Pixels:
    """Return `image` (H, W), its range being about 0..1, with noise, exposure and quantisation.

    `noise` is the range of its standard deviation, `dim` the probability of using a small part of
    the value range only, `deep` that of 16 bits.
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


def imperfect(rng: Rng, image: Pixels) -> Pixels:
    """Return `image` (H, W[, 3]) with one or two faults; its type and shape stay."""
    most = float(np.iinfo(image.dtype).max)
    low, high = float(image.min()), float(image.max())
    unit = ((image - low) / max(high - low, 1.0)).astype(np.float32)
    faults = rng.choice(len(_FAULTS), int(rng.integers(1, 3)), replace=False)
    for fault in sorted(faults.tolist()):
        unit = _FAULTS[fault](rng, unit)
    faulty: Pixels = np.clip(low + unit * (high - low) + 0.5, 0, most).astype(image.dtype)
    return faulty


def _over_channels(image: FloatArray, field: FloatArray) -> FloatArray:
    """Append an axis to `field` (H, W) for an image with channels."""
    return field[..., None] if image.ndim == 3 else field


def _uneven(rng: Rng, image: FloatArray) -> FloatArray:
    """Shade the corners or one side, as misaligned lamps do."""
    shape = image.shape[:2]
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    centre = rng.uniform(-0.6, 0.6, 2)
    distance = (y[:, None] - centre[0]) ** 2 + (x - centre[1]) ** 2
    shade = 1 - np.float32(rng.uniform(0.1, 0.45)) * np.clip(distance, 0, 2)
    return image * _over_channels(image, np.clip(shade, 0.1, 1).astype(np.float32))


def _defocus(rng: Rng, image: FloatArray) -> FloatArray:
    """Blur a part of the field, as a tilted sample does."""
    sigma = rng.uniform(0.7, 2.0)
    channels = [blur(channel, sigma) for channel in np.moveaxis(np.atleast_3d(image), -1, 0)]
    soft = np.stack(channels, axis=-1).reshape(image.shape)
    field = smooth_noise(rng, image.shape[:2], max(image.shape[:2]) * 0.7)
    share = _over_channels(image, np.clip(0.5 + field, 0, 1))
    return image * (1 - share) + soft * share


def _lines(rng: Rng, image: FloatArray) -> FloatArray:
    """Offset each line a little, as scanning does."""
    offsets = rng.standard_normal((image.shape[0],), dtype=np.float32)
    offsets = offsets * np.float32(log_uniform(rng, 0.005, 0.05))
    return image + offsets.reshape(-1, *([1] * (image.ndim - 1)))


def _hot_pixels(rng: Rng, image: FloatArray) -> FloatArray:
    """Set single pixels to the limits of the range."""
    count = int(rng.poisson(image.shape[0] * image.shape[1] * log_uniform(rng, 1e-4, 3e-3)))
    y, x = rng.integers(image.shape[0], size=count), rng.integers(image.shape[1], size=count)
    spoilt = image.copy()
    value = rng.choice([1.0, 1.0, 0.0], count).astype(np.float32)
    spoilt[y, x] = _over_channels(spoilt[..., :1], value) if image.ndim == 3 else value
    return spoilt


def _saturated(rng: Rng, image: FloatArray) -> FloatArray:
    """Clip the brightest or the darkest pixels."""
    cut = np.float32(rng.uniform(0.5, 0.9))
    return np.minimum(image, cut) if rng.random() < 0.7 else np.maximum(image, 1 - cut)


def _compressed(rng: Rng, image: FloatArray) -> FloatArray:
    """Pass the image through JPEG at a low quality."""
    eight = np.clip(image * 255, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(eight).save(file, "JPEG", quality=int(rng.integers(25, 85)))
    file.seek(0)
    with Image.open(file) as opened:
        return np.asarray(opened, np.float32) / np.float32(255)


_FAULTS = (_uneven, _defocus, _lines, _hot_pixels, _saturated, _compressed)
