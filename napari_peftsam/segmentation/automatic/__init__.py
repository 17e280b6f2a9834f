"""Automatic segmentation: dense maps, hypotheses, proposals, their order and their merging.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from napari_peftsam.segmentation.automatic.coarse import *
from napari_peftsam.segmentation.automatic.hypotheses import *
from napari_peftsam.segmentation.automatic.maps import *
from napari_peftsam.segmentation.automatic.merge import *
from napari_peftsam.segmentation.automatic.plane import *
from napari_peftsam.segmentation.automatic.proposals import *
from napari_peftsam.segmentation.automatic.scorer import *
