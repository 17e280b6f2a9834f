"""Training of the built-in model: ``python -m napari_peftsam.pretraining --help``."""

from napari_peftsam.pretraining.loop import PretrainingStep, pretrain
from napari_peftsam.pretraining.run import PretrainingConfig
from napari_peftsam.pretraining.validation import Validation

__all__ = ["PretrainingConfig", "PretrainingStep", "Validation", "pretrain"]
