"""What the methods with low-rank updates share: options, where, and how to optimise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import ClassVar, TypeVar

from pydantic import Field
from torch import nn

from napari_peftsam.peft._low_rank import (
    AdaptedLinear,
    FrozenLinear,
    LowRankUpdate,
    SlotUpdate,
    check_rank,
)
from napari_peftsam.peft._matrices import ATTENTION, MatricesField, Slot, slots_of
from napari_peftsam.peft._protocol import ParameterHint, PeftMethod
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["LowRankConfig", "LowRankMethod", "SlotSite", "install_low_rank", "low_rank_hint"]


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
    matrices: MatricesField = Field(
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
        """What the update is multiplied by."""
        return self.alpha


LowRankT = TypeVar("LowRankT", bound=LowRankConfig)


@dataclass(frozen=True, eq=False)
class SlotSite:
    """Where an update is made.

    Attributes
    ----------
    number
        Of the slot, counted through the model.
    base, rows
        The frozen layer, and which of its output rows.
    loading
        Whether the update's tensors will be overwritten, see `Surgery`.
    """

    number: int
    base: nn.Linear
    rows: tuple[int, int]
    loading: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the update."""
        return self.rows[1] - self.rows[0], self.base.in_features


class LowRankMethod(PeftMethod[LowRankT]):
    """Base of the methods that add an update to each chosen matrix.

    Attributes
    ----------
    layer
        What stands for a linear layer that holds some of the matrices.
    """

    low_rank = True
    layer: ClassVar[type[AdaptedLinear]] = AdaptedLinear

    def install(self, surgery: Surgery, config: LowRankT) -> None:
        """Replace the chosen linear layers."""
        slots = slots_of(config.placement.blocks(surgery.depth), config.matrices)
        make = partial(self.update, config=config)
        install_low_rank(surgery, slots, config.rank, make, layer=self.layer)

    def update(self, site: SlotSite, config: LowRankT) -> SlotUpdate:
        """Make the update of one matrix."""
        return LowRankUpdate(site.shape, config.rank, config.factor)

    def hint(self, parameter: str, config: LowRankT) -> ParameterHint:
        """Follow the LoRA+ ratio."""
        return low_rank_hint(parameter, config)


def low_rank_hint(parameter: str, config: LowRankConfig) -> ParameterHint:
    """Give the B of LoRA+ a group with its own rate."""
    if parameter.endswith(".B") and config.lora_plus_ratio != 1:
        return ParameterHint("B", config.lora_plus_ratio)
    return ParameterHint()


def install_low_rank(
    surgery: Surgery,
    slots: Iterable[Slot],
    rank: int,
    make: Callable[[SlotSite], SlotUpdate],
    *,
    layer: type[AdaptedLinear] = AdaptedLinear,
    hold: Callable[[nn.Linear], FrozenLinear] | None = None,
) -> None:
    """Replace the layers that hold some matrices.

    Parameters
    ----------
    surgery
        The model to change.
    slots
        The matrices, those of one layer next to each other.
    rank
        Inner dimension of the updates.
    make
        Makes the update of one matrix.
    layer
        What the layers are replaced by.
    hold
        Makes what computes in the place of a frozen layer; None for the layer itself.

    Raises
    ------
    ConfigurationError
        If a layer is missing, or smaller than `rank`.
    """
    numbered = groupby(enumerate(slots), key=lambda item: item[1].layer)
    for path, members in numbered:
        base = surgery.layer(path)
        updates, rows = {}, {}
        for number, slot in members:
            rows[slot.part] = slot.rows(base.out_features)
            site = SlotSite(number, base, rows[slot.part], surgery.loading)
            check_rank(rank, site.shape, path)
            updates[slot.part] = make(site)
        frozen = base if hold is None else hold(base)
        surgery.replace(path, layer(frozen, updates, rows), park=hold is not None)
