"""The old place of `napari_peftsam.segmentation.engine`."""

from napari_peftsam.segmentation.engine import IN_MEMORY, Engine, Predicted

__all__ = ["IN_MEMORY", "Engine", "Predicted"]
