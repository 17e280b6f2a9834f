"""rsLoRA: LoRA whose factor falls with the root of the rank (Kalajdzievski 2023)."""

from __future__ import annotations

from math import sqrt
from typing import Literal

from pydantic import Field

from napari_peftsam.peft._low_rank_method import LowRankConfig, LowRankMethod

__all__ = ["RsLora", "RsLoraConfig"]


class RsLoraConfig(LowRankConfig):
    """Options of `rsLoRA`."""

    method: Literal["rslora"] = "rslora"
    alpha: float = Field(
        default=4.0,
        gt=0,
        title="Alpha",
        description="The factor is alpha / sqrt(rank), so that higher ranks learn as fast.",
    )

    @property
    def factor(self) -> float:
        """What the update is multiplied by."""
        return self.alpha / sqrt(self.rank)


class RsLora(LowRankMethod[RsLoraConfig]):
    """LoRA with rank-stabilised scaling."""

    name = "rslora"
    title = "rsLoRA"
    description = "LoRA whose updates keep their size at high ranks; for ranks of 32 and more."
    changes = "as LoRA, scaled by alpha / sqrt(rank)"
    use_when = "ranks of 32 and more"
    config = RsLoraConfig
