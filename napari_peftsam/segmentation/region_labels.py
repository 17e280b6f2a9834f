"""The decoder's logits as pixels, masks and label images, and masks as logits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.types import BoolArray, FloatArray, Frame, MaskPrompt, Window

if TYPE_CHECKING:
    from napari_peftsam.embeddings import PlaneEmbedding

__all__ = ["RegionLabels", "logits_in_pixels", "mask_prompt_of"]

_SURE = 8.0  # logits of a mask; the decoder's own lie between about -15 and 15
_MOST = 0.5  # share of the image from which on it is faster to scale all of it


def to_image_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Sample logits ``(B, K, 4 h, 4 w)`` at the centres of the image's pixels, bilinearly.

    The logits cover the whole square of the frame, the result ``(B, K, H, W)`` the image in it.
    One interpolation from ``4 h`` straight to ``H``, instead of one to the model's input
    size, a crop and another: the same map, without the large intermediate.
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
        values, window = object_part(one, frame)
        np.greater(values.numpy(), 0, out=mask[window.slices])
    return masks


def object_part(logits: Tensor, frame: Frame) -> tuple[Tensor, Window]:
    """Sample one mask's logits as `to_image_logits`, but only where any can be above 0.

    An interpolated value is above 0 only if one of those around it is. Takes ``(4 h, 4 w)`` on
    the CPU; returns ``(h, w)`` in pixels of the image, and their place.
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
    window = Window.from_slices(*(slice(extent.start, extent.stop) for extent in extents))
    if len(extents[0]) * len(extents[1]) > _MOST * frame.height * frame.width:
        return to_image_logits(logits[None, None], frame)[0, 0][window.slices], window
    sampled = _sampled(_sampled(logits, extents[1], steps[1]).t(), extents[0], steps[0]).t()
    return sampled, window


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
    """Return logits of pixels from logits ``(K, h, w)`` that lie `factor` pixels apart.

    Only the part that holds anything above 0 is enlarged: ``(K, H, W)``, and the row and column
    of its first pixel.
    """
    inside = np.nonzero((logits > 0).any(axis=0))
    # One more on each side, for what lies between the last logit of the mask and the next.
    low = [max(0, int(i.min()) - 1) if len(i) else 0 for i in inside]
    high = [int(i.max()) + 2 if len(i) else 1 for i in inside]
    part = torch.from_numpy(logits[:, low[0] : high[0], low[1] : high[1]])[None]
    large = functional.interpolate(part, scale_factor=factor, mode="bilinear", align_corners=False)
    pixels: FloatArray = large[0].numpy()
    return pixels, (low[0] * factor, low[1] * factor)


class RegionLabels:
    """Writer of objects' best candidates into a label array, part by part.

    Where objects overlap, a pixel goes to the one of the highest logit, the earlier one if
    they are equal: the order of the objects decides the numbers but not the shapes.

    Parameters
    ----------
    labels
        ``(H, W)`` signed integers, zero where there is no object, e.g. a zarr array.
    highest
        ``(H, W)`` float32 zeros, a scratch array: the logit by which a pixel got its label.
    corner
        Row and column in the plane where the arrays begin, if they are a part of it.
    """

    def __init__(self, labels: Any, highest: Any, corner: tuple[int, int] = (0, 0)) -> None:
        self._labels = labels
        self._highest = highest
        self._part = Window(*corner, *labels.shape)
        self._areas: dict[int, int] = {}

    def write(self, label: int, logits: FloatArray, window: Window) -> None:
        """Write `label` where this object's logit exceeds 0 and those of all earlier objects.

        Parameters
        ----------
        logits
            ``(h, w)`` of its best candidate in the pixels of `window`.
        """
        visible = window & self._part
        logits = logits[visible.seen_from(window).slices]
        here = visible.seen_from(self._part).slices
        known = np.asarray(self._highest[here])
        higher = logits > known  # logit 0 is where background begins
        labels = np.asarray(self._labels[here])
        lost, counts = np.unique(labels[higher], return_counts=True)
        for other, count in zip(lost.tolist(), counts.tolist(), strict=True):
            self._areas[other] = self._areas.get(other, 0) - count
        self._areas[label] = self._areas.get(label, 0) + int(np.count_nonzero(higher))
        if higher.any():
            self._labels[here] = np.where(higher, label, labels)
            self._highest[here] = np.where(higher, logits, known)

    def area(self, label: int) -> int:
        """Return how many pixels an object has now."""
        return self._areas.get(label, 0)


def logits_in_pixels(decoded: MaskPrompt, stride: int) -> tuple[FloatArray, Window]:
    """Return the part ``(h, w)`` of a candidate's logits that is above 0, and where it is.

    It may reach over the end of the plane by less than `stride` pixels.
    """
    logits, corner = enlarged(decoded.logits[None], stride)
    row, col = (a + b for a, b in zip(decoded.offset, corner, strict=True))
    return logits[0], Window(row, col, *logits.shape[1:])


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
