"""Configuration of a finetuning run; one schema for dock, command line and Python."""

from __future__ import annotations

from pydantic import Field

from napari_peftsam.configs import TrainingOptions
from napari_peftsam.models import Architecture
from napari_peftsam.peft import CobotLoraConfig, MethodField

__all__ = ["TrainingConfig", "recommended_learning_rate"]

# Rates above 1e-4 destroy the prompting of the large SAMs (PEFT-SAM, Teuber et al.); the
# small built-in model needs, and bears, more.
_LARGE_MODEL_RATE = 5e-5
_SMALL_MODEL_RATE = 2e-4
_SMALL_WIDTH = 256


def recommended_learning_rate(architecture: Architecture) -> float:
    """Return the learning rate to use when the user names none."""
    return _SMALL_MODEL_RATE if architecture.width < _SMALL_WIDTH else _LARGE_MODEL_RATE


class TrainingConfig(TrainingOptions):
    """One finetuning run: its method and options. Exactly one budget must be set."""

    method: MethodField = Field(
        default_factory=CobotLoraConfig,
        title="Method",
        description="How the encoder is adapted, and where.",
    )
