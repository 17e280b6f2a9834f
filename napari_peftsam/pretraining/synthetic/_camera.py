"""Faults of real cameras and files, added to a finished image."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._fields import FloatArray, blur, log_uniform, smooth_noise

__all__ = ["imperfect"]

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def imperfect(rng: np.random.Generator, image: Pixels) -> Pixels:
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


def _uneven(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Shade the corners or one side, as misaligned lamps do."""
    shape = image.shape[:2]
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    centre = rng.uniform(-0.6, 0.6, 2)
    distance = (y[:, None] - centre[0]) ** 2 + (x - centre[1]) ** 2
    shade = 1 - np.float32(rng.uniform(0.1, 0.45)) * np.clip(distance, 0, 2)
    return image * _over_channels(image, np.clip(shade, 0.1, 1).astype(np.float32))


def _defocus(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Blur a part of the field, as a tilted sample does."""
    sigma = rng.uniform(0.7, 2.0)
    if image.ndim == 3:
        soft = np.stack([blur(image[..., c], sigma) for c in range(3)], axis=-1)
    else:
        soft = blur(image, sigma)
    field = smooth_noise(rng, image.shape[:2], max(image.shape[:2]) * 0.7)
    share = _over_channels(image, np.clip(0.5 + field, 0, 1))
    return image * (1 - share) + soft * share


def _lines(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Offset each line a little, as scanning does."""
    offsets = rng.standard_normal(image.shape[0], dtype=np.float32) * np.float32(
        log_uniform(rng, 0.005, 0.05)
    )
    shape = (-1, *([1] * (image.ndim - 1)))
    return image + offsets.reshape(shape)


def _hot_pixels(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Set single pixels to the limits of the range."""
    count = int(rng.poisson(image.shape[0] * image.shape[1] * log_uniform(rng, 1e-4, 3e-3)))
    y, x = rng.integers(image.shape[0], size=count), rng.integers(image.shape[1], size=count)
    spoilt = image.copy()
    value = rng.choice([1.0, 1.0, 0.0], count).astype(np.float32)
    spoilt[y, x] = _over_channels(spoilt[..., :1], value) if image.ndim == 3 else value
    return spoilt


def _saturated(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Clip the brightest or the darkest pixels."""
    cut = np.float32(rng.uniform(0.5, 0.9))
    return np.minimum(image, cut) if rng.random() < 0.7 else np.maximum(image, 1 - cut)


def _compressed(rng: np.random.Generator, image: FloatArray) -> FloatArray:
    """Pass the image through JPEG at a low quality."""
    eight = np.clip(image * 255, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(eight).save(file, "JPEG", quality=int(rng.integers(25, 85)))
    file.seek(0)
    with Image.open(file) as opened:
        return np.asarray(opened, np.float32) / np.float32(255)


_FAULTS = (_uneven, _defocus, _lines, _hot_pixels, _saturated, _compressed)
