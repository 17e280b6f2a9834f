"""Random fields and filters on the pixel grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]
Rng = np.random.Generator
Shape = tuple[int, int]

# White noise through a cubic B-spline keeps 0.479 of its variance per axis.
_SPLINE_GAIN = np.float32(1.0 / 0.479)


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draw one number whose logarithm is uniform between `low` and `high`."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@lru_cache(maxsize=64)  # of large images, a matrix can take megabytes
def _spline_basis(length: int, quarter_steps: int) -> FloatArray:
    """Cubic B-spline interpolation matrix, (length, knots).

    The knot distance is `quarter_steps / 4` pixels: quantised, so that the cache stays small.
    """
    position = np.arange(length, dtype=np.float32) * np.float32(4.0 / quarter_steps)
    knots = int(position[-1]) + 4
    t = np.abs(position[:, None] + 1.0 - np.arange(knots, dtype=np.float32))
    near = 2.0 / 3.0 - t**2 + t**3 / 2.0
    far = np.clip(2.0 - t, 0.0, None) ** 3 / 6.0
    return np.where(t < 1.0, near, far).astype(np.float32)


def smooth_noise(rng: Rng, shape: Shape, scale: float, *, stretch: float = 1.0) -> FloatArray:
    """Draw a Gaussian field (H, W) of mean 0 and a standard deviation of about 1.

    `scale` is its knot distance in pixels: features are about twice as wide, and `stretch` times
    as long along x. Below 1.25 pixels the field is white noise.
    """
    if scale < 1.25:
        return rng.standard_normal(shape, dtype=np.float32)
    # A knot distance far beyond the image would give a constant, not a slope.
    steps = [min(round(4 * s), 8 * n) for s, n in zip((scale, scale * stretch), shape, strict=True)]
    rows = _spline_basis(shape[0], max(steps[0], 4))
    columns = _spline_basis(shape[1], max(steps[1], 4))
    knots = rng.standard_normal((rows.shape[1], columns.shape[1]), dtype=np.float32)
    return ((rows @ knots) @ columns.T * _SPLINE_GAIN).astype(np.float32, copy=False)


def texture(rng: Rng, shape: Shape, coarse: float) -> FloatArray:
    """Two-octave noise: `coarse` px and a finer scale; unit variance, (H, W)."""
    weight = np.float32(rng.uniform(0.3, 0.95))
    fine = max(coarse * rng.uniform(0.2, 0.5), 1.0)
    rough = smooth_noise(rng, shape, fine) * np.sqrt(1 - weight**2)
    return np.asarray(smooth_noise(rng, shape, coarse) * weight + rough, np.float32)


def ridges(field: FloatArray, width: float) -> FloatArray:
    """Thin lines where a unit-variance `field` crosses zero, values 0..1, (H, W)."""
    return np.clip(1 - np.abs(field) * np.float32(1 / width), 0, 1)


def fibres(rng: Rng, shape: Shape, period: float) -> FloatArray:
    """Wavy strands along a random direction, values 0..1, (H, W).

    Noise stretched along x is looked up at turned and bent coordinates, nearest sample.
    """
    size = 2 * int(np.hypot(*shape) / 2) + 9
    strands = smooth_noise(rng, (size, size), max(period / 2, 1.25), stretch=rng.uniform(4, 12))
    lines = ridges(strands, rng.uniform(0.3, 1.2))
    angle = rng.uniform(0, np.pi)
    y, x = np.ogrid[: shape[0], : shape[1]]
    y, x = y - shape[0] / 2, x - shape[1] / 2
    bend = smooth_noise(rng, shape, period * rng.uniform(4, 10)) * period * rng.uniform(0.2, 2)
    v = y * np.cos(angle) - x * np.sin(angle) + bend + size / 2
    u = y * np.sin(angle) + x * np.cos(angle) + size / 2
    rows, columns = (np.clip(w, 0, size - 1).astype(np.int32) for w in (v, u))
    return np.asarray(lines[rows, columns], np.float32)


def blur(image: FloatArray, sigma: float) -> FloatArray:
    """Low-pass `image` (H, W); `sigma` in px, about Gaussian, any size cheap."""
    if sigma < 0.25:
        return image
    if sigma <= 3.0:
        return np.asarray(
            ndimage.gaussian_filter(image, sigma, truncate=2.5, mode="nearest"), np.float32
        )
    # Two box filters have the same variance at a cost free of sigma.
    size = 2 * round((np.sqrt(6 * sigma**2 + 1) - 1) / 2) + 1
    soft = ndimage.uniform_filter(image, size, mode="nearest")
    return np.asarray(ndimage.uniform_filter(soft, size, mode="nearest"), np.float32)
