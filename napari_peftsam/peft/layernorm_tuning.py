"""Training of the layer norms alone."""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._protocol import ParameterHint
from napari_peftsam.peft._selective import SelectiveMethod
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["LayerNormTuning", "LayerNormTuningConfig"]


class LayerNormTuningConfig(PlacedConfig):
    """Options of `LayerNorm tuning`."""

    method: Literal["layernorm-tuning"] = "layernorm-tuning"


class LayerNormTuning(SelectiveMethod[LayerNormTuningConfig]):
    """Scale and shift of both norms of a block."""

    name = "layernorm-tuning"
    title = "LayerNorm tuning"
    description = (
        "Trains the layer norms of the chosen blocks only; the smallest change of the encoder."
    )
    changes = "both layer norms"
    use_when = "the smallest change of the encoder"
    config = LayerNormTuningConfig

    def selects(self, name: str) -> bool:
        """Take both norms."""
        return name.startswith(("norm1.", "norm2."))

    def hint(self, parameter: str, config: LayerNormTuningConfig) -> ParameterHint:
        """Decay would pull the encoder's values to 0."""
        if parameter.startswith("encoder."):
            return ParameterHint("encoder", decay=False)
        return super().hint(parameter, config)
