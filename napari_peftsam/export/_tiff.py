"""Label images as TIFF: one page per plane, losslessly compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_peftsam.types import LabelArray

from ._format import AXES, ExportContext, ExportFormat, smallest_unsigned

__all__ = ["FORMAT"]


def _write(path: Path, labels: LabelArray, context: ExportContext) -> None:
    import tifffile

    details: dict[str, Any] = {"name": context.name, "image": context.image_name}
    if context.records:
        details["objects"] = context.records
    if context.scale is not None:
        details["scale"] = [float(s) for s in context.scale]
    # tifffile puts all of this as JSON into the description, beside the shape that it
    # needs to read a stack back; other programs ignore it.
    metadata = {"axes": AXES[-labels.ndim :].upper(), "napari-peftsam": details}
    tifffile.imwrite(
        path,
        smallest_unsigned(labels),
        photometric="minisblack",  # three planes are no colours
        compression="zlib",  # the one that needs no optional library
        metadata=metadata,
    )


FORMAT = ExportFormat("tiff", "TIFF label image", (".tif", ".tiff"), _write)
