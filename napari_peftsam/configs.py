"""Configurations of training and evaluation, from whose fields commands and forms are made.

They need pydantic only, so that the help of a command appears without torch.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

LabelsAre = Literal["sparse", "complete"]
"""Whether what is not labelled is unknown, or background."""
DEFAULT_BUDGET = 60.0
"""Seconds of finetuning when no budget is named."""


class TrainingOptions(BaseModel):
    """Options of a finetuning run beside its method. Exactly one budget must be set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
    variation: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Variation",
        description="How much brightness, contrast and colours change at random, such as 0.25, "
        "where no part of the encoder is frozen; 0 leaves images as they are.",
    )
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Averaging",
        description="Share of the running average of the weights that each step leaves of it, such "
        "as 0.98; the average is what is validated and kept (see the weight of the start). 0 keeps "
        "the weights themselves.",
    )
    start_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Weight of the start",
        description="Share of the weights from before the training in the result, such as 0.25: "
        "what lies between is better for images unlike those learned from. 0 keeps none of them. "
        "Of LoRA and the like, both matrices keep that share.",
    )
    objects_per_step: int = Field(
        8, ge=1, title="Objects per step", description="Objects of one image trained at once."
    )
    images_per_step: int = Field(
        1,
        ge=1,
        le=256,
        title="Images per step",
        description="Images or crops that make up one step.",
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
        description="Objects of a step that pass the decoder together; by default as many as the "
        "memory allows.",
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
    prompts: Literal["varied", "peft-sam"] = Field(
        "varied",
        title="Prompts",
        description="varied: the user's own prompts and those of a simulated user who varies; "
        "peft-sam: as PEFT-SAM's trainer, a click and a box in turns, boxes grown by up to 2.5 % "
        "a side, then one click on what is missing and one on what is too much, the mask fed "
        "back every other time.",
    )
    loss: Literal["dice-bce", "dice"] = Field(
        "dice-bce",
        title="Loss",
        description="dice-bce: Dice and cross-entropy of the single mask and of the best of three; "
        "dice: as PEFT-SAM's trainer, Dice of the best of three after a lone click, else of the "
        "single mask. The error of the predicted IoU is added to both.",
    )
    schedule: Literal["cosine", "plateau"] = Field(
        "cosine",
        title="Schedule",
        description="Learning rate over the run. cosine: a warm-up, then down to 5 %; plateau: "
        "times 0.9 whenever more than ten validations in a row were no better.",
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        title="Early stopping",
        description="Validations in a row that may be no better than the best before the run "
        "ends; by default the budget alone ends it.",
    )
    automatic: bool = Field(
        True,
        title="Automatic segmentation",
        description="Train the head for automatic segmentation, too.",
    )
    labels_are: LabelsAre = Field(
        "sparse",
        title="Labels are",
        description="For automatic segmentation. sparse: what is not labelled is unknown; "
        "complete: it is background.",
    )
    held_out: float = Field(
        0.2,
        gt=0,
        lt=1,
        title="Held out",
        description="Share of the objects kept for validation: those of whole images, drawn at "
        "random while they come closer to it, or of one end of an image.",
    )
    check_on: tuple[str, ...] = Field(
        (),
        title="Check on",
        description="Names of the images to hold out, instead of a share of all.",
    )
    leave_out: tuple[str, ...] = Field(
        (),
        title="Leave out",
        description="Names of images that are neither trained on nor held out.",
    )
    validations: int = Field(
        5,
        ge=0,
        title="Validations",
        description="How often held-out objects are looked at, in about 15 % of a budget of time; "
        "0: after each pass over the training objects, but at least 50 steps apart.",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, title="Seed", description="Seed of every random choice of the run."
    )

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        budgets = {"steps": self.steps, "epochs": self.epochs, "seconds": self.seconds}
        given = [name for name, value in budgets.items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"set exactly one budget of steps, epochs or seconds, got {found}")
        return self


class EvaluationConfig(BaseModel):
    """Objects and clicks of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_objects: int | None = Field(
        default=None,
        ge=1,
        title="Objects at most",
        description="Evaluate a random sample of this many objects; all if not given.",
    )
    seed: int = Field(
        default=0, ge=0, title="Random seed", description="Seed of the sample of objects."
    )
    clicks: int = Field(
        default=10, ge=1, le=100, title="Clicks", description="Simulated clicks per object."
    )
    rounds: int = Field(
        default=8,
        ge=1,
        le=100,
        title="Rounds",
        description="Prompts of an iterative prompting: a point or a box, then clicks.",
    )
    min_area: int = Field(
        default=25,
        ge=1,
        title="Smallest area",
        description="Objects of fewer pixels are left out and counted.",
    )


class AutomaticConfig(BaseModel):
    """Options of a segmentation without prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    eager: float = Field(
        0.65,
        ge=0,
        le=1,
        title="How eager",
        description="From 0, only what is certain, to 1, everything that was looked at.",
    )
    min_size: int = Field(
        25,
        ge=1,
        title="Smallest object",
        description="Pixels; objects below are left out.",
    )
    fast: bool = Field(
        False,
        title="Fast",
        description="Look for objects at one threshold of the dense maps instead of five.",
    )

    @property
    def threshold(self) -> float:
        """Expected IoU from which on a proposal is an object."""
        return 1 - self.eager
