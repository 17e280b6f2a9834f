"""Training of the attention layers themselves."""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._selective import SelectiveMethod
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["AttentionTuning", "AttentionTuningConfig"]


class AttentionTuningConfig(PlacedConfig):
    """Options of `attention tuning`."""

    method: Literal["attention-tuning"] = "attention-tuning"


class AttentionTuning(SelectiveMethod[AttentionTuningConfig]):
    """Every weight of a block's attention, relative positions included."""

    name = "attention-tuning"
    title = "Attention tuning"
    description = (
        "Trains the attention layers of the chosen blocks themselves; large files, no added layers."
    )
    changes = "every weight of the attention"
    use_when = "enough data; placed late"
    config = AttentionTuningConfig

    def selects(self, name: str) -> bool:
        """Take all of the attention."""
        return name.startswith("attn.")
