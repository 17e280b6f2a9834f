"""Training of the built-in model: ``python -m napari_peftsam.pretraining --help``."""

from napari_peftsam.pretraining._config import PretrainingConfig
from napari_peftsam.pretraining._loop import PretrainingStep, pretrain
from napari_peftsam.pretraining._validation import Validation

__all__ = ["PretrainingConfig", "PretrainingStep", "Validation", "pretrain"]
