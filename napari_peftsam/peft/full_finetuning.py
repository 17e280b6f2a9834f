"""Training of the whole image encoder."""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._protocol import PeftMethod
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import MethodConfig

__all__ = ["FullFinetuning", "FullFinetuningConfig"]


class FullFinetuningConfig(MethodConfig):
    """Options of `full finetuning`: only what all methods share."""

    method: Literal["full-finetuning"] = "full-finetuning"


class FullFinetuning(PeftMethod[FullFinetuningConfig]):
    """Every weight of the encoder, patch embedding, positions and neck included."""

    name = "full-finetuning"
    title = "Full finetuning"
    description = "Trains everything; needs the most memory, data and disk, and forgets the most."
    changes = "every weight of the encoder"
    use_when = "much data, memory and disk"
    config = FullFinetuningConfig

    def install(self, surgery: Surgery, config: FullFinetuningConfig) -> None:
        """Make the whole encoder trainable."""
        surgery.tune(lambda path: path.startswith("image_encoder."))

    def first_changed_block(self, config: FullFinetuningConfig, depth: int) -> int:
        """Even what precedes the blocks changes."""
        return -1
