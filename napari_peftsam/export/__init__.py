"""Labels and their provenance in the formats of other programs."""

from __future__ import annotations

from ._export import FORMATS, export_labels, export_target
from ._format import ExportContext, ExportFormat
from ._ome_zarr import check_replaceable, create_labels

__all__ = [
    "FORMATS",
    "ExportContext",
    "ExportFormat",
    "check_replaceable",
    "create_labels",
    "export_labels",
    "export_target",
]
