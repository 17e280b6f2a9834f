"""Safe reading of checkpoint files, and their fit to a network.

A trainer saves its data sets, transforms and settings beside the weights, as pickled objects
of its own classes. Making one imports modules and calls what the file names, which may be
anything. Here torch's restricted unpickler reads, and everything but tensors and plain values
becomes a placeholder: an object that keeps the name of what it stands for, takes every
argument and does nothing.
"""

from __future__ import annotations

import pickle
import re
import struct
import threading
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from napari_peftsam.errors import CheckpointError, ConfigurationError
from napari_peftsam.geometry import sizes
from napari_peftsam.limits import (
    check_claim,
    check_file,
    check_pickles,
    check_safetensors,
    check_zip,
    stored_bytes,
)
from napari_peftsam.models.entry import ModelEntry

__all__ = ["decoder_state_dict", "read_state_dict"]

_WRAPPERS = ("model_state", "state_dict", "model")
_PREFIXES = ("module.", "sam.")
_ENCODER = "image_encoder."
_DEEPEST = 16  # wrappers in each other; a mapping may also contain itself
_GLOBAL = re.compile(r"GLOBAL (\S+)")
# What torch raises for files that are no checkpoints depends on their first bytes.
_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
    OverflowError, MemoryError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip
_LARGEST_PICKLE = 8 * 1024**2  # bytes; SAM's have 100 KB, and a byte may become a list
_OLD_PICKLES = 5  # before the values, in the older format

# torch's list of what a file may name belongs to the whole process: names that another
# thread has just allowed would be missing among ours, and gone when we load.
_LOCK = threading.Lock()
# A courtesy, and not what makes loading safe: placeholders do nothing whatever they stand
# for, and no such list is ever complete. No data set or transform is made by these, so a
# file that names one is refused with the reason instead of being half understood.
_HARMFUL = {
    *("builtins.__import__", "builtins.compile", "builtins.eval", "builtins.exec", "builtins.open"),
    *("code", "ctypes", "importlib", "marshal", "nt", "os", "pickle", "posix", "pty", "runpy"),
    *("shutil", "socket", "subprocess", "sys", "urllib", "webbrowser"),
}

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_SHOWN = 3  # names of tensors in a message

_LORA_UP = re.compile(r"(.+\.(?:attn\.qkv|mlp))\.w_b_linear_([qkv12])\.weight")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that a file may contain.

    Wrappers of training frameworks and prefixes that all names share (``module.``, ``model.``,
    ``_orig_mod.``, ...) are removed, in any order and depth. Objects that a
    trainer saved beside the wrapped weights are ignored and never made. LoRA layers of
    micro-sam are folded into the weights that they adapt.

    Raises
    ------
    CheckpointError
        If the file is damaged, holds objects in place of weights, or holds no tensors, or
        if LoRA layers in it do not fit what they adapt.
    """
    state = _tensors(_read(path), path)
    try:
        return _with_folded_lora(state)
    except ValueError as error:
        raise CheckpointError(f"{path} has LoRA layers that do not fit: {error}") from error


def decoder_state_dict(entry: ModelEntry) -> dict[str, Tensor]:
    """Read a model's decoder for automatic segmentation, as safely as `read_state_dict`.

    It is in a file of its own, or beside the model in one checkpoint (``decoder_state``),
    as micro-sam writes them.

    Raises
    ------
    ConfigurationError
        If it was not downloaded, or the model has none.
    """
    if entry.decoder_url and entry.decoder_path is None:
        raise ConfigurationError(entry.absence("decoder"))
    path = entry.decoder_path or entry.path
    if path is None:
        raise ConfigurationError(entry.absence())
    content = _read(path)
    beside = content.get("decoder_state") if isinstance(content, Mapping) else None
    if beside is None and path != entry.decoder_path:
        raise ConfigurationError(f"the model {entry.name!r} has no decoder of this kind")
    return _tensors(content if beside is None else beside, path)


class _Placeholder:
    """Stands for an object of another program; each name in a file gets a subclass."""

    def __new__(cls, *_: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Forget the object's arguments."""

    def __setstate__(self, state: object) -> None:
        """Forget the object's state."""


def _read(path: Path) -> object:
    check_file(path, CheckpointError)
    try:
        if path.suffix == ".safetensors":
            check_safetensors(path, CheckpointError)
            return load_file(path)
        _check_archive(path)
        with _LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on how other programs wrote a file
            return _load(path)
    except pickle.UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        raise _more_than_tensors(path, found[1] if found else None) from error
    except _UNREADABLE as error:
        reason = "it is damaged, or neither torch.save nor safetensors wrote it"
        if isinstance(error, (OSError, SafetensorError)):  # others: torch's own words, for coders
            reason = (str(error).splitlines() or [reason])[0]
        raise CheckpointError(f"{path} is not a readable checkpoint: {reason}") from error


def _check_archive(path: Path) -> None:
    """Raise `CheckpointError` if a file becomes larger than it is, or makes too many objects."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\3\4":  # where torch reads the older format, whatever follows
            check_claim(path.stat().st_size, stored_bytes(path), path, error=CheckpointError)
            file.seek(0)
            check_pickles(file, _OLD_PICKLES, path, CheckpointError)
            return
    if not zipfile.is_zipfile(path):
        raise zipfile.BadZipFile
    for entry in check_zip(path, CheckpointError):
        if entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{path} has compressed parts, which torch.save never writes: save it again with "
                "the program it comes from"
            )
        if not entry.filename.lower().endswith(".pkl"):  # torch finds names in either case
            continue
        if entry.file_size > _LARGEST_PICKLE:
            raise CheckpointError(
                f"{path} describes its tensors in {entry.file_size / 1e6:,.0f} MB, which is too "
                "much: save its state dict alone, with the program it comes from"
            )
        with zipfile.ZipFile(path) as archive, archive.open(entry) as part:
            check_pickles(part, 1, path, CheckpointError)


def _load(path: Path) -> object:
    """Return what `torch.save` wrote, with placeholders for all but tensors and plain values.

    The unpickler makes only what is on its own list, what other libraries in this process put
    there (`add_safe_globals`), and, while this reads, our placeholders.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (ValueError, pickle.UnpicklingError):
        names = []  # not of the present format: it must do without
    for name in names:
        if name in _HARMFUL or name.partition(".")[0] in _HARMFUL:
            raise pickle.UnpicklingError(f"GLOBAL {name}")
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for name in names:
        module, _, last = name.rpartition(".")
        attributes = {"__module__": module, "__qualname__": last}
        stand_ins.append(type(last, (_Placeholder,), attributes))
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, TypeError):  # torch 2.6: TypeError for filling
        # Calling a placeholder's result or filling it is too much. Without placeholders
        # torch's complaint names what the file asks for.
        return torch.load(path, map_location="cpu", weights_only=True)


def _more_than_tensors(path: Path, name: str | None) -> CheckpointError:
    what = f" (it asks for {name})" if name else ""
    return CheckpointError(
        f"{path} holds more than tensors and is not loaded, because that could run code "
        f"hidden in it{what}: save its state dict alone, with the program it comes from"
    )


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    """Return the tensors inside wrappers and without prefixes."""
    content = _unwrapped(content, path)
    for value in content.values() if isinstance(content, Mapping) else [content]:
        kind = value if isinstance(value, type) else type(value)
        if issubclass(kind, _Placeholder):
            raise _more_than_tensors(path, f"{kind.__module__}.{kind.__qualname__}")
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors")
    while prefix := _common_prefix(state):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _common_prefix(state: Mapping[str, Tensor]) -> str:
    """Return a first part that all names share and a trainer added, empty if there is none."""
    first = next(iter(state))
    prefix = first[: first.find(".") + 1]
    if not prefix or not all(name.startswith(prefix) for name in state):
        return ""
    holds_network = any(f".{_ENCODER}" in name for name in state)
    return prefix if prefix in _PREFIXES or holds_network else ""


def _unwrapped(content: object, path: Path) -> object:
    """Remove the wrappers; a state dict itself has no mapping in it.

    Without one of the usual names, the mapping with most tensors is taken.
    """
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            return content
        inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
        name = next((key for key in _WRAPPERS if key in inner), None)
        if name is None:
            known = dict[tuple[int, int], int]()
            counts = {key: _count(value, _DEEPEST, known) for key, value in inner.items()}
            most = max(counts.values(), default=0)
            if not most or any(isinstance(value, Tensor) for value in content.values()):
                return content
            name, *others = (key for key, count in counts.items() if count == most)
            if others:
                named = ", ".join(map(str, (name, *others)))
                raise CheckpointError(
                    f"{path} holds several state dicts ({named}): save the one to use alone"
                )
        content = inner[name]
    raise CheckpointError(
        f"{path} holds more than {_DEEPEST} mappings in each other, or one that contains itself: "
        "save its state dict alone, with the program it comes from"
    )


def _count(content: Mapping[Any, object], depth: int, known: dict[tuple[int, int], int]) -> int:
    """Return the number of tensors in the fullest mapping of some in each other.

    A file may have the same mapping in many places: `known` has what is counted, by depth.
    """
    place = id(content), depth
    if place not in known:
        inner = [v for v in content.values() if isinstance(v, Mapping)] if depth else []
        own = sum(isinstance(value, Tensor) for value in content.values())
        known[place] = max([own, *(_count(each, depth - 1, known) for each in inner)])
    return known[place]


def _with_folded_lora(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return plain SAM weights where micro-sam's LoRA layers are beside the frozen ones.

    In its attention layers the query, key and value parts of ``qkv`` have their own pair of
    matrices; in its MLPs each layer has one. ``up @ down`` is added unscaled (its ``alpha`` is
    the constant 1). Half a pair stays in the state dict: a name that no network has.
    """
    pairs = {
        key: (up, down)
        for key in state
        if (up := _LORA_UP.fullmatch(key))
        and (down := key.replace(".w_b_linear_", ".w_a_linear_")) in state
    }
    if not pairs:
        return state
    gone = pairs.keys() | {down for _, down in pairs.values()}
    plain = {
        key.replace("attn.qkv.qkv_proj.", "attn.qkv.").replace("mlp.mlp_layer.", "mlp."): value
        for key, value in state.items()
        if key not in gone
    }
    folded = dict(plain)
    for key, (match, down) in pairs.items():
        layer, part = match.groups()
        is_fused = part in "qkv"
        target = f"{layer}.weight" if is_fused else f"{layer}.lin{part}.weight"
        if target not in plain:
            raise ValueError(f"there is no {target} for {key}")
        matrices = (state[key], state[down], plain[target])
        if reason := _misfit(*matrices, 3 if is_fused else 1):
            raise ValueError(reason.format(key=key, target=target))
        update = state[key].detach().double() @ state[down].detach().double()
        start = "qkv".index(part) * len(update) if is_fused else 0
        base = folded[target].detach().to(torch.float64, copy=True)
        base[start : start + len(update)] += update
        folded[target] = base.float()
    return folded


def _misfit(up: Tensor, down: Tensor, base: Tensor, blocks: int) -> str:
    """Return why adding would broadcast or cut, before anything is computed."""
    if not all(matrix.ndim == 2 and _is_whole(matrix) for matrix in (up, down, base)):
        return "{key}, its pair or {target} is no plain matrix"
    if up.shape[1] == down.shape[0] and base.shape == (blocks * up.shape[0], down.shape[1]):
        return ""
    shapes = [sizes(matrix.shape) for matrix in (up, down, base)]
    return f"{{key}} and its pair are {shapes[0]} and {shapes[1]}, {{target}} is {shapes[2]}"


def _is_whole(tensor: Tensor) -> bool:
    """Return True for a dense, real, fractional tensor that stores each of its values."""
    dense = tensor.layout == torch.strided and not tensor.is_meta
    return dense and tensor.dtype in _FLOATS and tensor.nbytes <= tensor.untyped_storage().nbytes()


def fitted(
    name: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint with the number formats of a network.

    Nothing is converted before all keys, shapes and formats fit: a tensor of a few bytes
    may claim any shape. Values are then converted and checked at once.

    Parameters
    ----------
    name
        Name of the checkpoint, for people.
    expected
        State dict of the network; its tensors need no values (``meta``).
    found
        State dict of the checkpoint, as it was read.
    """
    misfits: dict[str, list[str]] = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [],
        "of another layout": [],
        "without values": [],
        "of another kind of number": [],
    }
    for key in sorted(expected.keys() & found.keys()):
        ours, theirs = found[key], expected[key]
        if ours.shape != theirs.shape:
            shapes = (sizes(t.shape) or "a number" for t in (ours, theirs))
            misfits["of another shape"].append(f"{key}: {' instead of '.join(shapes)}")
        if ours.layout != torch.strided:
            misfits["of another layout"].append(f"{key}: {_plain(ours.layout)}")
        if ours.is_meta:
            misfits["without values"].append(key)
        # Programs that halve a whole state dict halve its counters, too.
        both_integers = {ours.dtype, theirs.dtype} <= _INTEGERS
        if not (ours.dtype in _FLOATS or both_integers):
            kinds = f"{_plain(ours.dtype)} instead of {_plain(theirs.dtype)}"
            misfits["of another kind of number"].append(f"{key}: {kinds}")
    _refuse(name, misfits)
    taken, infinite = {}, []
    for key, tensor in found.items():
        values = tensor.detach().resolve_neg()
        if values.is_floating_point():
            values = values.float()  # too large values become infinite here
            if not all(torch.isfinite(extreme) for extreme in torch.aminmax(values)):
                infinite.append(key)
        # An expanded tensor could not be trained.
        taken[key] = values.to(expected[key].dtype).contiguous()
    _refuse(name, {"not finite": sorted(infinite)})
    return taken


def _plain(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


def _refuse(name: str, misfits: Mapping[str, Sequence[str]]) -> None:
    parts = [
        f"{len(keys)} {what} ({', '.join(keys[:_SHOWN])}{', …' if len(keys) > _SHOWN else ''})"
        for what, keys in misfits.items()
        if keys
    ]
    if parts:
        raise CheckpointError(f"the checkpoint {name!r} does not fit: tensors {'; '.join(parts)}")
