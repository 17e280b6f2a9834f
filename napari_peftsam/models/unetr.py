"""micro-sam's decoder for automatic segmentation, on the image embedding of Segment Anything.

A UNETR (Hatamizadeh et al. 2022) without skip connections from the encoder, as Archit et al. (2025)
train it; written from that description and the names of the tensors in its files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_peftsam.errors import CheckpointError
from napari_peftsam.models.checkpoint import fitted

__all__ = ["UnetrDecoder"]

_CHANNELS = (512, 256, 128, 64)
_BORDER = math.log(3)  # boundary distances above 3/4 are at the border


class UnetrDecoder(nn.Module):
    """Foreground, depth and boundary from an image embedding.

    The network predicts foreground and two distances, of each object's pixels to its centre and to
    its boundary, both divided by the largest and inverted: 0 in the middle, 1 at the border. As
    `napari_peftsam.models.DenseHead` does, `forward` returns the depth, which is 1 - boundary
    distance, and as boundary what lies in the outermost quarter.

    Parameters
    ----------
    width
        Channels of the embedding.
    transposed
        Whether it is enlarged by transposed convolutions; else bilinearly, with a convolution.
    """

    def __init__(self, width: int = 256, *, transposed: bool = False) -> None:
        super().__init__()
        sizes = (width, *_CHANNELS)
        for number, (before, after) in enumerate(pairwise(sizes), start=1):
            self.add_module(f"deconv{number}", _Wider(before, after, transposed))
        self.base = _Twice(width, _CHANNELS[0])
        self.decoder = nn.ModuleDict(
            {
                "blocks": nn.ModuleList(_Twice(a, b) for a, b in pairwise(_CHANNELS)),
                "samplers": nn.ModuleList(
                    _enlarging(a, b, transposed) for a, b in pairwise(_CHANNELS)
                ),
            }
        )
        last = _CHANNELS[-1]
        self.deconv_out = _enlarging(last, last, transposed)
        self.decoder_head = _Twice(2 * last, last)
        self.out_conv = nn.Conv2d(last, 3, 1)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], name: str) -> UnetrDecoder:
        """Build the decoder of a file, see `napari_peftsam.models.decoder_state_dict`.

        Raises
        ------
        CheckpointError
            If the tensors are those of another network.
        """
        first = state.get("deconv1.block.1.block.weight")
        if first is None:
            raise CheckpointError(f"{name}: this is no decoder of micro-sam; download it again")
        transposed = any(".block." in key for key in state if key.startswith("decoder.samplers"))
        entry = state.get("base.block.1.weight")
        width = 256 if entry is None else entry.shape[1]
        decoder = cls(width, transposed=transposed)
        decoder.load_state_dict(fitted(name, decoder.state_dict(), state))
        return decoder.requires_grad_(False).eval()

    def distances(self, embedding: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to logits ``(B, 3, 16 h, 16 w)``.

        Foreground, centre distance and boundary distance, as micro-sam has them.
        """
        enlarged, found = embedding, []
        for number in range(1, len(_CHANNELS) + 1):
            enlarged = self.get_submodule(f"deconv{number}")(enlarged)
            found.append(enlarged)
        x = self.base(embedding)
        levels = zip(self.decoder["blocks"], self.decoder["samplers"], found, strict=False)  # type: ignore[call-overload]
        for block, sampler, beside in levels:
            x = sampler(x)
            x = block(torch.cat([x, _middle(beside, x.shape[1])], dim=1))
        x = self.decoder_head(torch.cat([self.deconv_out(x), found[-1]], dim=1))
        logits: Tensor = self.out_conv(x)
        return logits

    def forward(self, embedding: Tensor) -> Tensor:
        """Map ``(B, C, h, w)`` to logits ``(B, 3, 16 h, 16 w)``: foreground, depth, boundary."""
        foreground, _, border = self.distances(embedding).unbind(1)
        return torch.stack([foreground, -border, border - _BORDER], dim=1)


def _middle(x: Tensor, channels: int) -> Tensor:
    """Return the channels in the middle, as many as wanted."""
    first = (x.shape[1] - channels) // 2
    return x[:, first : first + channels]


class _Twice(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.InstanceNorm2d(before),
            nn.Conv2d(before, after, 3, padding=1),
            nn.ReLU(),
            nn.InstanceNorm2d(after),
            nn.Conv2d(after, after, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.block(x)
        return found


class _Wrapped(nn.Module):
    """A layer under the name that it has in the files."""

    def __init__(self, name: str, layer: nn.Module, scale: int = 1) -> None:
        super().__init__()
        self.add_module(name, layer)
        self._layer, self._scale = name, scale

    def forward(self, x: Tensor) -> Tensor:
        if self._scale != 1:
            x = functional.interpolate(x, scale_factor=self._scale, mode="bilinear")
        found: Tensor = self.get_submodule(self._layer)(x)
        return found


def _enlarging(before: int, after: int, transposed: bool) -> nn.Module:
    if transposed:
        return _Wrapped("block", nn.ConvTranspose2d(before, after, 2, stride=2))
    return _Wrapped("conv", nn.Conv2d(before, after, 1), scale=2)


class _Wider(nn.Module):
    def __init__(self, before: int, after: int, transposed: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            _enlarging(before, after, transposed),
            _Wrapped("block", nn.Conv2d(after, after, 3, padding=1)),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.block(x)
        return found
