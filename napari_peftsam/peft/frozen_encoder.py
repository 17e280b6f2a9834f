"""Training of the mask decoder and prompt encoder only: the encoder stays as it is."""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._protocol import ParameterHint
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import MethodConfig

__all__ = ["FrozenEncoder", "FrozenEncoderConfig"]


class FrozenEncoderConfig(MethodConfig):
    """Options of `frozen encoder`: only what all methods share."""

    method: Literal["frozen-encoder"] = "frozen-encoder"


class FrozenEncoder:
    """No adapter at all in the encoder; its embeddings stay valid while training."""

    name = "frozen-encoder"
    title = "frozen encoder"
    description = (
        "Trains the mask decoder only; fastest and lightest, since every image is encoded once."
    )
    mergeable = True
    adapts_encoder = False
    config = FrozenEncoderConfig

    def install(self, surgery: Surgery, config: FrozenEncoderConfig) -> None:
        """Change nothing in the encoder."""

    def hint(self, parameter: str, config: FrozenEncoderConfig) -> ParameterHint:
        """All parameters are ordinary."""
        return ParameterHint()

    def first_changed_block(self, config: FrozenEncoderConfig, depth: int) -> int:
        """No block changes."""
        return depth
