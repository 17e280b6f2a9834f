"""Prediction of masks from prompts, with numpy (`Predictor`) or tensors (`decode`)."""

from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.segmentation.mask_prompts import mask_prompt_of
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.segmentation.region_labels import RegionLabels, logits_in_pixels
from napari_peftsam.segmentation.tiled import (
    MOST_TILES,
    WantedTile,
    predict_in_tiles,
    predict_many_in_tiles,
)

__all__ = [
    "MOST_TILES",
    "Predictor",
    "PromptTensors",
    "RegionLabels",
    "WantedTile",
    "decode",
    "logits_in_pixels",
    "mask_prompt_of",
    "predict_in_tiles",
    "predict_many_in_tiles",
]
