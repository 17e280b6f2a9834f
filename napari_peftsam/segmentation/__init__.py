"""Prediction of masks from prompts, with numpy (`Predictor`) or tensors (`decode`).

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from napari_peftsam.segmentation.crops import *
from napari_peftsam.segmentation.decode import *
from napari_peftsam.segmentation.predictor import *
from napari_peftsam.segmentation.region_labels import *
from napari_peftsam.segmentation.tiled import *
