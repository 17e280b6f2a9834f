"""What a method must provide; nothing outside its own file knows it by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from napari_peftsam.peft.config import MethodConfig, PlacedConfig

if TYPE_CHECKING:
    from torch import Tensor

    from napari_peftsam.peft._surgery import Surgery

__all__ = ["ConfigT", "Foldable", "ParameterHint", "PeftMethod", "Scalable"]

ConfigT = TypeVar("ConfigT", bound=MethodConfig)


@dataclass(frozen=True)
class ParameterHint:
    """How the optimiser should treat a parameter; equal hints share one group.

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
    """One way of adapting SAM: a small class in a file of its own.

    Attributes
    ----------
    name
        The key in the registry and in adapter files, e.g. ``lora``.
    title, description
        What lists in the interface show; the description is one sentence.
    changes
        What it trains in a block of the encoder, for the table of methods: a short phrase.
    use_when
        When to take it, for the same table: a short phrase.
    mergeable
        Whether the trained result can be written as a vanilla SAM checkpoint. If so,
        every module passed to `Surgery.replace` must be `Foldable`.
    scalable
        Whether its update can be weakened by a factor. If so, every module passed to
        `Surgery.replace` must be `Scalable`.
    low_rank
        Whether low-rank updates of linear layers are all it does to the encoder. If so, every
        module passed to `Surgery.replace` must be an `AdaptedLinear` whose updates know
        their `SlotUpdate.low_rank`, and what `Surgery.add` brings acts through them only; such
        adapters can be written for HF peft.
    starts_as_base
        Whether it computes what the base computes until it is trained.
    adapts_encoder
        Whether injecting it must change the encoder; if it then changes nothing, the
        injection is refused.
    cobot
        Name of the method that is this one orchestrated by COBOT; empty if there is none.
    config
        The class of its options.
    """

    name: ClassVar[str]
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
    config: type[ConfigT]

    @abstractmethod
    def install(self, surgery: Surgery, config: ConfigT) -> None:
        """Put new modules into the encoder, or choose encoder weights to tune."""

    def hint(self, parameter: str, config: ConfigT) -> ParameterHint:
        """Say how to optimise the adapter parameter called `parameter`."""
        return ParameterHint()

    def first_changed_block(self, config: ConfigT, depth: int) -> int:
        """Return the first block whose output differs from the base model's.

        `depth` when no block changes, -1 when what precedes the blocks changes.
        """
        return config.placement.blocks(depth)[0] if isinstance(config, PlacedConfig) else depth

    def over_plain_layers(self, config: ConfigT) -> MethodConfig:
        """Return the options under which the same tensors act on layers held in full.

        Another configuration only where a method holds the frozen layers in fewer bits, which
        not every machine can; what it has learned can be read everywhere.
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
