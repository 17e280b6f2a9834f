"""The last step of SAM's mask decoder: image tokens scaled up and read as masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn
from torch.nn import functional

from napari_peftsam.segmentation._two_way import layer_norm

__all__ = ["MaskOutputs"]


@dataclass(frozen=True, eq=False)
class MaskOutputs:
    """What the transformer says of B objects, before it is drawn as masks.

    Attributes
    ----------
    scores
        ``(B, 4)`` predicted IoU of the four outputs, float32.
    queries
        ``(B, 4, C / 8)``: what each output multiplies the channels of a pixel by.
    image
        Image tokens ``(B, h w, C)`` of each object.
    decoder
        SAM's mask decoder.
    grid
        ``(h, w)`` tokens.
    """

    scores: Tensor
    queries: Tensor
    image: Tensor
    decoder: MaskDecoder
    grid: tuple[int, int]

    def logits(self, outputs: Tensor | None = None) -> Tensor:
        """Draw the masks of some outputs.

        Parameters
        ----------
        outputs
            ``(B, K)`` of each object; default: all four, in their order.

        Returns
        -------
        torch.Tensor
            Logits ``(B, K, 4 h, 4 w)``, float32.
        """
        queries = self.queries
        if outputs is not None:
            queries = queries.take_along_dim(outputs[..., None], dim=1)
        with torch.autocast(self.image.device.type, enabled=False):
            # Pixels are 4 times as much as tokens. Those of one object stay in a CPU's caches.
            size = 1 if self.image.device.type == "cpu" else len(queries)
            pairs = zip(queries.split(size), self.image.split(size), strict=True)
            return torch.cat([self._drawn(*pair) for pair in pairs])

    def _drawn(self, queries: Tensor, image: Tensor) -> Tensor:
        pixels = _upscaled(self.decoder, image)
        products = (pixels @ queries.to(pixels.dtype).transpose(1, 2)).float()
        height, width = self.grid
        cells = products.unflatten(1, (height, width, 2, 2, 2, 2))
        ordered: Tensor = cells.permute(0, 7, 1, 3, 5, 2, 4, 6)
        return ordered.reshape(len(queries), -1, 4 * height, 4 * width)


def _upscaled(decoder: MaskDecoder, image: Tensor) -> Tensor:
    """Scale image tokens ``(B, h w, C)`` up to pixels ``(B, h w 16, C / 8)``.

    Their order is ``(h, w, 2, 2, 2, 2)``, of two scalings by two. Transposed convolutions
    whose stride is their size are products of each token with one matrix, and channels in
    rows are what a layer norm is fast for.
    """
    first, norm, activation, second, last = decoder.output_upscaling
    x = activation(layer_norm(_quadrupled(first, image), norm))
    pixels: Tensor = last(_quadrupled(second, x))
    return pixels


def _quadrupled(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Return ``(B, 4 N, out)`` for ``(B, N, in)``: the 2 x 2 pixels of each, row by row."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2).to(x.dtype)
    assert layer.bias is not None
    bias = layer.bias.to(x.dtype).repeat(4)
    return functional.linear(x, weight, bias).view(len(x), -1, layer.out_channels)
