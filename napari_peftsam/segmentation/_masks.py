"""The last step of SAM's mask decoder: image tokens scaled up and read as masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

from napari_peftsam.segmentation._two_way import layer_norm

__all__ = ["MaskOutputs", "upscaled"]


@dataclass(frozen=True, eq=False)
class MaskOutputs:
    """Four masks per object, not yet multiplied out, so that only those wanted need be.

    Attributes
    ----------
    scores
        ``(B, 4)`` predicted IoU, float32.
    queries
        ``(B, 4, C)``: what each output multiplies the channels of a pixel by.
    pixels
        ``(B, h w 16, C)``: the image's channels for each object, four pixels per token
        and axis, in the order ``(h, w, 2, 2, 2, 2)`` of two scalings by two.
    grid
        ``(h, w)`` tokens.
    """

    scores: Tensor
    queries: Tensor
    pixels: Tensor
    grid: tuple[int, int]

    def logits(self, outputs: Tensor | None = None) -> Tensor:
        """Return logits ``(B, K, 4 h, 4 w)``, float32, of outputs ``(B, K)``; default all four."""
        queries = self.queries
        if outputs is not None:
            queries = queries.take_along_dim(outputs[..., None], dim=1)
        products = (queries.to(self.pixels.dtype) @ self.pixels.transpose(1, 2)).float()
        height, width = self.grid
        cells = products.unflatten(2, (height, width, 2, 2, 2, 2))
        ordered = cells.permute(0, 1, 2, 4, 6, 3, 5, 7)
        return ordered.reshape(*products.shape[:2], 4 * height, 4 * width)


def upscaled(decoder: MaskDecoder, image: Tensor) -> Tensor:
    """Scale image tokens ``(B, h w, C)`` up to ``(B, h w 16, C / 8)``, see `MaskOutputs`.

    Transposed convolutions whose stride is their size are products of each token with one
    matrix, and channels in rows are what a layer norm is fast for.
    """
    first, norm, activation, second, last = decoder.output_upscaling
    x = activation(layer_norm(_quadrupled(first, image), norm))
    pixels: Tensor = last(_quadrupled(second, x))
    return pixels


def _quadrupled(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Return ``(B, 4 N, out)`` for ``(B, N, in)``: the 2 x 2 pixels of each, row by row."""
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1).to(x.dtype)
    bias = layer.bias.to(x.dtype).repeat(4)
    rows = torch.addmm(bias, x.flatten(0, 1), weight)
    return rows.view(len(x), -1, layer.out_channels)
