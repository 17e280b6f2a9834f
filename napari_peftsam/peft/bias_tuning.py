"""Training of biases alone (Ben Zaken et al. 2022, BitFit)."""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._protocol import ParameterHint
from napari_peftsam.peft._selective import SelectiveMethod
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["BiasTuning", "BiasTuningConfig"]


class BiasTuningConfig(PlacedConfig):
    """Options of `bias tuning`."""

    method: Literal["bias-tuning"] = "bias-tuning"


class BiasTuning(SelectiveMethod[BiasTuningConfig]):
    """Every bias of a block."""

    name = "bias-tuning"
    title = "Bias tuning"
    description = (
        "Trains the biases of the chosen blocks only; very small, and often enough for another "
        "contrast."
    )
    changes = "every bias"
    use_when = "very small files, another contrast"
    config = BiasTuningConfig

    def selects(self, name: str) -> bool:
        """Take the biases."""
        return name.endswith(".bias")

    def hint(self, parameter: str, config: BiasTuningConfig) -> ParameterHint:
        """Decay would pull the encoder's values to 0."""
        if parameter.startswith("encoder."):
            return ParameterHint("encoder", decay=False)
        return super().hint(parameter, config)
