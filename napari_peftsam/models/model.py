"""A SAM with what the rest of the project must know about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
import xxhash
from segment_anything.modeling import (
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn

from napari_peftsam.models.architecture import Architecture, TinyVit
from napari_peftsam.models.device import autocast, pick_precision
from napari_peftsam.models.image_encoder import ImageEncoder
from napari_peftsam.models.parts import DenseHead, PromptDrawing
from napari_peftsam.models.tiny_vit import TinyVitEncoder, to_mobile_sam, to_timm

__all__ = [
    "SamModel",
    "checkpoint_state",
    "construct",
    "encode_prefix",
    "encode_steps",
    "encode_suffix",
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
    precision
        What it computes in, ``fp32``, ``bf16`` or ``fp16``; ``auto`` becomes what suits its
        device, see `pick_precision`.
    """

    name: str
    architecture: Architecture
    sam: Sam = field(repr=False)
    weights_hash: str
    dense_head: DenseHead | None = field(default=None, repr=False)
    precision: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", pick_precision(str(self.device), self.precision))

    @property
    def image_size(self) -> int:
        """Side of the square model input, in pixels."""
        return self.architecture.image_size

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        device: torch.device = self.sam.device
        return device

    def autocast(self) -> torch.autocast:
        """Return the context in which its networks compute in its precision."""
        return autocast(str(self.device), self.precision)


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
        encoder = ImageEncoder(arch, arch.encoder)
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


def encode_steps(sam: Sam, x: Tensor, first: int = 0) -> Iterator[tuple[float, Tensor]]:
    """Run the image encoder step by step, so that it can be watched and stopped.

    A step is one transformer block, or one stage of an encoder whose blocks are small.

    Parameters
    ----------
    sam
        The network, with or without adapters.
    x
        Model input ``(B, 3, S, S)``, see `to_model_input`; if `first` is not 0, the tokens
        that enter that block, see `encode_prefix`.
    first
        The first block to run. Only the encoder of an adaptable architecture can start later.

    Yields
    ------
    tuple
        Fraction done in (0, 1], and what the step gave: the tokens that enter the next
        block; with the last step (fraction 1) the image embedding
        ``(B, C, S / patch_size, S / patch_size)``.
    """
    encoder = sam.image_encoder
    steps = encoder.steps(first) if first else encoder.steps()
    for number, step in enumerate(steps, start=1):
        x = step(x)
        yield number / len(steps), x


def encode_tensor(sam: Sam, x: Tensor) -> Tensor:
    """Return the image embedding of model input `x` in one go (see `encode_steps`).

    Encoders without absolute positions (``takes_crops``) see an input ``(B, 3, s, s)``
    smaller than the frame as a part of it.
    """
    embedding: Tensor = sam.image_encoder(x)
    return embedding


def encode_prefix(sam: Sam, x: Tensor, blocks: int) -> Tensor:
    """Return the tokens ``(B, h, w, width)`` that enter block `blocks`.

    Parameters
    ----------
    sam
        The network; its encoder must be that of an adaptable architecture.
    x
        Model input ``(B, 3, s, s)``.
    blocks
        How many blocks to run, after the patch embedding.
    """
    tokens: Tensor = sam.image_encoder.prefix(x, blocks)
    return tokens


def encode_suffix(sam: Sam, x: Tensor, first: int, checkpointing: bool = False) -> Tensor:
    """Return the image embedding from what enters block `first`, see `encode_prefix`.

    Parameters
    ----------
    sam
        The network; its encoder must be that of an adaptable architecture.
    x
        Tokens ``(B, h, w, width)``; if `first` is 0, model input ``(B, 3, s, s)``.
    first
        The first block to run; the number of blocks runs the neck only.
    checkpointing
        Whether blocks are run again in the backward pass instead of keeping what it needs.
    """
    embedding: Tensor = sam.image_encoder(x, first, checkpointing)
    return embedding
