"""What all method configurations share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from napari_peftsam.peft.placement import Placement, PlacementField

__all__ = ["MethodConfig", "PlacedConfig"]


class MethodConfig(BaseModel):
    """Options every method has; each method derives its own frozen class.

    A derived class narrows `method` to its own name; that is the discriminator
    by which `parse_method_config` finds the class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: str
    tune_mask_decoder: bool = Field(
        default=True,
        title="Train the mask decoder",
        description="Finetune SAM's mask decoder together with the encoder's adapter.",
    )
    tune_prompt_encoder: bool = Field(
        default=True,
        title="Train the prompt encoder",
        description="Finetune SAM's prompt encoder together with the encoder's adapter.",
    )


class PlacedConfig(MethodConfig):
    """Options of the methods that act on chosen blocks of the encoder."""

    placement: PlacementField = Field(
        default=Placement("all"),
        title="Placement",
        description="Blocks of the encoder to adapt: all, late-50%, late-25%, last, "
        "early-50%, first, or a list such as 0,3,5-7. Later blocks need less memory.",
    )
