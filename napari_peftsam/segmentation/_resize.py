"""From the model's low-resolution logits to the pixels of the image."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.types import FloatArray, Frame

__all__ = ["enlarged", "to_image_logits"]


def to_image_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Sample low-resolution logits at the centres of the image's pixels, bilinearly.

    One interpolation from ``4 h`` straight to ``H``, instead of one to the model's input
    size, a crop and another: the same map, without the large intermediate.

    Parameters
    ----------
    logits
        ``(B, K, 4 h, 4 w)`` over the whole square of the frame.
    frame
        Where the image sits in it.

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
