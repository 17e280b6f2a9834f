"""Labels and their provenance in the formats of other programs."""

from __future__ import annotations

from ._export import FORMATS, export_labels, export_target
from ._format import ExportContext, ExportFormat

__all__ = ["FORMATS", "ExportContext", "ExportFormat", "export_labels", "export_target"]
