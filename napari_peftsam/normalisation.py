"""The one intensity normalisation, used when training and when predicting.

Every embedding key and every adapter records its name, so that a later change of it cannot
silently be mixed with older files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from napari_peftsam.errors import ImageError
from napari_peftsam.types import FloatArray, PixelArray, Plane

NORMALISATION = "percentile-0.1-99.9-joint"
_LOW, _HIGH = 0.1, 99.9
_SAMPLES = 24  # places along each axis at which a large plane is looked at ...
_SAMPLE_SIDE = 256  # ... in squares with sides of this length in pixels ...
_SAMPLE_STEP = 8  # ... of which every eighth of every eighth row counts: 600,000 in all
_BLOCK = 2048  # pixels along each axis that are read at once where all of them are


@dataclass(frozen=True)
class Limits:
    """The intensities that become 0 and 255; ``low < high``."""

    low: float
    high: float

    @property
    def name(self) -> str:
        """Name of the normalisation by these limits, the counterpart of `NORMALISATION`."""
        return f"{NORMALISATION}:{self.low!r}:{self.high!r}"


def normalise(pixels: PixelArray, limits: Limits | None = None) -> FloatArray:
    """Map one image plane to RGB in [0, 255].

    The 0.1th and 99.9th percentiles of the plane, over all channels together so that
    colours keep their hue, become 0 and 255; grey is repeated over three channels.

    Parameters
    ----------
    pixels
        ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` (alpha is dropped); integer,
        floating or boolean. NaN and infinities count as the lowest finite value.
    limits
        Intensity range of the whole plane if `pixels` are a part of it: all parts must
        be mapped alike, and one without contrast is no error. NaN and infinities count
        as the lower limit then.

    Returns
    -------
    numpy.ndarray
        ``(H, W, 3)`` float32 in [0, 255].

    Raises
    ------
    ImageError
        If the shape is another, or no two finite values differ.
    """
    _check_plane(pixels)
    grey = pixels.ndim == 2
    values = pixels.astype(np.float32) if grey else pixels[..., :3].astype(np.float32)
    finite = np.isfinite(values)
    if limits is None and not finite.any():
        raise _nothing_finite()
    if not finite.all():
        lowest = values[finite].min() if limits is None else np.float32(limits.low)
        values = np.where(finite, values, lowest)
    limits = limits or _limits(values)
    scale = np.float32(255 / (limits.high - limits.low))
    values = np.clip((values - limits.low) * scale, 0, 255)
    return np.repeat(values[..., None], 3, axis=-1) if grey else values


def check_normalisable(pixels: PixelArray) -> None:
    """Raise the errors of `normalise` for a plane, without copying the plane."""
    _check_plane(pixels)
    _whole_limits(pixels)


def _check_plane(pixels: PixelArray) -> None:
    grey = pixels.ndim == 2
    if not (grey or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))) or 0 in pixels.shape:
        raise ImageError(
            f"expected one plane of shape (H, W) or (H, W, 3), got {pixels.shape}: "
            "pick one slice or channel"
        )
    if pixels.dtype.kind not in "biuf":
        raise ImageError(f"expected real numbers, got pixels of type {pixels.dtype}")


def sampled_limits(plane: Plane) -> Limits:
    """Return the limits of a large plane from a sample spread evenly over it.

    The percentiles come from 24 x 24 squares of 256 pixels, thinned out, at every plane size:
    equal planes have equal limits, and memory and time do not grow with the plane. Each
    square counts by its contrast (standard deviation), as slides are mostly empty: else
    the objects would be among the brightest thousandth, and saturated. Only where the
    sample has no contrast is all of the plane looked at, block by block, and its lowest
    and highest value are taken.

    Parameters
    ----------
    plane
        ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``.
    """
    rows, columns = (_spread(n) for n in plane.shape[:2])
    is_wide = plane.shape[1] > _SAMPLES * _SAMPLE_SIDE
    squares = []
    for row in rows:
        # A call costs a stored array more than its pixels do; squares of narrow planes overlap.
        part = slice(row, row + _SAMPLE_SIDE), slice(0, plane.shape[1])
        strip, top = (plane, row) if is_wide else (np.asarray(plane[part]), 0)
        squares += [_finite(strip, top, col, _SAMPLE_SIDE, _SAMPLE_STEP) for col in columns]
    low, high = _percentiles([s for s in squares if s.size and s.std() > 0])
    if low < high:
        return Limits(low, high)
    return _whole_limits(plane)


def _whole_limits(plane: Plane) -> Limits:
    """Return the lowest and highest value of all of a plane, read block by block."""
    low, high = np.inf, -np.inf
    for row, col in product(*(range(0, n, _BLOCK) for n in plane.shape[:2])):
        values = _finite(plane, row, col, _BLOCK)
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return _contrast(low, high)


def _percentiles(squares: Sequence[FloatArray]) -> tuple[float, float]:
    """Return both percentiles of all values, each counted by its square's deviation."""
    if not squares:
        return 0.0, 0.0
    values = np.concatenate(squares)
    weights = np.concatenate([np.full(len(s), s.std(dtype=np.float64)) for s in squares])
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order])
    low, high = np.searchsorted(share, share[-1] * np.array([_LOW, _HIGH]) / 100).tolist()
    return float(values[order[low]]), float(values[order[min(high, len(values) - 1)]])


def _spread(length: int) -> list[int]:
    last = max(0, length - _SAMPLE_SIDE)
    return sorted({round(last * i / (_SAMPLES - 1)) for i in range(_SAMPLES)})


def _finite(plane: Plane, row: int, col: int, side: int, step: int = 1) -> FloatArray:
    """Return the finite values ``(N,)`` of a square, every `step`-th along each axis, no alpha."""
    part = np.asarray(plane[row : row + side, col : col + side])[::step, ::step]
    values = (part if part.ndim == 2 else part[..., :3]).astype(np.float32).ravel()
    return values[np.isfinite(values)]


def _limits(values: FloatArray) -> Limits:
    low, high = (float(v) for v in np.percentile(values, (_LOW, _HIGH)))
    if low == high:  # a few bright pixels on nothing: the percentiles miss them
        low, high = float(values.min()), float(values.max())
    return _contrast(low, high)


def _contrast(low: float, high: float) -> Limits:
    if low > high:
        raise _nothing_finite()
    if low == high:
        raise ImageError(f"the image is constant (every pixel is {low:g}): nothing to segment")
    return Limits(low, high)


def _nothing_finite() -> ImageError:
    return ImageError("the image has no finite value (all NaN or infinite)")
