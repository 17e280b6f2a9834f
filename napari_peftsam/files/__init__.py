"""Images and labels on disk: reading, pairing folders, writing without half-written files.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from __future__ import annotations

from napari_peftsam.outputs import *

from ._centres import *
from ._objects import *
from ._pairs import *
from ._read import *
from ._zarr import *
