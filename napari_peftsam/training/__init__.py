"""Finetuning: configuration, data, losses, the loop and what it reports."""

from napari_peftsam.training._parallel import joined_team, team_size
from napari_peftsam.training._step import StepPlan
from napari_peftsam.training._team import Team
from napari_peftsam.training.config import TrainingConfig, recommended_learning_rate
from napari_peftsam.training.dataset import AnnotatedPlane, Split, TrainingObject, split_objects
from napari_peftsam.training.events import (
    MemoryPlanned,
    TrainEvent,
    TrainingAdjusted,
    TrainingFinished,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from napari_peftsam.training.finetune import Incumbent, finetune
from napari_peftsam.training.memory import (
    MemoryEstimate,
    estimate_memory,
    forecast_memory,
    possible_plans,
)
from napari_peftsam.training.recipes import RECIPES, RECOMMENDED, Recipe, recipe
from napari_peftsam.training.tiles import AnnotatedTile, cut_into_tiles, tiles_with_objects

__all__ = [
    "RECIPES",
    "RECOMMENDED",
    "AnnotatedPlane",
    "AnnotatedTile",
    "Incumbent",
    "MemoryEstimate",
    "MemoryPlanned",
    "Recipe",
    "Split",
    "StepPlan",
    "Team",
    "TrainEvent",
    "TrainingAdjusted",
    "TrainingConfig",
    "TrainingFinished",
    "TrainingObject",
    "TrainingStarted",
    "TrainingStep",
    "Validated",
    "cut_into_tiles",
    "estimate_memory",
    "finetune",
    "forecast_memory",
    "joined_team",
    "possible_plans",
    "recipe",
    "recommended_learning_rate",
    "split_objects",
    "team_size",
    "tiles_with_objects",
]
