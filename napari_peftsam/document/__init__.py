"""Annotated images, the actions on them, and the project file that keeps both.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from __future__ import annotations

from napari_peftsam.document.actions import *
from napari_peftsam.document.automatic import *
from napari_peftsam.document.document import *
from napari_peftsam.document.events import *
from napari_peftsam.document.images import *
from napari_peftsam.document.objects import *
from napari_peftsam.document.project import *
from napari_peftsam.document.proposals import *
from napari_peftsam.document.records import *
from napari_peftsam.document.recovery import *
from napari_peftsam.document.regions import *
from napari_peftsam.document.replay import *
from napari_peftsam.document.sources import *
from napari_peftsam.document.store import *
from napari_peftsam.document.strokes import *
