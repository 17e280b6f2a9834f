"""MobileSAM's image encoder, made of timm's TinyViT, and the names its checkpoints use.

MobileSAM (Zhang et al. 2023) differs from the TinyViT of timm in three things: the last
merging of patches does not halve the grid, SAM's neck follows it, and the same tensors
have other names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models.architecture import TinyVit
from napari_peftsam.models.sam_parts import LayerNorm2d

# Tensors of the encoder: how their names begin in MobileSAM and here (in timm), and how
# they end. Of the beginnings the first that fits counts, in both directions.
# A stage of timm begins with the merging that ends the layer before it.
_BEGINNINGS = (
    ("image_encoder.patch_embed.seq.0.", "image_encoder.patch_embed.conv1."),
    ("image_encoder.patch_embed.seq.2.", "image_encoder.patch_embed.conv2."),
    ("image_encoder.layers.0.downsample.", "image_encoder.stages.1.downsample."),
    ("image_encoder.layers.1.downsample.", "image_encoder.stages.2.downsample."),
    ("image_encoder.layers.2.downsample.", "image_encoder.stages.3.downsample."),
    ("image_encoder.layers.", "image_encoder.stages."),
    ("image_encoder.norm_head.", "image_encoder.head.norm."),
    ("image_encoder.head.", "image_encoder.head.fc."),
)
_ENDINGS = (".c.weight", ".conv.weight")

_CLASSES = 1000  # of the classifier, which is in the checkpoints and not used


class TinyVitEncoder(nn.Module):
    """An image encoder in the place of SAM's `ImageEncoderViT`.

    Parameters
    ----------
    image_size
        Side of the square model input, in pixels.
    channels
        Channels of the image embedding.
    """

    def __init__(self, spec: TinyVit, image_size: int, channels: int) -> None:
        super().__init__()
        # Never without values ("meta"): a checkpoint does not hold the indices of the
        # attention biases.
        with torch.device("cpu"):
            backbone = _backbone(spec)
        self.img_size = image_size
        self.patch_embed = backbone.patch_embed
        self.stages = backbone.stages
        # MobileSAM keeps the classifier's tensors, so a checkpoint is not whole without.
        self.head = backbone.head
        self.neck = nn.Sequential(
            nn.Conv2d(spec.widths[-1], channels, kernel_size=1, bias=False),
            LayerNorm2d(channels),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(channels),
        )

    def steps(self) -> tuple[Callable[[Tensor], Tensor], ...]:
        """Return its parts in order; each maps the output of the one before it."""
        return (self.patch_embed, *self.stages, self.neck)

    def forward(self, x: Tensor) -> Tensor:
        """Map model input ``(B, 3, S, S)`` to ``(B, C, S / 16, S / 16)``."""
        for step in self.steps():
            x = step(x)
        return x


def _backbone(spec: TinyVit) -> Any:
    # Not by its name in timm's registry: MobileSAM's own package, which micro-sam imports
    # in the same napari, registers another class under that name.
    try:
        from timm.models.tiny_vit import TinyVit as Backbone
    except ImportError as error:
        raise ConfigurationError(
            "the image encoder of MobileSAM (vit_t) comes from timm, which is not installed: "
            'pip install "napari-peftsam[mobile]"'
        ) from error
    backbone: Any = Backbone(
        num_classes=_CLASSES,
        embed_dims=spec.widths,
        depths=spec.depths,
        num_heads=spec.heads,
        window_sizes=spec.windows,
        drop_path_rate=0.0,
    )
    backbone.stages[-1].downsample.conv2.conv.stride = (1, 1)
    return backbone


def renamed(name: str, source: int, target: int) -> str:
    """Return the name of a tensor in MobileSAM (`target` 0) or in `TinyVitEncoder` (1)."""
    begin = next((pair for pair in _BEGINNINGS if name.startswith(pair[source])), None)
    if begin is None:
        return name  # outside the encoder, or the same in both
    name = begin[target] + name.removeprefix(begin[source])
    if name.endswith(_ENDINGS[source]):
        name = name.removesuffix(_ENDINGS[source]) + _ENDINGS[target]
    return name
