"""The tensor door to SAM's prompt encoder and mask decoder, differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional

from napari_peftsam.segmentation._masks import MaskOutputs
from napari_peftsam.segmentation._prompt_tokens import (
    box_tokens,
    dense_positions,
    mask_tokens,
    point_tokens,
)
from napari_peftsam.segmentation._two_way import two_way

__all__ = ["PromptTensors", "decode", "decode_outputs"]

Window = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class PromptTensors:
    """Prompts of B objects as SAM's prompt encoder takes them.

    Attributes
    ----------
    points
        ``(B, N, 2)`` in model pixels, order ``(x, y)``, or None.
    labels
        ``(B, N)``: 1 positive, 0 negative, -1 padding.
    boxes
        ``(B, 4)`` in model pixels, ``(x0, y0, x1, y1)``, or None.
    masks
        ``(B, 1, 4 h, 4 w)`` logits of the previous answer, or None.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None


def decode(
    sam: Sam, features: Tensor, prompts: PromptTensors, offset: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor]:
    """Decode B prompted objects in one batch.

    Under autocast what is computed for each pixel is in its precision; prompts, positions
    and scores never are.

    Parameters
    ----------
    sam
        The network, with or without adapters.
    features
        Image embedding ``(1, C, h, w)`` shared by all objects, or one per object,
        ``(B, C, h, w)``.
    prompts
        At least points or boxes.
    offset
        Token ``(row, column)`` of the embedding's corner in the model's frame, for an
        embedding of a crop; prompts are in the coordinates of the whole frame.

    Returns
    -------
    logits
        ``(B, 4, 4 h, 4 w)``, float32: output 0 answers unambiguous prompts, 1 to 3 are the
        alternatives for ambiguous ones.
    scores
        ``(B, 4)`` predicted IoU, float32.
    """
    outputs = decode_outputs(sam, features, prompts, offset)
    return outputs.logits(), outputs.scores


def decode_outputs(
    sam: Sam, features: Tensor, prompts: PromptTensors, offset: tuple[int, int] = (0, 0)
) -> MaskOutputs:
    """Decode as `decode`, but leave it to the caller which masks are multiplied out."""
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    grid = features.shape[-2], features.shape[-1]
    window = (*offset, *grid)
    decoder = sam.mask_decoder
    # Positions in half precision would be off by whole pixels. Prompt tokens are so few that
    # half precision would only cost their weights' conversion.
    with torch.autocast(device, enabled=False):
        tokens = _tokens(sam, prompts)
        image = _rows(features, dtype) + _dense(sam, prompts, window).to(dtype)
        positions = dense_positions(sam.prompt_encoder, window, dtype)
        hidden, image = two_way(decoder.transformer, tokens, image, positions)
        mlps = decoder.output_hypernetworks_mlps
        queries = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(mlps)], dim=1)
        scores = decoder.iou_prediction_head(hidden[:, 0])
        return MaskOutputs(scores, queries, image, decoder, grid)


def _tokens(sam: Sam, prompts: PromptTensors) -> Tensor:
    """Return the decoder's own tokens and those of points and boxes, ``(B, T, C)``."""
    encoder, decoder = sam.prompt_encoder, sam.mask_decoder
    found = []
    if prompts.points is not None and prompts.labels is not None:
        closed = prompts.boxes is None
        found.append(point_tokens(encoder, prompts.points, prompts.labels, closed))
    if prompts.boxes is not None:
        found.append(box_tokens(encoder, prompts.boxes))
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    return torch.cat([own.expand(len(found[0]), -1, -1), *found], dim=1)


def _dense(sam: Sam, prompts: PromptTensors, window: Window) -> Tensor:
    """Return the mask prompt ``(B or 1, h w or 1, C)``."""
    encoder = sam.prompt_encoder
    dense: Tensor
    if prompts.masks is None:
        dense = encoder.no_mask_embed.weight[None]
    else:
        quarters = functional.pixel_unshuffle(prompts.masks.float(), 2)
        dense = mask_tokens(encoder.mask_downscaling, quarters.unflatten(1, (-1, 2, 2)))
    drawing = getattr(encoder, "drawing", None)  # SAM's own prompt encoder has none
    if drawing is not None:
        maps = drawing.maps(prompts.points, prompts.labels, prompts.boxes, window)
        dense = dense + mask_tokens(drawing.layers, maps)
    return dense


def _rows(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the embedding ``(B, C, h, w)`` as tokens ``(B, h w, C)`` in `dtype`."""
    flat = features.to(dtype).flatten(2)
    # torch transposes single matrices in blocks, stacks of them three times slower.
    return torch.stack([one.t().contiguous() for one in flat])
