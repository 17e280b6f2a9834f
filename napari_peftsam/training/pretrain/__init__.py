"""Training of the built-in model: ``python -m napari_peftsam.training.pretrain --help``."""

from napari_peftsam.training.pretrain._config import PretrainingConfig
from napari_peftsam.training.pretrain._loop import PretrainingStep, pretrain

__all__ = ["PretrainingConfig", "PretrainingStep", "pretrain"]
