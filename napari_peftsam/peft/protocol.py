"""The options and behaviour that every finetuning method provides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_peftsam.peft.placement import Placement, PlacementField

if TYPE_CHECKING:
    from napari_peftsam.peft.surgery import Surgery

__all__ = ["MethodConfig", "PlacedConfig"]


@dataclass(frozen=True)
class ParameterHint:
    """Treatment of a parameter by the optimiser; equal hints share one group.

    Attributes
    ----------
    group
        Name of the parameter group.
    lr_multiplier
        Factor on the learning rate.
    decay
        Whether weight decay may act on it.
    rate
        A learning rate of its own, which takes the place of the one times the factor.
    """

    group: str = "main"
    lr_multiplier: float = 1.0
    decay: bool = True
    rate: float | None = None


class MethodConfig(BaseModel):
    """A finetuning method with its options.

    A derived class is one method. It narrows `method` to its key in `METHODS` and in adapter
    files; `parse_method_config` finds the class by it.

    Attributes
    ----------
    title, description
        Texts of lists in the interface; the description is one sentence.
    changes, use_when
        Short phrases of the table of methods: what it trains in a block, and when to take it.
    mergeable
        Whether the trained result can be written as a plain SAM checkpoint. If so, every
        `Replacement` must have a `folded_state`.
    scalable
        Whether its update can be weakened by a factor. If so, every `Replacement` must multiply
        its update by its `strength`.
    low_rank
        Whether it changes the encoder by low-rank updates of linear layers only. If so, every
        `Replacement` must be an `AdaptedLinear`; such adapters can be written for HF peft.
    starts_as_base
        Whether it computes what the base computes until it is trained.
    adapts_encoder
        Whether injecting it must change the encoder.
    cobot
        Name of the method that is this one orchestrated by COBOT; empty if there is none.
    undecayed
        Regular expression of the parameters that weight decay must not touch, and their group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    title: ClassVar[str]
    description: ClassVar[str]
    changes: ClassVar[str]
    use_when: ClassVar[str]
    mergeable: ClassVar[bool] = True
    scalable: ClassVar[bool] = True
    low_rank: ClassVar[bool] = False
    starts_as_base: ClassVar[bool] = True
    adapts_encoder: ClassVar[bool] = True
    cobot: ClassVar[str] = ""
    undecayed: ClassVar[tuple[str, str] | None] = None

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

    def install(self, surgery: Surgery) -> None:
        """Put new modules into the encoder, or choose encoder weights to tune."""

    def hint(self, parameter: str) -> ParameterHint:
        """Return how to optimise the adapter parameter called `parameter`."""
        if self.undecayed and re.search(self.undecayed[0], parameter):
            return ParameterHint(self.undecayed[1], decay=False)
        return ParameterHint()

    def first_changed_block(self, depth: int) -> int:
        """Return the first encoder block whose output an adapter can change.

        Outputs before it are the same for every adapter of this configuration: `depth` if the
        whole encoder stays as it is, -1 if the input of the blocks changes, too.
        """
        return depth

    def over_plain_layers(self) -> MethodConfig:
        """Return the options under which the same tensors act on layers in full precision.

        They differ only where a method quantises the frozen layers, which not every machine can do.
        """
        return self

    @staticmethod
    def obstacle(device: str) -> str:  # noqa: ARG004
        """Return why it cannot be used on this kind of torch device; empty if it can."""
        return ""


class PlacedConfig(MethodConfig):
    """Options of the methods that act on chosen blocks of the encoder."""

    placement: PlacementField = Field(
        default=Placement("all"),
        title="Placement",
        description="Blocks of the encoder to adapt: all, late-50%, late-25%, last, "
        "early-50%, first, or a list such as 0,3,5-7. Later blocks need less memory.",
    )

    def first_changed_block(self, depth: int) -> int:
        """Return the first of the chosen blocks."""
        return self.placement.blocks(depth)[0]
