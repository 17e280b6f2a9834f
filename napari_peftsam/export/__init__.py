"""Labels and their provenance in the formats of other programs.

The package offers the names that the `__all__` of these modules lists.
"""
# ruff: noqa: F403

from __future__ import annotations

from ._export import *
from ._format import *
from ._ome_zarr import *
