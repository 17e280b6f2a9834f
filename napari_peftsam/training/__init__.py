"""Finetuning: configuration, data, losses, the loop and its events."""

from napari_peftsam.training.config import (
    RECIPES,
    RECOMMENDED,
    Recipe,
    TrainingConfig,
    recipe,
    recommended_learning_rate,
)
from napari_peftsam.training.dataset import (
    AnnotatedPlane,
    Split,
    TileReader,
    TrainingObject,
    cut_into_tiles,
    split_objects,
    tiles_with_objects,
)
from napari_peftsam.training.events import (
    MemoryPlanned,
    TrainEvent,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from napari_peftsam.training.finetune import Incumbent, finetune
from napari_peftsam.training.memory import StepPlan, possible_plans
from napari_peftsam.training.team import Team, joined_team, team_size

__all__ = [
    "RECIPES",
    "RECOMMENDED",
    "AnnotatedPlane",
    "Incumbent",
    "MemoryPlanned",
    "Recipe",
    "Split",
    "StepPlan",
    "Team",
    "TileReader",
    "TrainEvent",
    "TrainingConfig",
    "TrainingObject",
    "TrainingReport",
    "TrainingStarted",
    "TrainingStep",
    "Validated",
    "cut_into_tiles",
    "finetune",
    "joined_team",
    "possible_plans",
    "recipe",
    "recommended_learning_rate",
    "split_objects",
    "team_size",
    "tiles_with_objects",
]
