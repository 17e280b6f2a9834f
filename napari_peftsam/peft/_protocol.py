"""What a method must provide; nothing outside its own file knows it by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from napari_peftsam.peft._surgery import Surgery
    from napari_peftsam.peft.config import MethodConfig

__all__ = ["Foldable", "ParameterHint", "PeftMethod"]

ConfigT = TypeVar("ConfigT", bound="MethodConfig")
ConfigT_contra = TypeVar("ConfigT_contra", bound="MethodConfig", contravariant=True)


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


class PeftMethod(Protocol[ConfigT_contra]):
    """One way of adapting SAM: a small class in a file of its own.

    Attributes
    ----------
    name
        The key in the registry and in adapter files, e.g. ``lora``.
    title, description
        What lists in the interface show; the description is one sentence.
    mergeable
        Whether the trained result can be written as a vanilla SAM checkpoint. If so,
        every module passed to `Surgery.replace` must be `Foldable`.
    adapts_encoder
        Whether injecting it must change the encoder; if it then changes nothing, the
        injection is refused.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def mergeable(self) -> bool: ...
    @property
    def adapts_encoder(self) -> bool: ...
    @property
    def config(self) -> type[MethodConfig]: ...

    def install(self, surgery: Surgery, config: ConfigT_contra) -> None:
        """Put new modules into the encoder, or choose encoder weights to tune."""

    def hint(self, parameter: str, config: ConfigT_contra) -> ParameterHint:
        """Say how to optimise the adapter parameter called `parameter`."""

    def first_changed_block(self, config: ConfigT_contra, depth: int) -> int:
        """Return the first block whose output differs from the base model's.

        `depth` when no block changes, -1 when what precedes the blocks changes.
        """


@runtime_checkable
class Foldable(Protocol):
    """A module that can be written back as the module it replaced."""

    def folded_state(self) -> dict[str, Tensor]:
        """Return the replaced module's state dict with the adapter folded in, on CPU."""
