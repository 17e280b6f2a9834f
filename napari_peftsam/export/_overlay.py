"""Pictures of an image with its objects, for slides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.types import LabelArray, PixelArray

from ._format import ExportContext

_FILL = 0.25  # share of an object's colour
_DARKEST, _BRIGHTEST = 0.5, 99.5  # percentiles of what is shown


def in_bytes(pixels: PixelArray) -> npt.NDArray[np.uint8]:
    """Return ``(H, W)`` or ``(H, W, 3)`` in 8 bits; brighter types are stretched."""
    if pixels.dtype == np.uint8:
        return pixels
    finite = pixels[np.isfinite(pixels)].astype(float)
    low, high = np.percentile(finite, (_DARKEST, _BRIGHTEST)) if finite.size else (0.0, 1.0)
    span = high - low if high > low else 1.0
    stretched = np.nan_to_num((pixels.astype(float) - low) / span)
    return np.asarray(np.rint(np.clip(stretched, 0, 1) * 255), np.uint8)


def write_overlay(path: Path, labels: LabelArray, context: ExportContext) -> None:
    from PIL import Image
    from skimage.segmentation import find_boundaries

    background: Any = np.zeros((*labels.shape, 3), np.uint8)
    if context.pixels is not None:
        pixels = np.asarray(context.pixels)
        grey = pixels.ndim == labels.ndim
        shown = in_bytes(pixels if grey else pixels[..., :3])
        background = np.repeat(shown[..., None], 3, -1) if grey else shown
    colours = _colours(labels)
    share = np.where(find_boundaries(labels, mode="inner"), 1.0, _FILL)[..., None]
    share = share * (labels > 0)[..., None]
    picture = np.rint(background * (1 - share) + colours * share).astype(np.uint8)
    Image.fromarray(picture).save(path)


def _colours(labels: LabelArray) -> npt.NDArray[np.float64]:
    """Return ``(H, W, 3)``: bright colours that differ between neighbours in number."""
    hue = (labels.astype(np.float64) * 0.618034) % 1.0  # the golden ratio spreads them
    parts = [np.clip(np.abs((hue * 6 + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    return np.stack(parts, -1) * 255
