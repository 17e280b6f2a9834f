"""Promptable models: architectures, registry, safe loading, the way pixels enter them.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from napari_peftsam.models.architecture import *
from napari_peftsam.models.build import *
from napari_peftsam.models.checkpoint import *
from napari_peftsam.models.device import *
from napari_peftsam.models.download import *
from napari_peftsam.models.entry import *
from napari_peftsam.models.model import *
from napari_peftsam.models.parts import *
from napari_peftsam.models.registry import *
from napari_peftsam.models.unetr import *
