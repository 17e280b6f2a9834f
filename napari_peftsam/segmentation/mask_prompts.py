"""Masks in pixels as mask prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_peftsam.types import BoolArray, MaskPrompt

if TYPE_CHECKING:
    from napari_peftsam.embeddings import PlaneEmbedding

__all__ = ["mask_prompt_of"]

_SURE = 8.0  # logits; the decoder's own lie between about -15 and 15


def mask_prompt_of(
    embedding: PlaneEmbedding, mask: BoolArray, offset: tuple[int, int] = (0, 0)
) -> MaskPrompt:
    """Return a mask as a mask prompt for the embedding of its plane.

    Parameters
    ----------
    mask
        ``(h, w)``, a part of the plane; nothing of the object is outside.
    offset
        Row and column in the plane of the first pixel of `mask`.
    """
    whole = embedding.whole
    if whole is not None:
        side = 4 * whole.features.shape[-1]
        frame = whole.frame
        # Rows and columns of the image under the centres of the pixels of the decoder's square.
        centres = (np.arange(side) + 0.5) * frame.size / side
        rows, cols = (
            (centres * length / inner).astype(int)
            for length, inner in zip((frame.height, frame.width), frame.inner, strict=True)
        )
        return MaskPrompt(_logits(mask, rows - offset[0], cols - offset[1]))
    stride = embedding.image.grid.stride
    corner = tuple(at // stride * stride for at in offset)
    rows, cols = (
        np.arange(start, at + length, stride) + stride // 2
        for start, at, length in zip(corner, offset, mask.shape, strict=True)
    )
    return MaskPrompt(_logits(mask, rows - offset[0], cols - offset[1]), (corner[0], corner[1]))


def _logits(mask: BoolArray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Return sure logits at these rows and columns of a mask, outside of which nothing is."""
    known = [
        np.flatnonzero((at >= 0) & (at < n)) for at, n in zip((rows, cols), mask.shape, strict=True)
    ]
    found = np.full((len(rows), len(cols)), -_SURE, np.float32)
    inside = mask[np.ix_(rows[known[0]], cols[known[1]])]
    found[np.ix_(*known)] = np.where(inside, _SURE, -_SURE)
    return found
