"""AdaptFormer orchestrated by COBOT (Peng et al. 2024)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_peftsam.peft._protocol import ParameterHint, PeftMethod
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.adaptformer import BottleneckConfig, install_bottlenecks, scale_hint
from napari_peftsam.peft.cobot import CobotOptions, coefficient_hint, install_hub

__all__ = ["CobotAdaptFormer", "CobotAdaptFormerConfig"]


class CobotAdaptFormerConfig(CobotOptions, BottleneckConfig):
    """Options of `AdaptFormer + COBOT`."""

    method: Literal["cobot-adaptformer"] = "cobot-adaptformer"
    bottleneck: int = Field(
        default=16,
        ge=4,
        multiple_of=4,
        title="Bottleneck",
        description="Inner width of the adapter; divisible by 4, the parts of a quaternion.",
    )


class CobotAdaptFormer(PeftMethod[CobotAdaptFormerConfig]):
    """AdaptFormer whose bottlenecks are orchestrated by COBOT."""

    name = "cobot-adaptformer"
    title = "AdaptFormer + COBOT"
    description = (
        "AdaptFormer whose branches are related across blocks by few shared coefficients; "
        "gains on microscopy are unproven."
    )
    changes = "as AdaptFormer, with coefficients shared across blocks"
    use_when = "instead of AdaptFormer of the same bottleneck"
    mergeable = False
    config = CobotAdaptFormerConfig

    def install(self, surgery: Surgery, config: CobotAdaptFormerConfig) -> None:
        """Add the hub to the encoder and a branch beside each chosen MLP."""
        blocks = config.placement.blocks(surgery.depth)
        mixer = install_hub(surgery, config.bottleneck, len(blocks), config.init)
        install_bottlenecks(surgery, config, mixer)

    def hint(self, parameter: str, config: CobotAdaptFormerConfig) -> ParameterHint:
        """Coefficients get their own group, and the scale does not decay."""
        return coefficient_hint(parameter, config) or scale_hint(parameter)
