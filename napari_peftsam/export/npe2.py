"""Writers for napari's Save dialog, named in the plugin manifest."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._export import export_labels
from ._format import ExportContext

__all__ = ["write_labels_coco", "write_labels_ome_zarr", "write_labels_tiff"]


def write_labels_tiff(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one labels layer as TIFF; see `export_labels` for the errors.

    Parameters
    ----------
    path
        Target file.
    data
        The layer's ``(H, W)`` or ``(..., H, W)`` labels, or the levels of a pyramid.
    meta
        Its attributes, of which name, scale and units are used.

    Returns
    -------
    list of str
        The path written.
    """
    return _write(path, data, meta, "tiff")


def write_labels_ome_zarr(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one labels layer as OME-Zarr; see `write_labels_tiff`."""
    return _write(path, data, meta, "ome-zarr")


def write_labels_coco(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one labels layer as COCO JSON; see `write_labels_tiff`."""
    return _write(path, data, meta, "coco")


def _write(path: str, data: Any, meta: dict[str, Any], format_name: str) -> list[str]:
    labels = np.asarray(data[0] if meta.get("multiscale") else data)
    name = str(meta.get("name") or "objects")
    scale = meta.get("scale")
    sizes = None if scale is None else tuple(abs(float(s)) for s in scale)  # negative: mirrored
    units = tuple(str(unit) for unit in meta.get("units") or ())
    context = ExportContext(name=name, scale=sizes, units=units)
    return [str(export_labels(labels, path, format_name, context))]
