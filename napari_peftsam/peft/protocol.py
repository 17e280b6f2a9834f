"""The options and behaviour that every finetuning method provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Generic,
    Protocol,
    Self,
    TypeVar,
    runtime_checkable,
)

from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_peftsam.peft.placement import Placement, PlacementField

if TYPE_CHECKING:
    from torch import Tensor

    from napari_peftsam.peft.surgery import Surgery

__all__ = [
    "ConfigT",
    "Foldable",
    "MethodConfig",
    "ParameterHint",
    "PeftMethod",
    "PlacedConfig",
    "Scalable",
]


class MethodConfig(BaseModel):
    """Options of all methods.

    A derived class narrows `method` to the names of its methods; `parse_method_config` finds
    the class by it.
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


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


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
    """

    group: str = "main"
    lr_multiplier: float = 1.0
    decay: bool = True


class PeftMethod(ABC, Generic[ConfigT]):
    """One way of adapting SAM.

    Attributes
    ----------
    name
        The key in the registry and in adapter files, e.g. ``lora``.
    title, description
        Texts of lists in the interface; the description is one sentence.
    changes, use_when
        Short phrases of the table of methods: what it trains in a block, and when to take it.
    mergeable
        Whether the trained result can be written as a plain SAM checkpoint. If so,
        every module passed to `Surgery.replace` must be `Foldable`.
    scalable
        Whether its update can be weakened by a factor. If so, every module passed to
        `Surgery.replace` must be `Scalable`.
    low_rank
        Whether it changes the encoder by low-rank updates of linear layers only. If so, every
        module passed to `Surgery.replace` must be an `AdaptedLinear` whose updates implement
        `RowUpdate.low_rank`; such adapters can be written for HF peft.
    starts_as_base
        Whether it computes what the base computes until it is trained.
    adapts_encoder
        Whether injecting it must change the encoder.
    cobot
        Name of the method that is this one orchestrated by COBOT; empty if there is none.
    undecayed
        Endings of the names of parameters that weight decay must not touch, with their groups.
    config
        The class of its options.
    """

    name: str
    title: str
    description: str
    changes: str
    use_when: str
    mergeable: ClassVar[bool] = True
    scalable: ClassVar[bool] = True
    low_rank: bool = False
    starts_as_base: ClassVar[bool] = True
    adapts_encoder: bool = True
    cobot: ClassVar[str] = ""
    undecayed: ClassVar[Mapping[str, str]] = {}
    config: type[ConfigT]

    @abstractmethod
    def install(self, surgery: Surgery, config: ConfigT) -> None:
        """Put new modules into the encoder, or choose encoder weights to tune."""

    def hint(self, parameter: str, config: ConfigT) -> ParameterHint:
        """Return how to optimise the adapter parameter called `parameter`."""
        found = (group for end, group in self.undecayed.items() if parameter.endswith(end))
        group = next(found, None)
        return ParameterHint() if group is None else ParameterHint(group, decay=False)

    def first_changed_block(self, config: ConfigT, depth: int) -> int:
        """Return the first block whose output differs from the base model's.

        `depth` when no block changes, -1 when what precedes the blocks changes.
        """
        return config.placement.blocks(depth)[0] if isinstance(config, PlacedConfig) else depth

    def over_plain_layers(self, config: ConfigT) -> MethodConfig:
        """Return the options under which the same tensors act on layers in full precision.

        They differ from `config` only where a method quantises the frozen layers, which not
        every machine can do.
        """
        return config

    def obstacle(self, device: str) -> str:
        """Return why it cannot be used on this kind of torch device; empty if it can."""
        return ""


@runtime_checkable
class Foldable(Protocol):
    """A module that can be written back as the module it replaced."""

    def folded_state(self) -> dict[str, Tensor]:
        """Return the replaced module's state dict with the adapter folded in, on CPU."""


@runtime_checkable
class Scalable(Protocol):
    """A module whose update is multiplied by `strength`, 1 at first.

    The update must vanish linearly: at 0 the module would be the one it replaced.
    """

    strength: float
