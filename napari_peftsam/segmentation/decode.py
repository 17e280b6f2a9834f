"""The tensor door to SAM's prompt encoder and mask decoder, differentiable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor

__all__ = ["PromptTensors", "decode"]


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
        ``(B, 4, 4 h, 4 w)``: output 0 answers unambiguous prompts, 1 to 3 are the
        alternatives for ambiguous ones.
    scores
        ``(B, 4)`` predicted IoU.
    """
    height, width = features.shape[-2:]
    top, left = offset
    # Positions in half precision would be off by whole pixels, whatever the caller computes in.
    with torch.autocast(features.device.type, enabled=False):
        sparse, dense = _encode_prompts(sam, prompts, (top, left, height, width))
        positions = sam.prompt_encoder.get_dense_pe()[..., top : top + height, left : left + width]
    return _mask_decoder(sam, features + dense, positions, sparse)


def _encode_prompts(
    sam: Sam, prompts: PromptTensors, window: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor]:
    """Return prompt tokens ``(B, N, C)`` and the mask prompt ``(B or 1, C, h or 1, w or 1)``."""
    encoder = sam.prompt_encoder
    points = None if prompts.points is None else (prompts.points, prompts.labels)
    sparse, _ = encoder(points=points, boxes=prompts.boxes, masks=None)
    if prompts.masks is None:
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    else:
        dense = encoder.mask_downscaling(prompts.masks)
    drawing = getattr(encoder, "drawing", None)  # SAM's own prompt encoder has none
    if drawing is not None:
        dense = dense + drawing(prompts.points, prompts.labels, prompts.boxes, window)
    return sparse, dense


def _mask_decoder(
    sam: Sam, source: Tensor, positions: Tensor, sparse: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the mask decoder; unlike SAM's own loop it takes one embedding per object."""
    decoder = sam.mask_decoder
    objects = sparse.shape[0]
    output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output.expand(objects, -1, -1), sparse], dim=1)
    source = source.expand(objects, -1, -1, -1)
    height, width = source.shape[-2:]
    hidden, keys = decoder.transformer(source, positions.expand(objects, -1, -1, -1), tokens)
    upscaled = decoder.output_upscaling(keys.transpose(1, 2).unflatten(2, (height, width)))
    hyper = torch.stack(
        [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    logits = torch.einsum("bkc,bchw->bkhw", hyper, upscaled)
    return logits, decoder.iou_prediction_head(hidden[:, 0])
