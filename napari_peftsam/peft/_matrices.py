"""The weight matrices of a transformer block that an adapter can act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft._text_field import read_from_text

__all__ = ["ATTENTION", "Matrices", "MatricesField", "Slot", "slots_of"]

_LAYERS = {
    "q": "attn.qkv",
    "k": "attn.qkv",
    "v": "attn.qkv",
    "lin1": "mlp.lin1",
    "lin2": "mlp.lin2",
}
_NAMED = {"attention": ("q", "v"), "all-linear": tuple(_LAYERS)}


@dataclass(frozen=True)
class Matrices:
    """A set of matrices of every chosen block.

    Attributes
    ----------
    name
        Canonical text: ``attention`` (q and v), ``all-linear`` (q, k, v and both layers of
        the MLP) or a list such as ``q,k,v,lin1``. Make one with `parse`, which checks it.
    """

    name: str = "attention"

    @classmethod
    def parse(cls, text: str) -> Matrices:
        """Read a set of matrices.

        Raises
        ------
        ConfigurationError
            If `text` is none of the known forms.
        """
        name = text.strip().lower().replace(" ", "")
        if name in _NAMED:
            return cls(name)
        given = name.split(",")
        if not set(given) <= _LAYERS.keys():
            raise ConfigurationError(
                f"matrices {text!r} are not known: use {', '.join(_NAMED)}, or a list of "
                f"{', '.join(_LAYERS)} such as q,k,v"
            )
        parts = tuple(part for part in _LAYERS if part in given)
        return cls(next((n for n, named in _NAMED.items() if named == parts), ",".join(parts)))

    @property
    def parts(self) -> tuple[str, ...]:
        """Their names in the order q, k, v, lin1, lin2."""
        return _NAMED.get(self.name) or tuple(self.name.split(","))

    def __str__(self) -> str:
        return self.name


ATTENTION = Matrices("attention")


@dataclass(frozen=True)
class Slot:
    """One adapted matrix.

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


def slots_of(blocks: Iterable[int], matrices: Matrices) -> tuple[Slot, ...]:
    """Return all slots, ordered by block, then q, k, v, lin1, lin2."""
    return tuple(
        Slot(f"image_encoder.blocks.{block}.{_LAYERS[part]}", part if part in "qkv" else "all")
        for block in blocks
        for part in matrices.parts
    )


MatricesField = Annotated[
    Matrices,
    read_from_text(Matrices.parse),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["attention", "all-linear", "q,k,v"]}),
]
"""`Matrices` as a field of a pydantic model: read from its text or a list, written as text."""
