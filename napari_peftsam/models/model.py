"""A SAM ready to use, the input it takes and its image embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import xxhash
from torch import Tensor, nn
from torch.nn import functional

from napari_peftsam.heap import keep_freed_memory
from napari_peftsam.models.architecture import Architecture, TinyVit
from napari_peftsam.models.device import autocast, pick_precision
from napari_peftsam.models.image_encoder import ImageEncoder
from napari_peftsam.models.parts import DenseHead, MaskRefiner, PromptDrawing
from napari_peftsam.models.sam_parts import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from napari_peftsam.models.tiny_vit import TinyVitEncoder, renamed
from napari_peftsam.models.unetr import UnetrDecoder
from napari_peftsam.normalisation import Limits, normalise
from napari_peftsam.types import Frame, PixelArray

__all__ = [
    "SamModel",
    "checkpoint_state",
    "construct",
    "encode_prefix",
    "encode_steps",
    "encode_suffix",
    "encode_tensor",
    "frame_of",
    "hash_weights",
    "network_state",
    "standardise",
    "to_model_input",
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
        Head for automatic segmentation: the built-in model's own, or the decoder that belongs to
        a micro-sam model, if it is on this computer.
    precision
        Arithmetic of its networks, ``fp32``, ``bf16`` or ``fp16``; ``auto`` becomes the one
        that suits its device, see `pick_precision`.
    """

    name: str
    architecture: Architecture
    sam: Sam = field(repr=False)
    weights_hash: str
    dense_head: DenseHead | UnetrDecoder | None = field(default=None, repr=False)
    precision: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", pick_precision(str(self.device), self.precision))
        if self.device.type == "cpu":
            keep_freed_memory()

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
    """Build the network of an architecture with fresh weights, in evaluation mode."""
    encoder: nn.Module
    if isinstance(arch.encoder, TinyVit):
        encoder = TinyVitEncoder(arch.encoder, arch.image_size, arch.embedding_width)
    else:
        encoder = ImageEncoder(arch, arch.encoder)
    with _drawing_numbers():
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
        if arch.refined_masks:
            decoder.refiner = MaskRefiner(arch.embedding_width // 8)
    return Sam(encoder, prompt_encoder, decoder).eval()


@contextmanager
def _drawing_numbers() -> Iterator[None]:
    """Draw random numbers on the CPU where the device is "meta".

    There they would import torch's compiler, which takes longer than the model.
    """
    if torch.get_default_device().type != "meta":
        yield
        return
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        yield


def checkpoint_state(arch: Architecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a network under the names of the published checkpoints."""
    is_tiny = isinstance(arch.encoder, TinyVit)
    return {renamed(k, 1, 0) if is_tiny else k: v for k, v in state.items()}


def network_state(arch: Architecture, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint file under the names of the network."""
    is_tiny = isinstance(arch.encoder, TinyVit)
    return {renamed(k, 0, 1) if is_tiny else k: v for k, v in state.items()}


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
    x, first
        See `ImageEncoder.forward`; only the encoder of an adaptable architecture can start
        at a later block than 0.

    Yields
    ------
    tuple
        Fraction done in (0, 1] and the step's output: the tokens that enter the next block;
        with the last step (fraction 1) the image embedding
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
    """Return the tokens ``(B, h, w, width)`` that enter block `blocks` from model input `x`.

    The architecture must be adaptable, also for `encode_suffix`.
    """
    for step in sam.image_encoder.steps()[: 1 + blocks]:
        x = step(x)
    return x


def encode_suffix(sam: Sam, x: Tensor, first: int, checkpointing: bool = False) -> Tensor:
    """Return the image embedding from the input of block `first`, see `ImageEncoder.forward`."""
    embedding: Tensor = sam.image_encoder(x, first, checkpointing)
    return embedding


def frame_of(pixels: PixelArray, model: SamModel) -> Frame:
    """Return the place of an image plane ``(H, W[, C])`` in the input of `model`."""
    return Frame(pixels.shape[0], pixels.shape[1], model.image_size)


def to_model_input(pixels: PixelArray, model: SamModel, limits: Limits | None = None) -> Tensor:
    """Normalise, resize and pad pixels to model input ``(1, 3, S, S)``, float32, on its device.

    Parameters
    ----------
    limits
        Intensity range of the whole image if `pixels` are a tile of it.
    """
    height, width = frame_of(pixels, model).inner
    rgb = torch.from_numpy(normalise(pixels, limits)).permute(2, 0, 1)[None].to(model.device)
    x = standardise(rgb, model)
    if x.shape[-2:] != (height, width):
        x = functional.interpolate(
            x, (height, width), mode="bilinear", antialias=True, align_corners=False
        )
    return functional.pad(x, (0, model.image_size - width, 0, model.image_size - height))


def standardise(rgb: Tensor, model: SamModel) -> Tensor:
    """Subtract SAM's channel means and divide by its deviations; ``(B, 3, H, W)``."""
    standardised: Tensor = (rgb - model.sam.pixel_mean) / model.sam.pixel_std
    return standardised
