"""LoRA on slices of the fused attention projection (Hu et al. 2021).

The update acts on q and v separately, as SAM-specific papers do; a common LoRA on
the fused layer would share A between q, k and v and be another model.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Literal

from pydantic import Field

from napari_peftsam.peft._low_rank import AdaptedLinear, LowRankUpdate, RankMixer, check_rank
from napari_peftsam.peft._matrices import Matrices, slots_of
from napari_peftsam.peft._protocol import ParameterHint
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["Lora", "LoraConfig", "LowRankConfig", "install_low_rank"]


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
        install_low_rank(surgery, config)

    def hint(self, parameter: str, config: LoraConfig) -> ParameterHint:
        """All parameters are ordinary."""
        return ParameterHint()

    def first_changed_block(self, config: LoraConfig, depth: int) -> int:
        """Return the first adapted block."""
        return config.placement.blocks(depth)[0]


def install_low_rank(
    surgery: Surgery,
    config: LowRankConfig,
    mixer: Callable[[int], RankMixer] | None = None,
) -> None:
    """Replace each chosen layer by an `AdaptedLinear`.

    Parameters
    ----------
    surgery
        The model to change.
    config
        Rank, alpha, matrices and placement.
    mixer
        Makes the rank-space map of slot number ``t``; None for none.
    """
    slots = slots_of(config.placement.blocks(surgery.depth), config.matrices)
    numbered = groupby(enumerate(slots), key=lambda item: item[1].layer)
    for path, members in numbered:
        base = surgery.layer(path)
        updates, rows = {}, {}
        for number, slot in members:
            start, stop = rows[slot.part] = slot.rows(base.out_features)
            shape = (stop - start, base.in_features)
            check_rank(config.rank, shape, path)
            updates[slot.part] = LowRankUpdate(
                shape, config.rank, config.alpha, mixer(number) if mixer else None
            )
        surgery.replace(path, AdaptedLinear(base, updates, rows))
