"""SAM's prompt encoder on rows of tokens, float32, with the results of its own `forward`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from segment_anything.modeling import PromptEncoder
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from napari_peftsam.segmentation._two_way import layer_norm

__all__ = ["box_tokens", "dense_positions", "mask_tokens", "point_tokens"]

# Of each matrix of random frequencies: its version, and positions by dtype.
_POSITIONS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def point_tokens(encoder: PromptEncoder, points: Tensor, labels: Tensor, closed: bool) -> Tensor:
    """Return tokens ``(B, N, C)`` of points, or ``(B, N + 1, C)``.

    Parameters
    ----------
    encoder
        SAM's prompt encoder.
    points
        ``(B, N, 2)`` in model pixels, ``(x, y)``.
    labels
        ``(B, N)``: 1 positive, 0 negative, -1 no point.
    closed
        Whether a token that is no point follows, as SAM has it where there is no box.
    """
    points = points + 0.5  # the centre of the pixel
    if closed:
        points = functional.pad(points, (0, 0, 0, 1))
        labels = functional.pad(labels, (0, 1), value=-1)
    negative, positive = (encoder.point_embeddings[kind].weight for kind in (0, 1))
    kinds = torch.cat([encoder.not_a_point_embed.weight, negative, positive])
    placed: Tensor = encoder.pe_layer.forward_with_coords(points, encoder.input_image_size)
    return placed * (labels >= 0)[..., None] + functional.embedding(labels.long() + 1, kinds)


def box_tokens(encoder: PromptEncoder, boxes: Tensor) -> Tensor:
    """Return the tokens ``(B, 2, C)`` of the corners of boxes ``(B, 4)``."""
    corners = (boxes + 0.5).view(-1, 2, 2)
    placed: Tensor = encoder.pe_layer.forward_with_coords(corners, encoder.input_image_size)
    return placed + torch.cat([encoder.point_embeddings[kind].weight for kind in (2, 3)])


def mask_tokens(layers: Iterable[Any], quarters: Tensor) -> Tensor:
    """Return tokens ``(B, h w, C)`` of maps.

    Parameters
    ----------
    layers
        Two convolutions whose stride is their size, 2, each with norm and activation, and
        a convolution of single pixels. The first two are products of pixels side by side.
    quarters
        ``(B, K, 2, 2, 2 h, 2 w)``: the pixels ``(2 y + i, 2 x + j)`` of maps in ``[i, j]``.
    """
    first, norm, activation, second, second_norm, second_activation, last = layers
    objects, height, width = len(quarters), quarters.shape[-2] // 2, quarters.shape[-1] // 2
    x = quarters.flatten(4).flatten(1, 3).transpose(1, 2)
    x = activation(layer_norm(functional.linear(x, first.weight.flatten(1), first.bias), norm))
    x = (
        x.view(objects, height, 2, width, 2, -1)
        .transpose(2, 3)
        .reshape(objects, height * width, -1)
    )
    merging = second.weight.permute(0, 2, 3, 1).flatten(1)
    x = second_activation(layer_norm(functional.linear(x, merging, second.bias), second_norm))
    return functional.linear(x, last.weight.flatten(1), last.bias)


def dense_positions(
    encoder: PromptEncoder, window: tuple[int, int, int, int], dtype: torch.dtype
) -> Tensor:
    """Return the encoded positions ``(1, h w, C)`` of all tokens of a window of the frame.

    Those of the whole frame are computed once and kept as long as the encoder.

    Parameters
    ----------
    encoder
        SAM's prompt encoder.
    window
        Top, left, height and width in tokens.
    dtype
        Type of the result; computed in float32.
    """
    top, left, height, width = window
    frame = _frame_positions(encoder, dtype)
    return frame[:, top : top + height, left : left + width].flatten(1, 2)


def _frame_positions(encoder: PromptEncoder, dtype: torch.dtype) -> Tensor:
    """Return ``(1, H, W, C)``."""
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    version = None if matrix.is_inference() else matrix._version  # noqa: SLF001 (torch's own)
    known_version, by_dtype = _POSITIONS.get(matrix, (None, {}))
    if version is None or known_version != version:
        known_version, by_dtype = version, {}
        _POSITIONS[matrix] = version, by_dtype
    if dtype not in by_dtype:
        # Not as inference tensors, as a training may use them later.
        with torch.inference_mode(mode=False), torch.no_grad():
            positions = encoder.get_dense_pe().permute(0, 2, 3, 1)
            by_dtype[dtype] = positions.to(dtype).contiguous()
    found: Tensor = by_dtype[dtype]
    return found
