"""LoRA on slices of the fused attention projection (Hu et al. 2021).

The update acts on q and v separately, as SAM-specific papers do; a common LoRA on
the fused layer would share A between q, k and v and be another model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from pydantic import Field
from torch import nn

from napari_peftsam.peft._low_rank import AdaptedLinear, LowRankUpdate, SlotUpdate, check_rank
from napari_peftsam.peft._matrices import Matrices, slots_of
from napari_peftsam.peft._protocol import ParameterHint
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["Lora", "LoraConfig", "LowRankConfig", "SlotSite", "install_low_rank"]


class LowRankConfig(PlacedConfig):
    """Options of all low-rank methods."""

    rank: int = Field(
        default=8,
        ge=1,
        title="Rank",
        description="Inner dimension of the update; more can learn more and weighs more.",
    )
    alpha: float = Field(
        default=1.0,
        gt=0,
        title="Alpha",
        description="Factor on the update (1 here equals lora_alpha = rank elsewhere).",
    )
    matrices: Matrices = Field(
        default="attention",
        title="Matrices",
        description="attention: q and v; all-linear: q, k, v and both layers of the MLP.",
    )

    @property
    def factor(self) -> float:
        """What the update is multiplied by."""
        return self.alpha


class LoraConfig(LowRankConfig):
    """Options of `LoRA on q,v`."""

    method: Literal["lora"] = "lora"


class Lora:
    """Plain LoRA."""

    name = "lora"
    title = "LoRA on q,v"
    description = (
        "Learns a small low-rank update of the attention weights in the chosen blocks; "
        "a sound first choice."
    )
    mergeable = True
    adapts_encoder = True
    config = LoraConfig

    def install(self, surgery: Surgery, config: LoraConfig) -> None:
        """Replace the chosen linear layers."""
        install_low_rank(
            surgery, config, lambda site: LowRankUpdate(site.shape, config.rank, config.factor)
        )

    def hint(self, parameter: str, config: LoraConfig) -> ParameterHint:
        """All parameters are ordinary."""
        return ParameterHint()

    def first_changed_block(self, config: LoraConfig, depth: int) -> int:
        """Return the first adapted block."""
        return config.placement.blocks(depth)[0]


@dataclass(frozen=True, eq=False)
class SlotSite:
    """Where an update is made: its number, and its rows of which frozen layer."""

    number: int
    base: nn.Linear
    rows: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the update."""
        return self.rows[1] - self.rows[0], self.base.in_features


def install_low_rank(
    surgery: Surgery,
    config: LowRankConfig,
    make: Callable[[SlotSite], SlotUpdate],
) -> None:
    """Replace each chosen layer by an `AdaptedLinear`.

    Parameters
    ----------
    surgery
        The model to change.
    config
        Rank, matrices and placement.
    make
        Makes the update of one slot.
    """
    slots = slots_of(config.placement.blocks(surgery.depth), config.matrices)
    numbered = groupby(enumerate(slots), key=lambda item: item[1].layer)
    for path, members in numbered:
        base = surgery.layer(path)
        updates, rows = {}, {}
        for number, slot in members:
            rows[slot.part] = slot.rows(base.out_features)
            site = SlotSite(number, base, rows[slot.part])
            check_rank(config.rank, site.shape, path)
            updates[slot.part] = make(site)
        surgery.replace(path, AdaptedLinear(base, updates, rows))
