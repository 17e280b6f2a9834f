"""napari's layers and the document, kept in step."""

from napari_peftsam.widgets.layers.bridge import LayerBridge

__all__ = ["LayerBridge"]
