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
from napari_peftsam.training.tiles import cut_into_tiles, tiles_with_objects

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
    "cut_into_tiles",
    "finetune",
    "recipe",
    "recommended_learning_rate",
    "split_objects",
    "tiles_with_objects",
]
