"""Training of the mask decoder and prompt encoder only: the encoder stays as it is."""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._protocol import PeftMethod
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import MethodConfig

__all__ = ["FrozenEncoder", "FrozenEncoderConfig"]


class FrozenEncoderConfig(MethodConfig):
    """Options of `frozen encoder`: only what all methods share."""

    method: Literal["frozen-encoder"] = "frozen-encoder"


class FrozenEncoder(PeftMethod[FrozenEncoderConfig]):
    """No adapter at all in the encoder; its embeddings stay valid while training."""

    name = "frozen-encoder"
    title = "Frozen encoder"
    description = "Trains the mask decoder only; lightest, and embeddings stay valid."
    changes = "nothing; mask decoder and prompt encoder only"
    use_when = "little memory, or no GPU"
    adapts_encoder = False
    low_rank = True
    config = FrozenEncoderConfig

    def install(self, surgery: Surgery, config: FrozenEncoderConfig) -> None:
        """Change nothing in the encoder."""
