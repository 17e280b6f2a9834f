"""LoRA on slices of the fused attention projection (Hu et al. 2021), rsLoRA and LoRA + COBOT.

The update acts on q and v separately, as SAM-specific papers do; a common LoRA on the fused layer
would share A between q, k and v and be another model. rsLoRA divides its factor by the root of the
rank (Kalajdzievski 2023).
"""

from __future__ import annotations

from functools import partial
from math import sqrt
from typing import ClassVar, Literal, TypeVar

from pydantic import Field

from napari_peftsam.peft.cobot import CobotOptions, coefficient_hint, install_hub
from napari_peftsam.peft.low_rank import (
    AdaptedLinear,
    LowRankUpdate,
    RowUpdate,
    TargetSite,
    install_low_rank,
)
from napari_peftsam.peft.placement import ATTENTION, TargetModulesField, targets
from napari_peftsam.peft.protocol import ParameterHint, PeftMethod, PlacedConfig
from napari_peftsam.peft.surgery import Surgery

__all__ = [
    "CobotLora",
    "CobotLoraConfig",
    "Lora",
    "LoraConfig",
    "LowRankConfig",
    "LowRankMethod",
    "RsLora",
    "RsLoraConfig",
]


class LowRankConfig(PlacedConfig):
    """Options of all low-rank methods.

    `alpha` is the scale of the update, HF's ``lora_alpha / r``: 1 is ``lora_alpha = r``. rsLoRA's
    `alpha` is HF's ``lora_alpha``.
    """

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
    matrices: TargetModulesField = Field(
        default=ATTENTION,
        title="Matrices",
        description="attention: q and v; all-linear: q, k, v and both layers of the MLP; or a "
        "list of q, k, v, lin1, lin2.",
    )
    lora_plus_ratio: float = Field(
        default=1.0,
        ge=1,
        title="LoRA+",
        description="Factor on the learning rate of B, the half of the update that starts as 0 "
        "(Hayou et al. 2024 use 16).",
    )

    @property
    def factor(self) -> float:
        """Factor on the update."""
        return self.alpha


LowRankT = TypeVar("LowRankT", bound=LowRankConfig)


class LowRankMethod(PeftMethod[LowRankT]):
    """Base of the methods that add an update to each chosen matrix.

    Attributes
    ----------
    layer
        Class of the layers that replace linear ones.
    """

    low_rank = True
    layer: ClassVar[type[AdaptedLinear]] = AdaptedLinear

    def install(self, surgery: Surgery, config: LowRankT) -> None:
        """Replace the chosen linear layers."""
        chosen = targets(config.placement.blocks(surgery.depth), config.matrices)
        make = partial(self.update, config=config)
        install_low_rank(surgery, chosen, config.rank, make, layer=self.layer)

    def update(self, site: TargetSite, config: LowRankT) -> RowUpdate:
        """Make the update of one matrix."""
        return LowRankUpdate(site.shape, config.rank, config.factor)

    def hint(self, parameter: str, config: LowRankT) -> ParameterHint:
        """Give the B of LoRA+ a group with its own rate."""
        if parameter.endswith(".B") and config.lora_plus_ratio != 1:
            return ParameterHint("B", config.lora_plus_ratio)
        return super().hint(parameter, config)


class LoraConfig(LowRankConfig):
    """Options of `LoRA`."""

    method: Literal["lora"] = "lora"


class Lora(LowRankMethod[LoraConfig]):
    """Plain LoRA."""

    name = "lora"
    title = "LoRA"
    description = (
        "Learns a small low-rank update of the attention weights in the chosen blocks; "
        "a sound first choice."
    )
    changes = "a low-rank update of q and v (k, MLP on request)"
    use_when = "a sound first choice; read by other software"
    cobot = "cobot-lora"
    config = LoraConfig


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
        """Factor on the update."""
        return self.alpha / sqrt(self.rank)


class RsLora(LowRankMethod[RsLoraConfig]):
    """LoRA with rank-stabilised scaling."""

    name = "rslora"
    title = "rsLoRA"
    description = "LoRA whose updates keep their size at high ranks; for ranks of 32 and more."
    changes = "as LoRA, scaled by alpha / sqrt(rank)"
    use_when = "ranks of 32 and more"
    config = RsLoraConfig


class CobotLoraConfig(CobotOptions, LowRankConfig):
    """Options of `LoRA + COBOT`."""

    method: Literal["cobot-lora"] = "cobot-lora"
    rank: int = Field(
        default=8,
        ge=4,
        multiple_of=4,
        title="Rank",
        description="Inner dimension of the update; divisible by 4, the parts of a quaternion.",
    )


class CobotLora(LowRankMethod[CobotLoraConfig]):
    """LoRA whose updates are orchestrated by COBOT."""

    name = "cobot-lora"
    title = "LoRA + COBOT"
    description = (
        "LoRA whose updates are related across blocks by few shared coefficients; "
        "gains on microscopy are unproven, so compare it with plain LoRA."
    )
    changes = "as LoRA, with coefficients shared across blocks"
    use_when = "instead of LoRA of the same rank"
    config = CobotLoraConfig

    def install(self, surgery: Surgery, config: CobotLoraConfig) -> None:
        """Add the hub to the encoder and replace the chosen linear layers."""
        chosen = targets(config.placement.blocks(surgery.depth), config.matrices)
        mixer = install_hub(surgery, config.rank, len(chosen), config.init)

        def make(site: TargetSite) -> LowRankUpdate:
            return LowRankUpdate(site.shape, config.rank, config.factor, mixer(site.number))

        install_low_rank(surgery, chosen, config.rank, make)

    def hint(self, parameter: str, config: CobotLoraConfig) -> ParameterHint:
        """Coefficients get their own group."""
        return coefficient_hint(parameter, config) or super().hint(parameter, config)
