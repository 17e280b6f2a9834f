"""From prompts to masks: the numpy door (`Predictor`) and the tensor door (`decode`)."""

from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.segmentation.segment import segment

__all__ = ["Predictor", "PromptTensors", "decode", "segment"]
