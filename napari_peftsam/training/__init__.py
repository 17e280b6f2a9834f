"""Finetuning: configuration, data, losses, the loop and its events.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from napari_peftsam.training.config import *
from napari_peftsam.training.dataset import *
from napari_peftsam.training.events import *
from napari_peftsam.training.finetune import *
from napari_peftsam.training.judging import *
from napari_peftsam.training.memory import *
from napari_peftsam.training.team import *
