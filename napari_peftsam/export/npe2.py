"""Writers for napari's Save dialog, named in the plugin manifest."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ._export import export_labels
from ._format import ExportContext


def _write(path: str, data: Any, meta: dict[str, Any], format_name: str) -> list[str]:
    """Write a layer's labels, or the levels of their pyramid; return the path written."""
    labels = np.asarray(data[0] if meta.get("multiscale") else data)
    name = str(meta.get("name") or "objects")
    scale = meta.get("scale")
    sizes = None if scale is None else tuple(abs(float(s)) for s in scale)  # negative: mirrored
    units = tuple(str(unit) for unit in meta.get("units") or ())
    axes = "".join(str(label)[:1].lower() for label in meta.get("axis_labels") or ())
    context = ExportContext(name=name, scale=sizes, units=units, axes=axes)
    return [str(export_labels(labels, path, format_name, context))]


write_labels_tiff = partial(_write, format_name="tiff")
"""Write one labels layer as TIFF; takes path, data and attributes of the layer."""
write_labels_ome_zarr = partial(_write, format_name="ome-zarr")
"""Write one labels layer as OME-Zarr; takes path, data and attributes of the layer."""
write_labels_coco = partial(_write, format_name="coco")
"""Write one labels layer as COCO JSON; takes path, data and attributes of the layer."""
write_labels_geojson = partial(_write, format_name="geojson")
"""Write one labels layer as GeoJSON; takes path, data and attributes of the layer."""
write_labels_roi = partial(_write, format_name="roi")
"""Write one labels layer as ROIs of ImageJ; takes path, data and attributes of the layer."""
write_labels_csv = partial(_write, format_name="csv")
"""Write measurements of one labels layer; takes path, data and attributes of the layer."""
