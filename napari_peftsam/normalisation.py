"""The one intensity normalisation, used when training and when predicting.

It is recorded by name in every embedding's address and in every adapter, so that a
later change of it cannot silently be mixed with older files.
"""

from __future__ import annotations

import numpy as np

from napari_peftsam.errors import ImageError
from napari_peftsam.types import FloatArray, PixelArray

__all__ = ["NORMALISATION", "normalise"]

NORMALISATION = "percentile-0.1-99.9-joint"
_LOW, _HIGH = 0.1, 99.9


def normalise(pixels: PixelArray) -> FloatArray:
    """Map one image plane to RGB in [0, 255].

    The 0.1th and 99.9th percentiles of the plane, over all channels together so that
    colours keep their hue, become 0 and 255; grey is repeated over three channels.

    Parameters
    ----------
    pixels
        ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` (alpha is dropped); integer,
        floating or boolean. NaN and infinities count as the lowest finite value.

    Returns
    -------
    numpy.ndarray
        ``(H, W, 3)`` float32 in [0, 255].

    Raises
    ------
    ImageError
        If the shape is another, or no two finite values differ.
    """
    grey = pixels.ndim == 2
    if not (grey or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))) or 0 in pixels.shape:
        raise ImageError(
            f"expected one plane of shape (H, W) or (H, W, 3), got {pixels.shape}: "
            "pick one slice or channel"
        )
    if pixels.dtype.kind not in "biuf":
        raise ImageError(f"expected real numbers, got pixels of type {pixels.dtype}")
    values = pixels.astype(np.float32) if grey else pixels[..., :3].astype(np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("the image has no finite value (all NaN or infinite)")
    if not finite.all():
        values = np.where(finite, values, values[finite].min())
    low, high = _limits(values)
    values = np.clip((values - low) * np.float32(255 / (high - low)), 0, 255)
    return np.repeat(values[..., None], 3, axis=-1) if grey else values


def _limits(values: FloatArray) -> tuple[float, float]:
    low, high = (float(v) for v in np.percentile(values, (_LOW, _HIGH)))
    if low == high:  # a few bright pixels on nothing: the percentiles miss them
        low, high = float(values.min()), float(values.max())
    if low == high:
        raise ImageError(f"the image is constant (every pixel is {low:g}): nothing to segment")
    return low, high
