"""Blocks of the encoder and linear layers in them that a method acts on, independent of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import floor
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from napari_peftsam.errors import ConfigurationError

__all__ = ["Placement"]

_SHARE = re.compile(r"(late|early)-(\d{1,3})%")
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_ALLOWED = "all, late-50% or early-25% (any percentage), last, first, or blocks such as 0,3,5-7"
_LAYERS = {
    "q": "attn.qkv",
    "k": "attn.qkv",
    "v": "attn.qkv",
    "lin1": "mlp.lin1",
    "lin2": "mlp.lin2",
}
_NAMED = {"attention": ("q", "v"), "all-linear": tuple(_LAYERS)}


@dataclass(frozen=True)
class Placement:
    """A set of transformer blocks, named so that it fits encoders of any depth.

    Attributes
    ----------
    name
        Canonical text: ``all``, ``last``, ``first``, ``late-50%``, ``early-25%`` (any
        percentage from 1 to 100) or a sorted block list such as ``0,3,5-7``. Make one
        with `parse`, which checks it; ``Placement.parse(str(p)) == p``.
    """

    name: str = "all"

    @classmethod
    def parse(cls, text: str) -> Placement:
        """Return a placement."""
        name = text.strip().lower().replace(" ", "")
        share = _SHARE.fullmatch(name)
        if name in ("all", "first", "last"):
            return cls(name)
        if share and 1 <= int(share[2]) <= 100:
            return cls(f"{share[1]}-{int(share[2])}%")
        return cls(_canonical(_parse_blocks(name, text)))

    @classmethod
    def of(cls, blocks: Iterable[int], depth: int = 0) -> Placement:
        """Return the placement of some blocks: ``all`` if they are all `depth` of an encoder."""
        chosen = tuple(sorted(blocks))
        return cls("all" if chosen == tuple(range(depth)) else _canonical(chosen))

    def blocks(self, depth: int) -> tuple[int, ...]:
        """Return the sorted block indices in an encoder of `depth` blocks.

        A percentage is rounded to whole blocks, at least one.

        Raises
        ------
        ConfigurationError
            If a listed block does not exist.
        """
        share = _SHARE.fullmatch(self.name)
        if share:
            count = max(1, floor(depth * int(share[2]) / 100 + 0.5))
            return tuple(range(depth - count, depth) if share[1] == "late" else range(count))
        named = {"all": range(depth), "first": range(1), "last": range(depth - 1, depth)}
        if self.name in named:
            return tuple(named[self.name])
        chosen = _parse_blocks(self.name, self.name)
        if chosen[-1] >= depth:
            raise ConfigurationError(
                f"placement {self.name!r} names block {chosen[-1]}, but this encoder has "
                f"{depth} blocks: choose from 0-{depth - 1}"
            )
        return chosen

    def __str__(self) -> str:
        return self.name


def _parse_blocks(name: str, text: str) -> tuple[int, ...]:
    chosen: set[int] = set()
    for part in name.split(","):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 1
        last = int(match[2] or match[1]) if match else 0
        if first > last:  # also when nothing matched
            raise ConfigurationError(f"placement {text!r} is not known: use {_ALLOWED}")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def _canonical(blocks: tuple[int, ...]) -> str:
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def parse_target_modules(text: str) -> str:
    """Return the canonical text for the weight matrices to adapt in every chosen block.

    It is ``attention`` (q and v), ``all-linear`` (q, k, v and both layers of the MLP) or a list
    such as ``q,k,v,lin1``.

    Raises
    ------
    ConfigurationError
        If `text` is none of the known forms.
    """
    name = text.strip().lower().replace(" ", "")
    if name in _NAMED:
        return name
    given = name.split(",")
    if not set(given) <= _LAYERS.keys():
        raise ConfigurationError(
            f"matrices {text!r} are not known: use {', '.join(_NAMED)}, or a list of "
            f"{', '.join(_LAYERS)} such as q,k,v"
        )
    parts = tuple(part for part in _LAYERS if part in given)
    return next((n for n, named in _NAMED.items() if named == parts), ",".join(parts))


@dataclass(frozen=True)
class Target:
    """One matrix to adapt.

    Attributes
    ----------
    layer
        Path of the linear layer that holds it, from the model's root.
    part
        ``q``, ``k``, ``v`` (a third of the rows of a fused layer) or ``all``.
    """

    layer: str
    part: str

    def rows(self, out_features: int) -> tuple[int, int]:
        """Return the half-open range of the layer's output rows."""
        if self.part == "all":
            return 0, out_features
        third = out_features // 3
        start = "qkv".index(self.part) * third
        return start, start + third


def targets(blocks: Iterable[int], modules: str) -> tuple[Target, ...]:
    """Return all targets in `modules`, by block, then in the order q, k, v, lin1, lin2."""
    parts = _NAMED.get(modules) or modules.split(",")
    return tuple(
        Target(f"image_encoder.blocks.{block}.{_LAYERS[part]}", part if part in "qkv" else "all")
        for block in blocks
        for part in parts
    )


def _read_from_text(parse: Callable[[str], object]) -> BeforeValidator:
    """Read a field from its text, or from a list of the text's comma-separated items."""

    def read(value: Any) -> Any:
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = ",".join(map(str, value))
        return parse(value) if isinstance(value, str) else value

    return BeforeValidator(read)


PlacementField = Annotated[
    Placement,
    _read_from_text(Placement.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"type": "string", "examples": ["all", "late-50%", "late-25%", "last", "early-50%"]}
    ),
]
"""`Placement` as a field of a pydantic model: read from its text or a list, written as text."""

TargetModulesField = Annotated[
    str,
    _read_from_text(parse_target_modules),
    WithJsonSchema({"type": "string", "examples": ["attention", "all-linear", "q,k,v"]}),
]
"""Target modules as a field of a pydantic model: canonical text, read from a list, too."""
