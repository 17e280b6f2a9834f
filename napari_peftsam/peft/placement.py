"""Where in the encoder a method acts: a choice of its own, independent of the method."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import floor
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft._text_field import read_from_text

__all__ = ["Placement", "PlacementField"]

_SHARE = re.compile(r"(late|early)-(\d{1,3})%")
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_ALLOWED = "all, late-50% or early-25% (any percentage), last, first, or blocks such as 0,3,5-7"


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
        """Read a placement.

        Raises
        ------
        ConfigurationError
            If `text` is none of the known forms.
        """
        name = text.strip().lower().replace(" ", "")
        share = _SHARE.fullmatch(name)
        if name in ("all", "first", "last"):
            return cls(name)
        if share and 1 <= int(share[2]) <= 100:
            return cls(f"{share[1]}-{int(share[2])}%")
        return cls(_canonical(_parse_blocks(name, text)))

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


PlacementField = Annotated[
    Placement,
    read_from_text(Placement.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {"type": "string", "examples": ["all", "late-50%", "late-25%", "last", "early-50%"]}
    ),
]
"""`Placement` as a field of a pydantic model: read from its text or a list, written as text."""
