"""Training of the whole image encoder."""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._protocol import ParameterHint
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import MethodConfig

__all__ = ["FullFinetuning", "FullFinetuningConfig"]


class FullFinetuningConfig(MethodConfig):
    """Options of `full finetuning`: only what all methods share."""

    method: Literal["full-finetuning"] = "full-finetuning"


class FullFinetuning:
    """Every weight of the encoder, patch embedding, positions and neck included."""

    name = "full-finetuning"
    title = "full finetuning"
    description = "Trains everything; needs the most memory, data and disk, and forgets the most."
    mergeable = True
    adapts_encoder = True
    config = FullFinetuningConfig

    def install(self, surgery: Surgery, config: FullFinetuningConfig) -> None:
        """Make the whole encoder trainable."""
        surgery.tune(lambda path: path.startswith("image_encoder."))

    def hint(self, parameter: str, config: FullFinetuningConfig) -> ParameterHint:
        """All parameters are ordinary."""
        return ParameterHint()

    def first_changed_block(self, config: FullFinetuningConfig, depth: int) -> int:
        """Even what precedes the blocks changes."""
        return -1
