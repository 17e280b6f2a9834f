"""Training of the built-in model: ``python -m napari_peftsam.pretraining --help``."""

from napari_peftsam.pretraining._config import PretrainingConfig
from napari_peftsam.pretraining._loop import PretrainingStep, pretrain

__all__ = ["PretrainingConfig", "PretrainingStep", "pretrain"]
