"""DoRA: direction and magnitude of each weight row are learned apart (Liu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn

from napari_peftsam.peft.low_rank import (
    AdaptedLinear,
    FrozenLinear,
    LowRankUpdate,
    RowUpdate,
    add_to_rows,
    exact,
    plain,
)
from napari_peftsam.peft.methods.lora import LowRankConfig, LowRankMethod

__all__ = ["Dora", "DoraConfig"]


class DoraConfig(LowRankConfig):
    """Options of `DoRA`."""

    method: Literal["dora"] = "dora"


class _DoraLinear(AdaptedLinear):
    """``W -> m (W + alpha B A) / |W + alpha B A|``, row by row; m starts as ``|W|``.

    The rows are those of the whole layer, as in the paper; where q and v are adapted, those of
    k keep their direction, and their length is learned, too. As in the paper (section 4.3),
    no gradient flows through the norm.
    """

    def __init__(
        self,
        base: FrozenLinear,
        updates: Mapping[str, RowUpdate],
        rows: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__(base, updates, rows)
        self.magnitude = nn.Parameter(base.weight.detach().norm(dim=1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        out: Tensor = self.base(x)
        quotient = self.magnitude / self._norm()
        linear = out if self.base.bias is None else out - self.base.bias
        changes: dict[tuple[int, int], Tensor] = {}
        for name, update in self.slots.items():
            rows = slice(*self.rows[name])
            changes[self.rows[name]] = quotient[rows] * update(x, out[..., rows])
        return add_to_rows(out + (quotient - 1) * linear, changes)

    def _norm(self) -> Tensor:
        """Return the lengths of the rows before they get those that are learned."""
        # In full precision, so that the untrained quotient is exactly 1.
        with torch.no_grad(), torch.autocast(self.magnitude.device.type, enabled=False):
            direction = self.base.weight.clone()
            for name, update in self.slots.items():
                assert isinstance(update, LowRankUpdate)
                direction[slice(*self.rows[name])] += update.alpha * (update.B @ update.A)
            return _without_zeros(direction.norm(dim=1))

    def folded_weight(self) -> Tensor:
        """Return the recomposed rows, float64."""
        direction = super().folded_weight()
        length = _without_zeros(direction.norm(dim=1))
        recomposed: Tensor = direction * (exact(self.magnitude) / length)[:, None]
        return recomposed

    def lengths(self) -> Tensor:
        """Return the learned lengths of all rows."""
        return plain(self.magnitude)


def _without_zeros(norm: Tensor) -> Tensor:
    """Keep rows of zeros: no direction could be given a length."""
    return norm.clamp_min(torch.finfo(torch.float32).tiny)


class Dora(LowRankMethod[DoraConfig]):
    """LoRA for the direction of each row of the weights, and a magnitude of its own."""

    name = "dora"
    title = "DoRA"
    description = (
        "LoRA plus a learned length of each weight row; slower, may do better at low ranks."
    )
    changes = "as LoRA, and the length of each weight row"
    use_when = "low ranks, if training may take longer"
    scalable = False
    layer = _DoraLinear
    undecayed = MappingProxyType({".magnitude": "magnitudes"})
    config = DoraConfig
