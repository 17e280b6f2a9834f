"""Label images as TIFF with pixel sizes: for ImageJ, or as OME-TIFF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.metadata import UNIT_SYMBOLS, Axis, ImageMetadata
from napari_peftsam.types import LabelArray

from ._format import ExportContext, smallest_unsigned

_IMAGEJ_LIMIT = 65535  # it has no integers of 32 bits
_OME_LIMIT = 2**32 - 1
_IMAGEJ_AXES = ("yx", "zyx", "tyx", "tzyx")


def write_tiff(path: Path, labels: LabelArray, context: ExportContext) -> None:
    calibration = context.calibration(labels.ndim)
    is_ome = path.name.lower().endswith((".ome.tif", ".ome.tiff"))
    fits = labels.max() <= _IMAGEJ_LIMIT and calibration.names in _IMAGEJ_AXES
    details: dict[str, Any] = {"name": context.name, "image": context.image_name}
    if context.records:
        details["objects"] = context.records
    if context.complete:
        details["complete"] = context.complete
    text = json.dumps({"napari-peftsam": details})
    if labels.max() > _OME_LIMIT:
        _write_plain(path, labels, calibration, details)
    elif is_ome or not fits:
        _write_ome(path, labels, calibration, context.name, text)
    else:
        _write_imagej(path, labels.astype(np.uint16), calibration, text)


def _write_imagej(path: Path, labels: LabelArray, calibration: ImageMetadata, text: str) -> None:
    import tifffile

    axes = {axis.name: axis for axis in calibration.axes}
    metadata: dict[str, Any] = {"axes": calibration.names.upper(), "Info": text}
    unit = axes["x"].unit
    if unit:
        metadata["unit"] = UNIT_SYMBOLS.get(unit, unit).replace("µ", "u")
    if "z" in axes:
        metadata["spacing"] = _in_unit(axes["z"], unit)
    if "t" in axes:
        metadata["finterval"] = axes["t"].scale
        if axes["t"].unit not in ("", "second"):
            metadata["tunit"] = UNIT_SYMBOLS.get(axes["t"].unit, axes["t"].unit).replace("µ", "u")
    tifffile.imwrite(
        path,
        labels,
        imagej=True,
        compression="zlib",
        resolution=(1 / axes["x"].scale, 1 / _in_unit(axes["y"], unit)),
        metadata=metadata,
    )


def _write_plain(
    path: Path, labels: LabelArray, calibration: ImageMetadata, details: dict[str, Any]
) -> None:
    """Write labels beyond 32 bits, for which neither ImageJ nor OME-TIFF has a type."""
    import tifffile

    metadata = {"axes": calibration.names.upper(), "napari-peftsam": details}
    tifffile.imwrite(
        path, labels.astype(np.uint64), ome=False, photometric="minisblack", compression="zlib",
        metadata=metadata,
    )  # fmt: skip


def _in_unit(axis: Axis, unit: str) -> float:
    """Return the size of an axis in the one unit that ImageJ has for all."""
    from napari_peftsam.metadata import in_micrometers

    own, other = in_micrometers(axis), in_micrometers(Axis("", 1.0, unit))
    return axis.scale if own is None or other is None else own / other


def _write_ome(
    path: Path, labels: LabelArray, calibration: ImageMetadata, name: str, text: str
) -> None:
    import tifffile

    metadata: dict[str, Any] = {
        "axes": calibration.names.upper(), "Name": name, "Description": text
    }  # fmt: skip
    for axis in calibration.axes:
        if axis.name in ("z", "y", "x") and (axis.unit or axis.scale != 1):
            metadata[f"PhysicalSize{axis.name.upper()}"] = axis.scale
            metadata[f"PhysicalSize{axis.name.upper()}Unit"] = UNIT_SYMBOLS.get(axis.unit, "pixel")
        elif axis.name == "t" and (axis.unit or axis.scale != 1):
            metadata["TimeIncrement"] = axis.scale
            metadata["TimeIncrementUnit"] = UNIT_SYMBOLS.get(axis.unit, "s")
    tifffile.imwrite(
        path,
        smallest_unsigned(labels),
        ome=True,
        photometric="minisblack",  # three planes are no colours
        compression="zlib",
        metadata=metadata,
    )
