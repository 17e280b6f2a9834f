"""The weight matrices of a transformer block that an adapter can act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Matrices", "Slot", "slots_of"]

Matrices = Literal["attention", "all-linear"]

_QKV = "attn.qkv"
_IN_BLOCK: dict[Matrices, tuple[tuple[str, str], ...]] = {
    "attention": ((_QKV, "q"), (_QKV, "v")),
    "all-linear": (
        (_QKV, "q"),
        (_QKV, "k"),
        (_QKV, "v"),
        ("mlp.lin1", "all"),
        ("mlp.lin2", "all"),
    ),
}


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
        Slot(f"image_encoder.blocks.{block}.{layer}", part)
        for block in blocks
        for layer, part in _IN_BLOCK[matrices]
    )
