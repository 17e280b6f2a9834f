"""Comparison of a file's tensors with a network's; an error of one line if they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from napari_peftsam.errors import CheckpointError

__all__ = ["fitted", "is_whole"]

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_SHOWN = 3


def fitted(
    name: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint with the number formats of a network.

    Nothing is converted before all keys, shapes and formats fit: a tensor of a few bytes
    may claim any shape. Values are then converted and looked at once.

    Parameters
    ----------
    name
        The checkpoint's, for people.
    expected
        The network's state dict; its tensors need no values (``meta``).
    found
        The checkpoint's state dict, as it was read.

    Raises
    ------
    CheckpointError
        If keys or shapes differ, or tensors are not dense, have no values, are no real
        numbers (or integers in place of fractions), or are not finite.
    """
    both = sorted(expected.keys() & found.keys())
    pairs = {key: (found[key], expected[key]) for key in both}
    _refuse(
        name,
        {
            "missing": sorted(expected.keys() - found.keys()),
            "unexpected": sorted(found.keys() - expected.keys()),
            "of another shape": [
                f"{key}: {_size(ours)} instead of {_size(theirs)}"
                for key, (ours, theirs) in pairs.items()
                if ours.shape != theirs.shape
            ],
            "of another layout": [
                f"{key}: {_plain(ours.layout)}"
                for key, (ours, _) in pairs.items()
                if ours.layout != torch.strided
            ],
            "without values": [key for key, (ours, _) in pairs.items() if ours.is_meta],
            "of another kind of number": [
                f"{key}: {_plain(ours.dtype)} instead of {_plain(theirs.dtype)}"
                for key, (ours, theirs) in pairs.items()
                if not _converts(ours.dtype, theirs.dtype)
            ],
        },
    )
    taken, infinite = {}, []
    for key, tensor in found.items():
        values = tensor.detach().resolve_neg()
        if values.is_floating_point():
            values = values.float()  # where what is too large for it becomes infinite
            if not all(torch.isfinite(extreme) for extreme in torch.aminmax(values)):
                infinite.append(key)
        # An expanded tensor could not be trained.
        taken[key] = values.to(expected[key].dtype).contiguous()
    _refuse(name, {"not finite": sorted(infinite)})
    return taken


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is dense, real, fractional, and stores each of its values."""
    dense = tensor.layout == torch.strided and not tensor.is_meta
    return dense and tensor.dtype in _FLOATS and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _converts(found: torch.dtype, expected: torch.dtype) -> bool:
    # Programs that halve a whole state dict halve its counters, too.
    return found in _FLOATS or (found in _INTEGERS and expected in _INTEGERS)


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


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
