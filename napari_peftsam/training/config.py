"""Configuration of a finetuning run, for dock, command line and Python, and named settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import Architecture
from napari_peftsam.peft import (
    CobotLoraConfig,
    FrozenEncoderConfig,
    MethodConfig,
    MethodField,
    Placement,
    parse_method_config,
)

__all__ = [
    "RECIPES",
    "RECOMMENDED",
    "Recipe",
    "TrainingConfig",
    "recipe",
    "recommended_learning_rate",
]

# Rates above 1e-4 destroy the prompting of the large SAMs (PEFT-SAM, Teuber et al.); the
# small built-in model needs, and bears, more.
_LARGE_MODEL_RATE = 5e-5
_SMALL_MODEL_RATE = 2e-4
_SMALL_WIDTH = 256


def recommended_learning_rate(architecture: Architecture) -> float:
    """Return the learning rate to use when the user names none."""
    return _SMALL_MODEL_RATE if architecture.width < _SMALL_WIDTH else _LARGE_MODEL_RATE


class TrainingConfig(BaseModel):
    """One finetuning run. Exactly one of the three budgets must be set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: MethodField = Field(
        default_factory=CobotLoraConfig,
        title="Method",
        description="How the encoder is adapted, and where.",
    )
    steps: int | None = Field(None, ge=1, title="Steps", description="Budget in training steps.")
    epochs: int | None = Field(
        None, ge=1, title="Epochs", description="Budget in passes over the training images."
    )
    seconds: float | None = Field(
        None, gt=0, title="Time", description="Budget in seconds of training and validation."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        title="Learning rate",
        description="Peak learning rate of AdamW; by default what suits the model.",
    )
    weight_decay: float = Field(0.01, ge=0, title="Weight decay", description="Of AdamW.")
    objects_per_step: int = Field(
        8, ge=1, title="Objects per step", description="Objects of one image trained at once."
    )
    images_per_step: int = Field(
        1, ge=1, title="Images per step", description="Images or crops that make up one step."
    )
    views: int = Field(
        8,
        ge=1,
        title="Views",
        description="Turns and crops in which an image is seen, where a part of the encoder is "
        "frozen; what that part computes is kept for each, from the first time on: fewer pay off "
        "earlier in short runs on many images. Otherwise they are not limited.",
    )
    cache_prefix: bool = Field(
        default=True,
        title="Keep what is frozen",
        description="Compute the frozen part of the encoder once per view, not in every step.",
    )
    cache_bytes: int | None = Field(
        None,
        ge=0,
        title="Memory for that",
        description="In bytes; beyond it the disk is used. By default a quarter of what is free, "
        "at most 8 GiB.",
    )
    objects_at_once: int | None = Field(
        None,
        ge=1,
        title="Objects at once",
        description="Of a step, through the decoder; by default as many as the memory allows.",
    )
    checkpointing: bool | None = Field(
        None,
        title="Checkpointing",
        description="Compute activations of the encoder twice instead of keeping them; by default "
        "where the memory asks for it.",
    )
    rounds: int = Field(
        3, ge=1, title="Prompt rounds", description="First prompt plus corrections, per step."
    )
    held_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        title="Held out",
        description="Share of the images (of a single image: of its objects) kept for validation.",
    )
    validations: int = Field(
        5, ge=1, title="Validations", description="How often held-out objects are looked at."
    )
    seed: int = Field(
        0, ge=0, lt=2**63, title="Seed", description="Of every random choice of the run."
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        budgets = {"steps": self.steps, "epochs": self.epochs, "seconds": self.seconds}
        given = [name for name, value in budgets.items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"set exactly one budget of steps, epochs or seconds, got {found}")
        return self


# --- recipes ----------------------------------------------------------------------

RECOMMENDED = "recommended"
"""Name of the recipe that depends on model and memory."""


@dataclass(frozen=True)
class Recipe:
    """A method with its options and learning rate.

    Attributes
    ----------
    explanation
        The reason to take it, in one sentence.
    learning_rate
        None for `recommended_learning_rate`.
    """

    name: str
    title: str
    explanation: str
    method: MethodConfig
    learning_rate: float | None = None

    def settings(self) -> dict[str, Any]:
        """Return the fields of a `TrainingConfig` that it sets."""
        return {"method": self.method, "learning_rate": self.learning_rate}


def _lora(placement: str) -> MethodConfig:
    return parse_method_config(
        {"method": "lora", "rank": 32, "matrices": "all-linear", "placement": placement}
    )


# The paper's settings; its small one is "frozen encoder, or the last block".
_PEFT_SAM_RATE = 1e-5
RECIPES: Mapping[str, Recipe] = {
    r.name: r
    for r in (
        Recipe(
            "peft-sam",
            "PEFT-SAM",
            "LoRA in all linear layers of the last half of the encoder: the best setting of the "
            "PEFT-SAM study (Teuber et al.), at its low learning rate.",
            _lora("late-50%"),
            _PEFT_SAM_RATE,
        ),
        Recipe(
            "peft-sam-small",
            "PEFT-SAM, small GPU",
            "Mask decoder only, as the PEFT-SAM study (Teuber et al.) advises for little memory; "
            "embeddings stay valid.",
            FrozenEncoderConfig(),
            _PEFT_SAM_RATE,
        ),
        Recipe(
            "cobot",
            "SAM-COBOT",
            "LoRA of rank 4 with cross-block orchestration (Peng et al., CVPR 2024); coefficients "
            "learn 100 times as fast, as C and S do in the published code.",
            CobotLoraConfig(rank=4, coefficient_lr_multiplier=100.0),
        ),
    )
}
"""The fixed recipes by name; `recipe` also knows `RECOMMENDED`."""

# GiB that PEFT-SAM's trainer took for ViT-B with the encoder frozen, and for every block that
# trained (Teuber et al., PSFHS: 7.6 frozen, 9.8 for 1 block, 10.7 for 3, 13.9 for 6).
_FROZEN_GIB, _BLOCK_GIB = 7.6, 1.1
_VIT_B_WIDTH = 768
_PLACEMENTS = {
    "late-50%": "the last half of the blocks",
    "late-25%": "the last quarter of the blocks",
    "last": "the last block",
}


def recipe(name: str, architecture: Architecture, gpu_memory: int | None) -> Recipe:
    """Return a recipe of `RECIPES`, or the one `RECOMMENDED` for a model.

    `gpu_memory` is in bytes, see `napari_peftsam.models.device_memory`; None for the CPU.

    Raises
    ------
    ConfigurationError
        If there is no such recipe.
    """
    if name == RECOMMENDED:
        return _recommended(architecture, gpu_memory)
    if name not in RECIPES:
        known = ", ".join((RECOMMENDED, *RECIPES))
        raise ConfigurationError(f"unknown recipe {name!r}: choose one of {known}")
    return RECIPES[name]


def _recommended(architecture: Architecture, gpu_memory: int | None) -> Recipe:
    def made(explanation: str, method: MethodConfig) -> Recipe:
        return Recipe(RECOMMENDED, "Recommended", explanation, method)

    frozen = FrozenEncoderConfig()
    if not architecture.adaptable:
        return made(f"Mask decoder only: no adapters fit into {architecture.name}.", frozen)
    if architecture.width < _SMALL_WIDTH:
        return made(
            "LoRA + COBOT in all blocks: this model is small enough for it.",
            CobotLoraConfig(),
        )
    if gpu_memory is None:
        return made(
            "Mask decoder only: without a GPU, training the encoder of a large model takes "
            "minutes a step.",
            frozen,
        )
    gib = gpu_memory / 2**30
    for placement, where in _PLACEMENTS.items():
        blocks = len(Placement.parse(placement).blocks(architecture.depth))
        needed = _FROZEN_GIB + _BLOCK_GIB * blocks * architecture.width / _VIT_B_WIDTH
        if needed <= gib:
            return made(
                f"PEFT-SAM's LoRA in {where}: about {needed:.0f} of the "
                f"{gib:.0f} GiB of this GPU, by the figures of its paper.",
                _lora(placement),
            )
    return made(f"Mask decoder only: {gib:.0f} GiB are little for training the encoder.", frozen)
