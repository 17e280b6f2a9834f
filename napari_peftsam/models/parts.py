"""Parts of the built-in model that `segment_anything.modeling` does not have."""

from __future__ import annotations

from itertools import pairwise

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

__all__ = ["ConvStem", "DenseHead"]


class ConvStem(nn.Module):
    """Three strided convolutions in place of SAM's patch embedding (stride 8).

    A small encoder learns edges and textures much faster through overlapping
    convolutions than through one linear map of disjoint 8 x 8 patches.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (3, width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [
                nn.Conv2d(inputs, outputs, kernel_size=3, stride=2, padding=1),
                LayerNorm2d(outputs),
                nn.GELU(),
            ]
        layers.append(nn.Conv2d(width, width, kernel_size=3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``(B, 3, H, W)`` to tokens ``(B, H / 8, W / 8, width)``."""
        tokens: torch.Tensor = self.layers(x)
        return tokens.permute(0, 2, 3, 1)


class DenseHead(nn.Module):
    """Foreground, normalised centre distance and boundary from the image embedding.

    Trained beside the promptable decoder: it makes the encoder learn, and is the
    instance decoder of automatic segmentation.
    """

    channels = ("foreground", "distance", "boundary")

    def __init__(self, embedding_width: int) -> None:
        super().__init__()
        half, quarter = embedding_width // 2, embedding_width // 4
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(embedding_width, half, kernel_size=2, stride=2),
            LayerNorm2d(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, len(self.channels), kernel_size=3, padding=1),
        )

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map ``(B, C, h, w)`` to logits ``(B, 3, 4 h, 4 w)``, see `channels`."""
        logits: torch.Tensor = self.layers(embedding)
        return logits
