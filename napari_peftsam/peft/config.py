"""What all method configurations share."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    decoder_lora_rank: int = Field(
        default=0,
        ge=0,
        title="Decoder LoRA rank",
        description="0: train the mask decoder's own weights; else LoRA of this rank on its "
        "attention (q and v), the weights themselves staying as they are.",
    )

    @model_validator(mode="after")
    def _decoder_is_trained(self) -> Self:
        if self.decoder_lora_rank and not self.tune_mask_decoder:
            raise ValueError(
                f"decoder_lora_rank is {self.decoder_lora_rank}, but tune_mask_decoder is False: "
                "let the mask decoder be trained, or leave the rank at 0"
            )
        return self


class PlacedConfig(MethodConfig):
    """Options of the methods that act on chosen blocks of the encoder."""

    placement: PlacementField = Field(
        default=Placement("all"),
        title="Placement",
        description="Blocks of the encoder to adapt: all, late-50%, late-25%, last, "
        "early-50%, first, or a list such as 0,3,5-7. Later blocks need less memory.",
    )
