"""Growth of the image encoder by blocks that start without an effect."""

from __future__ import annotations

import re
from itertools import pairwise

import torch
from torch import Tensor

from napari_peftsam.models import Architecture, PlainVit, SamModel, construct

__all__ = ["can_grow", "grown"]

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.(.+)")
_LAST = ("attn.proj.", "mlp.lin2.")  # what a block adds to its input passes through these


def can_grow(small: Architecture, large: Architecture) -> bool:
    """Tell whether `grown` makes a model of `large` from one of `small`.

    Everything but the depth must agree, and each global block of `small` must keep at least
    as many windowed blocks before it.
    """
    if not (isinstance(small.encoder, PlainVit) and isinstance(large.encoder, PlainVit)):
        return False
    agree = _sizes(small) == _sizes(large)
    runs = zip(_runs(small.encoder), _runs(large.encoder), strict=False)
    return (
        agree
        and len(small.encoder.global_blocks) == len(large.encoder.global_blocks)
        and all(few <= many for few, many in runs)
    )


def _sizes(arch: Architecture) -> dict[str, object]:
    """Return every option of an architecture but its name, depth and global blocks."""
    encoder = arch.encoder
    assert isinstance(encoder, PlainVit)
    free = {"depth", "global_blocks"}
    shapes: dict[str, object] = {k: v for k, v in vars(encoder).items() if k not in free}
    return shapes | {k: v for k, v in vars(arch).items() if k not in {"name", "encoder"}}


def grown(model: SamModel, arch: Architecture) -> SamModel:
    """Return a model of more blocks that computes what `model` computes.

    New blocks are copies of a windowed neighbour whose last layers are zero: their output is
    zero at first, but not its gradient.
    """
    sources = _sources(model.architecture.encoder, arch.encoder)
    state = model.sam.state_dict()
    blocks: dict[int, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found = _BLOCK.match(name)
        if found:
            blocks.setdefault(int(found[1]), {})[found[2]] = tensor
        else:
            rest[name] = tensor
    for index, (source, is_new) in enumerate(sources):
        for part, tensor in blocks[source].items():
            silent = is_new and part.startswith(_LAST)
            value = torch.zeros_like(tensor) if silent else tensor.clone()
            rest[f"image_encoder.blocks.{index}.{part}"] = value
    sam = construct(arch)
    sam.load_state_dict(rest)
    return SamModel(model.name, arch, sam, model.weights_hash, model.dense_head)


def _runs(encoder: PlainVit) -> list[int]:
    """Return how many windowed blocks stand before each global one, and after the last."""
    edges = (-1, *encoder.global_blocks, encoder.depth)
    return [after - before - 1 for before, after in pairwise(edges)]


def _sources(small: object, large: object) -> list[tuple[int, bool]]:
    """Return, for each block of `large`, the block of `small` it copies and whether it is new."""
    assert isinstance(small, PlainVit)
    assert isinstance(large, PlainVit)
    sources: list[tuple[int, bool]] = []
    first = 0
    for few, many in zip(_runs(small), _runs(large), strict=True):
        # New blocks follow old ones as evenly as they can, the last old ones first.
        extra = many - few
        for place in range(few):
            sources.append((first + place, False))
            copies = extra * (place + 1) // few - extra * place // few
            sources += [(first + place, True)] * copies
        first += few
        sources.append((first, False))  # the global block
        first += 1
    return sources[: large.depth]
