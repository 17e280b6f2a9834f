"""Training of whole blocks, the last ones by default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from napari_peftsam.peft._selective import SelectiveMethod
from napari_peftsam.peft.config import PlacedConfig
from napari_peftsam.peft.placement import Placement, PlacementField

__all__ = ["LateFinetuning", "LateFinetuningConfig"]


class LateFinetuningConfig(PlacedConfig):
    """Options of `late finetuning`."""

    method: Literal["late-finetuning"] = "late-finetuning"
    placement: PlacementField = Field(
        default=Placement("late-50%"),
        title="Placement",
        description="Blocks of the encoder to train as a whole, as in the other methods.",
    )


class LateFinetuning(SelectiveMethod[LateFinetuningConfig]):
    """Every weight of the chosen blocks."""

    name = "late-finetuning"
    title = "Late finetuning"
    description = "Trains whole blocks, the last half by default; large files, much to learn with."
    changes = "every weight of the chosen blocks"
    use_when = "enough data and disk"
    config = LateFinetuningConfig

    def selects(self, name: str) -> bool:
        """Take everything."""
        return True
