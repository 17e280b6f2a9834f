"""From the model's low-resolution logits to the pixels of the image."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from napari_peftsam.types import Frame

__all__ = ["to_image_logits"]


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
