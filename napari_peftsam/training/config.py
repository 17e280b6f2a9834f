"""Configuration of a finetuning run, for dock, command line and Python, and named settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from napari_peftsam.configs import TrainingOptions
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
# What saved most clicks with the built-in model (docs/study.md, docs/settings-study.md).
_WHOLE_MODEL_RATE = 4e-4
_WHOLE_MODEL = {"averaging": 0.98, "variation": 0.25, "start_weight": 0.25}


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
    options
        Other fields of a `TrainingConfig` that it sets.
    """

    name: str
    title: str
    explanation: str
    method: MethodConfig
    learning_rate: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return the fields of a `TrainingConfig` that it sets."""
        return {"method": self.method, "learning_rate": self.learning_rate, **self.options}


def _lora(placement: str) -> MethodConfig:
    return parse_method_config(
        {"method": "lora", "rank": 32, "matrices": "all-linear", "placement": placement}
    )


# The most objects per second.
_MANY_OBJECTS = {"objects_per_step": 30, "rounds": 4}

# The paper's settings; its small one is "frozen encoder, or the last block".
_PEFT_SAM_RATE = 1e-5
# As its scripts call micro-sam's trainer; early stopping as for single images.
_PEFT_SAM_TRAINER = {
    "objects_per_step": 25,
    "images_per_step": 2,
    "rounds": 8,
    "prompts": "peft-sam",
    "loss": "dice",
    "schedule": "plateau",
    "early_stopping": 10,
    "validations": 0,
}

# SAM-COBOT's paper trains on natural and remote-sensing images at 1e-4, on medical ones at
# 1.25e-6. Its code for the latter has groups: 1.25e-4 for C, S and the hyper-complex layer; gamma
# is with the adapters. Within minutes, 1.25e-6 would hardly move B from 0.
_COBOT_RATE = 1e-4
_COBOT = {"init": "official", "coefficient_rate": "1.25e-4", "fast_gamma": False}
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
            "peft-sam-many",
            "PEFT-SAM, many objects",
            "The same, on up to 30 objects of a view in each step, in four rounds of prompts: "
            "learns the most objects per minute.",
            _lora("late-50%"),
            _PEFT_SAM_RATE,
            _MANY_OBJECTS,
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
            "peft-sam-trainer",
            "PEFT-SAM, its trainer",
            "As PEFT-SAM's trainer: 8 rounds of prompts, Dice and IoU loss, a rate that falls on "
            "plateaus, early stopping; slow, to compare with its paper.",
            _lora("late-50%"),
            _PEFT_SAM_RATE,
            _PEFT_SAM_TRAINER,
        ),
        Recipe(
            "cobot",
            "SAM-COBOT",
            "LoRA of rank 4 with cross-block orchestration (Peng et al., CVPR 2024); the "
            "coefficients' start, rate and groups are those of its code.",
            parse_method_config({"method": "cobot-lora", "rank": 4, **_COBOT}),
            _COBOT_RATE,
        ),
        Recipe(
            "cobot-adaptformer",
            "SAM-COBOT, AdaptFormer",
            "AdaptFormer of width 16 with cross-block orchestration, the best of the SAM-COBOT "
            "paper; coefficients and dropout as in its code.",
            parse_method_config(
                {
                    "method": "cobot-adaptformer",
                    "bottleneck": 16,
                    "input_norm": True,
                    "learn_scale": False,
                    "dropout": 0.1,
                    **_COBOT,
                }
            ),
            _COBOT_RATE,
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
    def made(explanation: str, method: MethodConfig, *rest: Any) -> Recipe:
        return Recipe(RECOMMENDED, "Recommended", explanation, method, *rest)

    frozen = FrozenEncoderConfig()
    if not architecture.adaptable:
        return made(f"Mask decoder only: no adapters fit into {architecture.name}.", frozen)
    if architecture.width < _SMALL_WIDTH:
        return made(
            "The whole encoder, and the average of its last steps with a quarter of the start: "
            "this model is small enough.",
            parse_method_config({"method": "full-finetuning"}),
            _WHOLE_MODEL_RATE,
            _WHOLE_MODEL,
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
