"""Build a model from the registry's name or from a checkpoint's path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import xxhash
from torch import Tensor
from torch.nn import functional

from napari_peftsam.errors import CheckpointError, ConfigurationError
from napari_peftsam.models.architecture import ARCHITECTURES, Architecture, architecture
from napari_peftsam.models.checkpoint import decoder_state_dict, fitted, read_state_dict
from napari_peftsam.models.device import pick_precision
from napari_peftsam.models.download import file_digest
from napari_peftsam.models.entry import ModelEntry
from napari_peftsam.models.model import (
    SamModel,
    checkpoint_state,
    construct,
    hash_weights,
    network_state,
)
from napari_peftsam.models.parts import DenseHead
from napari_peftsam.models.registry import find_model, model_names
from napari_peftsam.models.unetr import UnetrDecoder
from napari_peftsam.types import ModelReference

__all__ = [
    "DENSE_HEAD",
    "build",
    "build_random",
    "build_tiny",
    "find_architecture",
]

DENSE_HEAD = "dense_head."
"""The prefix of the built-in model's dense head in a checkpoint."""

# The blocks of a plain ViT, or of the stages of a TinyViT, and a norm as wide as they are
_BLOCK = re.compile(r"(image_encoder\.(?:layers\.\d\.)?blocks\.)(\d+)\.")
_NORMS = ("norm1", "conv3.bn", "local_conv.bn")
_POSITIONS = "image_encoder.pos_embed"
_REFINER = "mask_decoder.refiner."


def build(model: str | Path, device: str = "cpu", precision: str = "auto") -> SamModel:
    """Load a model; nothing is downloaded.

    Parameters
    ----------
    model
        A name of the registry (`available_models`) or the path of a checkpoint: an
        original ``.pth`` state dict or a ``.safetensors`` file. The architecture is
        inferred from the shapes in the file. With ``@768`` or ``@512`` behind it (see
        `ModelReference`) positions are interpolated to this frame.
    device
        Torch device, see `pick_device`.
    precision
        Arithmetic to compute in, see `pick_precision`.

    Raises
    ------
    ConfigurationError
        If `model` is neither a name nor an existing file, or was not downloaded, or cannot be
        loaded with the frame, or the device does not compute in `precision`.
    CheckpointError
        If the file cannot be read safely or fits no known architecture.
    """
    pick_precision(device, precision)
    reference = ModelReference.parse(model)
    entry = find_model(reference.source)
    path = _path_of(reference.source, entry)
    state = read_state_dict(path)
    arch = _infer_architecture(state, path)
    name = path.stem if entry is None else entry.name
    framed = arch.at_frame(reference.frame, name)
    dense = {k.removeprefix(DENSE_HEAD): v for k, v in state.items() if k.startswith(DENSE_HEAD)}
    weights = {k: v for k, v in state.items() if not k.startswith(DENSE_HEAD)}
    with torch.device("meta"):
        sam = construct(arch)
    weights = fitted(name, checkpoint_state(arch, sam.state_dict()), weights)
    digest = hash_weights(weights)
    if framed != arch:
        name = str(ModelReference(name, reference.frame))
        # Of what is in the file, since processors interpolate with other rounding errors.
        digest = xxhash.xxh128_hexdigest(f"{digest}@{reference.frame}".encode())
        with torch.device("meta"):
            sam = construct(framed)
        weights = _at_frame(weights, checkpoint_state(framed, sam.state_dict()))
    sam.load_state_dict(network_state(arch, weights), assign=True)
    # The two normalisation buffers are not in SAM state dicts, so they are still on meta.
    sam.register_buffer("pixel_mean", torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1), False)
    sam.register_buffer("pixel_std", torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1), False)
    head: DenseHead | UnetrDecoder | None = None
    if dense:
        head = DenseHead(arch.embedding_width)
        head.load_state_dict(fitted(name, head.state_dict(), dense))
        head.eval().to(device)
    elif entry is not None and entry.decoder_path is not None:
        head = UnetrDecoder.from_state(decoder_state_dict(entry), str(entry.decoder_path))
        head.to(device)
    sam.eval().to(device)
    sam.requires_grad_(False)
    return SamModel(name, framed, sam, digest, head, precision)


def find_architecture(model: str | Path) -> Architecture:
    """Return the architecture of a model, from its entry in the registry or from its file.

    Parameters and errors are those of `build`; a model whose entry names its architecture
    need not be on this computer.
    """
    reference = ModelReference.parse(model)
    entry = find_model(reference.source)
    if entry is not None and entry.architecture:
        arch = architecture(entry.architecture)
    else:
        path = _path_of(reference.source, entry)
        arch = _infer_architecture(read_state_dict(path), path)
    return arch.at_frame(reference.frame, reference.source)


def _path_of(model: str, entry: ModelEntry | None) -> Path:
    if entry is None:
        path = Path(model)
        if not path.is_file():
            raise ConfigurationError(
                f"unknown model {model!r}: neither an existing checkpoint file nor one of "
                f"{', '.join(model_names())}"
            )
        return path
    if entry.path is None:
        raise ConfigurationError(entry.absence())
    # A downloaded file was verified before it got its name.
    if entry.file is not None and entry.xxh128 and file_digest(entry.file) != entry.xxh128:
        raise CheckpointError(
            f"{entry.file} does not have the digest {entry.xxh128} given for {entry.name!r}: get "
            "the right file, or correct the entry"
        )
    return entry.path


def build_random(name: str, seed: int = 0, frame: int | None = None) -> SamModel:
    """Build an architecture with random weights (tests, benchmarks), at a frame if named."""
    arch = architecture(name)
    arch = replace(arch, image_size=frame or arch.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = construct(arch)
    weights = checkpoint_state(arch, sam.state_dict())
    return SamModel(f"random-{name}", arch, sam, hash_weights(weights))


def build_tiny(seed: int = 0) -> SamModel:
    """Build the 4-block, 16-wide, 64-pixel SAM the tests use, with random weights."""
    return build_random("tiny", seed)


def _infer_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """Return the architecture whose encoder has the shapes found in a state dict."""
    stages = _stages(state)
    stem = any(key.startswith("image_encoder.patch_embed.layers.") for key in state)
    for arch in ARCHITECTURES.values():
        if (stages, stem) == (arch.encoder.stages, arch.encoder.convolutional_stem):
            # Weights from before there was a refiner are complete without one.
            refined = any(key.startswith(_REFINER) for key in state)
            return _with_own_frame(replace(arch, refined_masks=refined), state)
    sizes = " + ".join(f"{blocks} blocks, {width} wide" for blocks, width in stages)
    what = f"an image encoder of {sizes}" if stages else "no SAM image encoder"
    raise CheckpointError(
        f"{path} has {what}: expected one of "
        + ", ".join(f"{arch.name} ({arch.size})" for arch in ARCHITECTURES.values())
    )


def _with_own_frame(arch: Architecture, state: Mapping[str, Tensor]) -> Architecture:
    """Return the architecture with the frame of a checkpoint that was saved at a smaller one.

    Where nothing in it depends on the frame (MobileSAM), it is taken for the published one.
    """
    grid = tuple(state[_POSITIONS].shape[1:3]) if _POSITIONS in state else ()
    for frame in arch.frames[1:]:
        if grid == (frame // arch.patch_size,) * 2:
            return replace(arch, image_size=frame, frames=())
    return arch


def _at_frame(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Interpolate positions to the shapes of a network with another frame.

    Absolute ones bicubically, as is usual for ViTs; tables of relative ones linearly, as SAM's
    own ``get_rel_pos``. TinyViT has neither.
    """
    framed = dict(weights)
    for name, tensor in weights.items():
        size = expected[name].shape
        if tensor.shape == size:
            continue
        if name == _POSITIONS:  # (1, h, w, C)
            moved = tensor.permute(0, 3, 1, 2)
            moved = functional.interpolate(moved, size[1:3], mode="bicubic", align_corners=False)
            framed[name] = moved.permute(0, 2, 3, 1).contiguous()
        else:  # (distances, channels of a head)
            table = functional.interpolate(tensor.T[None], size[0], mode="linear")
            framed[name] = table[0].T.contiguous()
    return framed


def _stages(state: Mapping[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """Return blocks and width of each stage of the image encoder in a state dict."""
    blocks: dict[str, set[str]] = {}
    for found in filter(None, map(_BLOCK.match, state)):
        blocks.setdefault(found[1], set()).add(found[2])
    stages = []
    for stage in sorted(blocks):
        norms = (state.get(f"{stage}0.{norm}.weight") for norm in _NORMS)
        width = next((norm.shape[0] for norm in norms if norm is not None and norm.ndim), None)
        if width is None:
            return ()
        stages.append((len(blocks[stage]), width))
    return tuple(stages)
