"""Label images as TIFF with pixel sizes and for Cellpose; pictures of objects, for slides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.metadata import UNIT_SYMBOLS, Axis, ImageMetadata
from napari_peftsam.types import LabelArray, PixelArray

from ._format import ExportContext, smallest_unsigned

_IMAGEJ_LIMIT = 65535  # it has no integers of 32 bits
_OME_LIMIT = 2**32 - 1
_IMAGEJ_AXES = ("yx", "zyx", "tyx", "tzyx")
_SMALL = 65535
_FILL = 0.25  # share of an object's colour in a picture
_DARKEST, _BRIGHTEST = 0.5, 99.5  # percentiles of what a picture shows


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


def write_cellpose(path: Path, labels: LabelArray, context: ExportContext) -> None:
    """Write Cellpose's ``_seg.npy``."""
    from skimage.segmentation import find_boundaries, relabel_sequential

    # Cellpose numbers objects without gaps.
    numbered, _, _ = relabel_sequential(labels.astype(np.int64))
    kind = np.uint16 if numbered.max() <= _SMALL else np.uint32
    masks = numbered.astype(kind)
    planes = masks.reshape(-1, *masks.shape[-2:])
    edges = np.stack([find_boundaries(plane, mode="inner") for plane in planes])
    content: dict[str, Any] = {
        "masks": masks,
        "outlines": (edges.reshape(masks.shape) * masks).astype(kind),
        "filename": context.image_name,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(int(masks.max()), np.bool_),
        "flows": [[], [], [], [], [[]]],
        "diameter": np.nan,
    }
    with path.open("wb") as file:  # a name would get another suffix
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def in_bytes(pixels: PixelArray) -> npt.NDArray[np.uint8]:
    """Return ``(H, W)`` or ``(H, W, 3)`` in 8 bits; brighter types are stretched."""
    if pixels.dtype == np.uint8:
        return pixels
    finite = pixels[np.isfinite(pixels)].astype(float)
    low, high = np.percentile(finite, (_DARKEST, _BRIGHTEST)) if finite.size else (0.0, 1.0)
    span = high - low if high > low else 1.0
    stretched = np.nan_to_num((pixels.astype(float) - low) / span)
    return np.asarray(np.rint(np.clip(stretched, 0, 1) * 255), np.uint8)


def write_overlay(path: Path, labels: LabelArray, context: ExportContext) -> None:
    from PIL import Image
    from skimage.segmentation import find_boundaries

    background: Any = np.zeros((*labels.shape, 3), np.uint8)
    if context.pixels is not None:
        pixels = np.asarray(context.pixels)
        grey = pixels.ndim == labels.ndim
        shown = in_bytes(pixels if grey else pixels[..., :3])
        background = np.repeat(shown[..., None], 3, -1) if grey else shown
    colours = _colours(labels)
    share = np.where(find_boundaries(labels, mode="inner"), 1.0, _FILL)[..., None]
    share = share * (labels > 0)[..., None]
    picture = np.rint(background * (1 - share) + colours * share).astype(np.uint8)
    Image.fromarray(picture).save(path)


def _colours(labels: LabelArray) -> npt.NDArray[np.float64]:
    """Return ``(H, W, 3)``: bright colours that differ between neighbours in number."""
    hue = (labels.astype(np.float64) * 0.618034) % 1.0  # the golden ratio spreads them
    parts = [np.clip(np.abs((hue * 6 + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)]
    return np.stack(parts, -1) * 255
