"""Image embeddings: computed as a stream of events, kept on disk by content.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from napari_peftsam.embeddings._entries import *
from napari_peftsam.embeddings.activations import *
from napari_peftsam.embeddings.encode import *
from napari_peftsam.embeddings.grid import *
from napari_peftsam.embeddings.store import *
