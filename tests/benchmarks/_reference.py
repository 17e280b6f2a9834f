"""`segment_anything` itself, in any of our plain architectures, with random weights."""

from __future__ import annotations

from functools import partial

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from napari_peftsam.models import PlainVit, architecture

__all__ = ["reference_sam"]


def reference_sam(name: str) -> Sam:
    """Return the network as `segment_anything` builds it, in evaluation mode.

    Positions, which start at zero, get values that count.
    """
    sam = sam_model_registry[name]() if name in sam_model_registry else _built(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, parameter in sam.named_parameters():
            if parameter.device.type != "meta" and ("rel_pos" in path or "pos_embed" in path):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return sam.eval()


def _built(name: str) -> Sam:
    """Build, out of the package's own classes, what its registry does not have."""
    arch = architecture(name)
    vit = arch.encoder
    assert isinstance(vit, PlainVit)
    encoder = ImageEncoderViT(
        img_size=arch.image_size, patch_size=arch.patch_size, embed_dim=vit.width,
        depth=vit.depth, num_heads=vit.heads, out_chans=arch.embedding_width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
        window_size=vit.window_size, global_attn_indexes=vit.global_blocks,
    )  # fmt: skip
    prompts = PromptEncoder(
        embed_dim=arch.embedding_width, image_embedding_size=(arch.grid, arch.grid),
        input_image_size=(arch.image_size, arch.image_size), mask_in_chans=16,
    )  # fmt: skip
    transformer = TwoWayTransformer(
        depth=2, embedding_dim=arch.embedding_width, mlp_dim=arch.decoder_mlp_width,
        num_heads=arch.decoder_heads,
    )  # fmt: skip
    decoder = MaskDecoder(
        transformer_dim=arch.embedding_width, transformer=transformer,
        iou_head_hidden_dim=arch.embedding_width,
    )  # fmt: skip
    return Sam(encoder, prompts, decoder)
