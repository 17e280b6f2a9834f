"""A SAM with what the rest of the project must know about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import xxhash
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn
from torch.func import functional_call

from napari_peftsam.models.architecture import Architecture, PlainVit, TinyVit
from napari_peftsam.models.parts import ConvStem, DenseHead, PromptDrawing
from napari_peftsam.models.tiny_vit import TinyVitEncoder, to_mobile_sam, to_timm

__all__ = [
    "SamModel",
    "checkpoint_state",
    "construct",
    "encode_crop",
    "encode_steps",
    "encode_tensor",
    "hash_weights",
    "network_state",
]


@dataclass(frozen=True, eq=False)
class SamModel:
    """A promptable model, ready to use (evaluation mode).

    Attributes
    ----------
    name
        Registry name or file stem, for people.
    architecture
        Sizes of its parts.
    sam
        The network. Adapters may be injected into it; `weights_hash` names the base.
    weights_hash
        xxh128 of the base weights; addresses embeddings and binds adapters.
    dense_head
        Instance head of the built-in model, None for the others.
    """

    name: str
    architecture: Architecture
    sam: Sam = field(repr=False)
    weights_hash: str
    dense_head: DenseHead | None = field(default=None, repr=False)

    @property
    def image_size(self) -> int:
        """Side of the square model input, in pixels."""
        return self.architecture.image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.sam.device
        return device


def construct(arch: Architecture) -> Sam:
    """Build the network of an architecture with fresh weights, in evaluation mode.

    Raises
    ------
    ConfigurationError
        If the library that its encoder comes from is not installed.
    """
    encoder: nn.Module
    if isinstance(arch.encoder, TinyVit):
        encoder = TinyVitEncoder(arch.encoder, arch.image_size, arch.embedding_width)
    else:
        encoder = _plain_encoder(arch, arch.encoder)
    prompt_encoder = PromptEncoder(
        embed_dim=arch.embedding_width,
        image_embedding_size=(arch.grid, arch.grid),
        input_image_size=(arch.image_size, arch.image_size),
        mask_in_chans=16,
    )
    prompt_encoder.pe_layer.positional_encoding_gaussian_matrix *= arch.position_scale
    if arch.drawn_prompts:
        prompt_encoder.drawing = PromptDrawing(arch.embedding_width, arch.patch_size)
    transformer = TwoWayTransformer(
        depth=2,
        embedding_dim=arch.embedding_width,
        mlp_dim=arch.decoder_mlp_width,
        num_heads=arch.decoder_heads,
    )
    decoder = MaskDecoder(
        transformer_dim=arch.embedding_width,
        transformer=transformer,
        iou_head_hidden_dim=arch.embedding_width,
    )
    return Sam(encoder, prompt_encoder, decoder).eval()


def _plain_encoder(arch: Architecture, vit: PlainVit) -> nn.Module:
    encoder = ImageEncoderViT(
        img_size=arch.image_size,
        patch_size=arch.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=vit.heads,
        out_chans=arch.embedding_width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_abs_pos=vit.absolute_positions,
        use_rel_pos=True,
        window_size=vit.window_size,
        global_attn_indexes=vit.global_blocks,
    )
    if vit.convolutional_stem:
        encoder.patch_embed = ConvStem(vit.width)
    built: nn.Module = encoder
    return built


def checkpoint_state(arch: Architecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a network under the names that checkpoint files use.

    These are other names only where the encoder comes from another library than that of
    the published checkpoints.
    """
    return to_mobile_sam(state) if isinstance(arch.encoder, TinyVit) else dict(state)


def network_state(arch: Architecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint file under the names of the network."""
    return to_timm(state) if isinstance(arch.encoder, TinyVit) else dict(state)


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Return the xxh128 (hex) of names, shapes and values, independent of their order.

    Values are hashed as float32, so that a half-precision file and what was loaded
    from it have one identity.
    """
    digest = xxhash.xxh128()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()


def encode_steps(sam: Sam, x: Tensor) -> Iterator[tuple[float, Tensor | None]]:
    """Run the image encoder step by step, so that it can be watched and stopped.

    A step is one transformer block, or one stage of an encoder whose blocks are small.

    Parameters
    ----------
    sam
        The network, with or without adapters.
    x
        Model input ``(B, 3, S, S)``, see `to_model_input`.

    Yields
    ------
    tuple
        Fraction done in (0, 1], and None; with the last step (fraction 1) the image
        embedding ``(B, C, S / patch_size, S / patch_size)``.
    """
    steps = _steps(sam.image_encoder)
    for number, step in enumerate(steps, start=1):
        x = step(x)
        yield number / len(steps), x if number == len(steps) else None


def _steps(encoder: Any) -> tuple[Callable[[Tensor], Tensor], ...]:
    if isinstance(encoder, TinyVitEncoder):
        return encoder.steps()
    return (partial(_embed, encoder), *encoder.blocks, partial(_finish, encoder))


def _embed(encoder: Any, x: Tensor) -> Tensor:
    tokens: Tensor = encoder.patch_embed(x)
    return tokens if encoder.pos_embed is None else tokens + encoder.pos_embed


def _finish(encoder: Any, tokens: Tensor) -> Tensor:
    embedding: Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
    return embedding


def encode_tensor(sam: Sam, x: Tensor) -> Tensor:
    """Return the image embedding of model input `x` in one go (see `encode_steps`)."""
    embedding: Tensor = sam.image_encoder(x)
    return embedding


def encode_crop(sam: Sam, x: Tensor) -> Tensor:
    """Return the embedding of a square crop ``(B, 3, s, s)``, seen as a part of the frame.

    Only for encoders without absolute positions. SAM's attention *interpolates* relative
    positions when the grid is not the one it was built for; a crop must use the central
    ones instead, so that a distance of one token stays one token.
    """
    encoder = sam.image_encoder
    frame = next(b for b in encoder.blocks if b.window_size == 0).attn.rel_pos_h.shape[0] // 2 + 1
    tokens = x.shape[-1] * frame // encoder.img_size
    central = {
        name: parameter[frame - tokens : frame + tokens - 1]
        for name, parameter in encoder.named_parameters()
        if ".rel_pos_" in name and encoder.blocks[int(name.split(".")[1])].window_size == 0
    }
    embedding: Tensor = functional_call(encoder, central, (x,))
    return embedding
