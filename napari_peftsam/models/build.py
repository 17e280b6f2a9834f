"""Build a model from the registry's name or from a checkpoint's path."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from napari_peftsam.errors import CheckpointError, ConfigurationError
from napari_peftsam.models._fit import fitted
from napari_peftsam.models._micro_sam import fold_micro_sam_lora
from napari_peftsam.models._placeholders import load_with_placeholders, name_of_placeholder
from napari_peftsam.models.architecture import ARCHITECTURES, Architecture, architecture
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

__all__ = [
    "DENSE_HEAD",
    "build",
    "build_random",
    "build_tiny",
    "decoder_state_dict",
    "find_architecture",
    "infer_architecture",
    "read_state_dict",
]

DENSE_HEAD = "dense_head."
"""The prefix of the built-in model's dense head in a checkpoint."""

_WRAPPERS = ("model_state", "state_dict", "model")
_PREFIXES = ("module.", "sam.")
_DEEPEST = 16  # wrappers in each other; a mapping may also contain itself
_DECODER = "decoder_state"
# The blocks of a plain ViT, or of the stages of a TinyViT, and a norm as wide as they are
_BLOCK = re.compile(r"(image_encoder\.(?:layers\.\d\.)?blocks\.)(\d+)\.")
_NORMS = ("norm1", "conv3.bn", "local_conv.bn")
_GLOBAL = re.compile(r"GLOBAL (\S+)")
# What torch raises for files that are no checkpoints depends on their first bytes.
_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    struct.error, SafetensorError,
)  # fmt: skip


def build(
    model: str | Path,
    device: str = "cpu",
    folder: Path | None = None,
    precision: str = "auto",
) -> SamModel:
    """Load a model.

    Parameters
    ----------
    model
        A name of the registry (`available_models`) or the path of a checkpoint: an
        original ``.pth`` state dict or a ``.safetensors`` file. The architecture is
        inferred from the shapes in the file.
    device
        Torch device, see `pick_device`.
    folder
        Where downloaded models are; default: `napari_peftsam.folders.model_folder`.
    precision
        What to compute in, see `pick_precision`.

    Raises
    ------
    ConfigurationError
        If `model` is neither a name nor an existing file, or was not downloaded: nothing
        is downloaded here; or the device does not compute in `precision`.
    CheckpointError
        If the file cannot be read safely or fits no known architecture.
    """
    pick_precision(device, precision)
    entry = find_model(str(model), folder)
    name, path = (
        (Path(model).stem, _file(model)) if entry is None else (entry.name, _path_of(entry))
    )
    state = read_state_dict(path)
    return _from_state(name, infer_architecture(state, path), state, (device, precision))


def find_architecture(model: str | Path, folder: Path | None = None) -> Architecture:
    """Return the architecture of a model; of a checkpoint's path, its file is read.

    Parameters and errors are those of `build`; a model whose entry in the registry says it
    need not be on this computer.
    """
    entry = find_model(str(model), folder)
    if entry is not None and entry.architecture:
        return architecture(entry.architecture)
    path = _file(model) if entry is None else _path_of(entry)
    return infer_architecture(read_state_dict(path), path)


def _file(model: str | Path) -> Path:
    path = Path(model)
    if not path.is_file():
        raise ConfigurationError(
            f"unknown model {str(model)!r}: neither an existing checkpoint file nor one of "
            f"{', '.join(model_names())}"
        )
    return path


def _path_of(entry: ModelEntry) -> Path:
    path = entry.path
    if path is None:
        raise ConfigurationError(entry.absence())
    # What is downloaded was verified before it got its name.
    if entry.file is not None and entry.xxh128 and file_digest(path) != entry.xxh128:
        raise CheckpointError(
            f"{path} does not have the digest {entry.xxh128} given for {entry.name!r}: get the "
            "right file, or correct the entry"
        )
    return path


def build_random(name: str, seed: int = 0) -> SamModel:
    """Build an architecture with random weights (tests, benchmarks)."""
    arch = architecture(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = construct(arch)
    weights = checkpoint_state(arch, sam.state_dict())
    return SamModel(f"random-{name}", arch, sam, hash_weights(weights))


def build_tiny(seed: int = 0) -> SamModel:
    """Build the 4-block, 16-wide, 64-pixel SAM the tests use, with random weights."""
    return build_random("tiny", seed)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that a file may contain.

    Wrappers of training frameworks (``model_state``, ``state_dict``, ``model``) and the
    prefixes ``module.`` and ``sam.`` are taken off, however they are nested. Objects that a
    trainer saved beside the wrapped weights are passed over; nothing of them is made. LoRA
    layers of micro-sam are folded into the weights that they adapt.

    Raises
    ------
    CheckpointError
        If the file is damaged, holds objects in place of weights, or holds no tensors, or
        if LoRA layers in it do not fit what they adapt.
    """
    state = _tensors(_unwrap(_read(path), path), path)
    try:
        return fold_micro_sam_lora(state)
    except ValueError as error:
        raise CheckpointError(f"{path} has LoRA layers that do not fit: {error}") from error


def decoder_state_dict(entry: ModelEntry) -> dict[str, Tensor]:
    """Read the decoder for automatic segmentation that belongs to a model.

    It is in a file of its own, or beside the model in one checkpoint (``decoder_state``),
    as micro-sam writes them; read as safely as in `read_state_dict`.

    Raises
    ------
    ConfigurationError
        If it was not downloaded, or the model has none.
    CheckpointError
        If its file cannot be read.
    """
    if entry.has_decoder and entry.decoder_path is None:
        raise ConfigurationError(entry.absence("decoder"))
    path = entry.decoder_path or entry.path
    if path is None:
        raise ConfigurationError(entry.absence())
    content = _read(path)
    beside = content.get(_DECODER) if isinstance(content, Mapping) else None
    if beside is None and path != entry.decoder_path:
        raise ConfigurationError(f"the model {entry.name!r} has no decoder of this kind")
    return _tensors(_unwrap(content if beside is None else beside, path), path)


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return load_with_placeholders(path)
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        raise _more_than_tensors(path, found[1] if found else None) from error
    except _UNREADABLE as error:
        reason = "it is damaged, or neither torch.save nor safetensors wrote it"
        if isinstance(error, (OSError, SafetensorError)):  # others: torch's own words, for coders
            reason = (str(error).splitlines() or [reason])[0]
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from error


def _more_than_tensors(path: Path, name: str | None) -> CheckpointError:
    what = f" (it asks for {name})" if name else ""
    return CheckpointError(
        f"{path} holds more than tensors and is not loaded, because that could run code "
        f"hidden in it{what}: save its state dict alone, with the program it comes from"
    )


def _unwrap(content: object, path: Path) -> object:
    """Take the wrappers off; a state dict itself has no mapping in it."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            return content
        inner = (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping))
        wrapped = next(inner, None)
        if wrapped is None:
            return content
        content = wrapped
    raise CheckpointError(
        f"{path} holds more than {_DEEPEST} mappings in each other, or one that contains itself: "
        "save its state dict alone, with the program it comes from"
    )


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    values = content.values() if isinstance(content, Mapping) else [content]
    if name := next(filter(None, map(name_of_placeholder, values)), None):
        raise _more_than_tensors(path, name)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors")
    while prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def infer_architecture(state: Mapping[str, Tensor], path: Path) -> Architecture:
    """Return the architecture whose encoder has the shapes found in a state dict.

    Raises
    ------
    CheckpointError
        If none has.
    """
    stages = _stages(state)
    stem = any(key.startswith("image_encoder.patch_embed.layers.") for key in state)
    for arch in ARCHITECTURES.values():
        if (stages, stem) == (arch.encoder.stages, arch.encoder.convolutional_stem):
            return arch
    sizes = " + ".join(f"{blocks} blocks, {width} wide" for blocks, width in stages)
    what = f"an image encoder of {sizes}" if stages else "no SAM image encoder"
    raise CheckpointError(
        f"{path} has {what}: expected one of "
        + ", ".join(f"{arch.name} ({arch.size})" for arch in ARCHITECTURES.values())
    )


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


def _from_state(
    name: str, arch: Architecture, state: dict[str, Tensor], computing: tuple[str, str]
) -> SamModel:
    device, precision = computing
    dense = {k.removeprefix(DENSE_HEAD): v for k, v in state.items() if k.startswith(DENSE_HEAD)}
    weights = {k: v for k, v in state.items() if not k.startswith(DENSE_HEAD)}
    with torch.device("meta"):
        sam = construct(arch)
    weights = fitted(name, checkpoint_state(arch, sam.state_dict()), weights)
    sam.load_state_dict(network_state(arch, weights), assign=True)
    # The two normalisation buffers are not in SAM state dicts, so they are still on meta.
    sam.register_buffer("pixel_mean", torch.tensor([123.675, 116.28, 103.53]).view(-1, 1, 1), False)
    sam.register_buffer("pixel_std", torch.tensor([58.395, 57.12, 57.375]).view(-1, 1, 1), False)
    head = None
    if dense:
        head = DenseHead(arch.embedding_width)
        head.load_state_dict(fitted(name, head.state_dict(), dense))
        head.eval().to(device)
    sam.eval().to(device)
    sam.requires_grad_(False)
    return SamModel(name, arch, sam, hash_weights(weights), head, precision)
