"""Resampling of the model's low-resolution logits to the pixels of the image."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.types import BoolArray, FloatArray, Frame

__all__ = ["ImagePart", "enlarged", "object_part", "to_image_logits", "to_image_masks"]

_MOST = 0.5  # share of the image from which on it is faster to scale all of it


class ImagePart(NamedTuple):
    """Logits in some rows and columns of the image; outside of them, none is above 0."""

    rows: slice
    cols: slice
    logits: Tensor


def to_image_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Sample low-resolution logits at the centres of the image's pixels, bilinearly.

    One interpolation from ``4 h`` straight to ``H``, instead of one to the model's input
    size, a crop and another: the same map, without the large intermediate.

    Parameters
    ----------
    logits
        ``(B, K, 4 h, 4 w)`` over the whole square of the frame.
    frame
        Placement of the image in it.

    Returns
    -------
    torch.Tensor
        ``(B, K, H, W)``.
    """
    inner = [n * side / frame.size for n, side in zip(frame.inner, logits.shape[-2:], strict=True)]
    # One more row and column than the image covers, so that the scaled size, which torch
    # rounds down, is never too small. At the square's edge they are repeated.
    rows, cols = (math.ceil(n) + 1 for n in inner)
    covered = functional.pad(logits, (0, 1, 0, 1), mode="replicate")[..., :rows, :cols]
    scale = (frame.height / inner[0], frame.width / inner[1])
    resized = functional.interpolate(
        covered, scale_factor=scale, mode="bilinear", align_corners=False
    )
    return resized[..., : frame.height, : frame.width]


def to_image_masks(logits: Tensor, frame: Frame) -> BoolArray:
    """Return masks ``(K, H, W)`` from logits ``(K, 4 h, 4 w)`` on the CPU."""
    masks = np.zeros((len(logits), frame.height, frame.width), np.bool_)
    for mask, one in zip(masks, logits, strict=True):
        rows, cols, values = object_part(one, frame)
        np.greater(values.numpy(), 0, out=mask[rows, cols])
    return masks


def object_part(logits: Tensor, frame: Frame) -> ImagePart:
    """Sample logits as `to_image_logits`, but only where any of them can be above 0.

    An interpolated value is above 0 only if one of those around it is.

    Parameters
    ----------
    logits
        ``(4 h, 4 w)`` on the CPU, one mask.
    frame
        Placement of the image in the square.
    """
    positive = logits > 0
    sides = (frame.height, frame.width)
    steps = [
        size / side * inner / frame.size
        for size, side, inner in zip(logits.shape, sides, frame.inner, strict=True)
    ]
    extents = [
        _reached(positive.any(axis), step, side)
        for axis, step, side in zip((1, 0), steps, sides, strict=True)
    ]
    rows, cols = (slice(extent.start, extent.stop) for extent in extents)
    if len(extents[0]) * len(extents[1]) > _MOST * frame.height * frame.width:
        return ImagePart(rows, cols, to_image_logits(logits[None, None], frame)[0, 0, rows, cols])
    sampled = _sampled(_sampled(logits, extents[1], steps[1]).t(), extents[0], steps[0]).t()
    return ImagePart(rows, cols, sampled)


def _reached(positive: Tensor, step: float, side: int) -> range:
    """Return the pixels of an axis that interpolate any of the logits that are marked."""
    [marked] = positive.numpy().nonzero()
    if not len(marked):
        return range(0)
    first = max(0, math.floor((marked[0] - 0.5) / step - 0.5))
    end = min(side, math.ceil((marked[-1] + 1.5) / step - 0.5) + 1)
    return range(first, max(first, end))  # nothing, if all marked lie where the square is padded


def _sampled(logits: Tensor, pixels: range, step: float) -> Tensor:
    """Interpolate the last axis at some pixels, which lie `step` logits apart."""
    last = logits.shape[-1] - 1
    at = (torch.arange(pixels.start, pixels.stop) + 0.5) * step - 0.5
    at = at.clamp(0, last)
    low = at.long()
    values, following = logits[..., low], logits[..., (low + 1).clamp(max=last)]
    return torch.lerp(values, following, at - low)


def enlarged(logits: FloatArray, factor: int) -> tuple[FloatArray, tuple[int, int]]:
    """Return logits of pixels from logits that lie `factor` pixels apart, and their corner.

    Only the part that holds anything above 0 is enlarged.

    Parameters
    ----------
    logits
        ``(K, h, w)``.

    Returns
    -------
    logits
        ``(K, H, W)``, a part of ``(K, factor h, factor w)`` with all that is above 0.
    corner
        Row and column of its first pixel.
    """
    inside = np.nonzero((logits > 0).any(axis=0))
    # One more on each side, for what lies between the last logit of the mask and the next.
    low = [max(0, int(i.min()) - 1) if len(i) else 0 for i in inside]
    high = [int(i.max()) + 2 if len(i) else 1 for i in inside]
    part = torch.from_numpy(logits[:, low[0] : high[0], low[1] : high[1]])[None]
    large = functional.interpolate(part, scale_factor=factor, mode="bilinear", align_corners=False)
    pixels: FloatArray = large[0].numpy()
    return pixels, (low[0] * factor, low[1] * factor)
