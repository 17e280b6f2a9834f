"""Finetuning: configuration, data, losses, the loop and what it reports."""

from napari_peftsam.training.config import TrainingConfig, recommended_learning_rate
from napari_peftsam.training.dataset import AnnotatedPlane, Split, TrainingObject, split_objects
from napari_peftsam.training.events import (
    TrainEvent,
    TrainingFinished,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from napari_peftsam.training.finetune import Incumbent, finetune
from napari_peftsam.training.recipes import RECIPES, RECOMMENDED, Recipe, recipe

__all__ = [
    "RECIPES",
    "RECOMMENDED",
    "AnnotatedPlane",
    "Incumbent",
    "Recipe",
    "Split",
    "TrainEvent",
    "TrainingConfig",
    "TrainingFinished",
    "TrainingObject",
    "TrainingStarted",
    "TrainingStep",
    "Validated",
    "finetune",
    "recipe",
    "recommended_learning_rate",
    "split_objects",
]
