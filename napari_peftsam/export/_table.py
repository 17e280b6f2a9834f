"""Measurements of objects as a table, in pixels and in the image's unit."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from math import pi
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.types import LabelArray

from ._format import ExportContext

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_PROPERTIES = ("label", "area", "centroid", "bbox", "perimeter")


def measure(labels: LabelArray, context: ExportContext) -> list[dict[str, Any]]:
    """Return the measurements of each object in each plane where it lies.

    Areas, positions and perimeters are in pixels and, where the pixel size is known, in its
    unit; circularity is ``4 pi area / perimeter^2``; intensities are per channel.
    """
    calibration = context.calibration(labels.ndim)
    records = {record["label"]: record for record in context.records}
    rows = []
    for index in np.ndindex(labels.shape[:-2]):
        where = dict(zip(calibration.names, index, strict=False))
        pixels = _plane_pixels(context, labels, index)
        planes = [each[index] for each in context.every(labels)]
        for row in chain(*(_of_plane(each, pixels, calibration) for each in planes)):
            record = records.get(row["label"], {})
            about = {name: record.get(name) for name in ("source", "model", "adapter", "score")}
            about |= {"corrected": record.get("corrected"), "class": record.get("category")}
            rows.append({"image": context.image_name, **where, **row, **about})
    return rows


def _plane_pixels(context: ExportContext, labels: LabelArray, index: tuple[int, ...]) -> Any:
    if context.pixels is None:
        return None
    plane = np.asarray(context.pixels[index])
    return plane[..., :3] if plane.ndim > labels.ndim - len(index) else plane


def _of_plane(plane: LabelArray, pixels: Any, metadata: ImageMetadata) -> Iterator[dict[str, Any]]:
    from skimage.measure import regionprops_table

    names = (*_PROPERTIES, "intensity_mean") if pixels is not None else _PROPERTIES
    if not plane.any():
        return
    # Numbered anew: memory is taken for all numbers up to the highest.
    numbers = np.unique(plane[plane > 0])
    dense = np.where(plane > 0, np.searchsorted(numbers, plane) + 1, 0)
    table = regionprops_table(dense, pixels, properties=names)
    (row_size, col_size), unit = metadata.plane_scale
    is_calibrated = bool(unit)
    channels = [name for name in table if name.startswith("intensity_mean")]
    for i in range(len(table["label"])):
        area, perimeter = float(table["area"][i]), float(table["perimeter"][i])
        row, col = float(table["centroid-0"][i]), float(table["centroid-1"][i])
        found: dict[str, Any] = {"label": int(numbers[table["label"][i] - 1]), "area_px": int(area)}
        if is_calibrated:
            found[f"area_{unit}2"] = area * row_size * col_size
        found |= {"row_px": row, "col_px": col}
        if is_calibrated:
            found |= {f"y_{unit}": row * row_size, f"x_{unit}": col * col_size}
        edges = ("top_px", "left_px", "bottom_px", "right_px")
        found |= {edge: int(table[f"bbox-{k}"][i]) for k, edge in enumerate(edges)}
        found["perimeter_px"] = perimeter
        if is_calibrated and row_size == col_size:
            found[f"perimeter_{unit}"] = perimeter * row_size
        found["circularity"] = 4 * pi * area / perimeter**2 if perimeter else ""
        for number, name in enumerate(channels):
            suffix = f"_{number}" if len(channels) > 1 else ""
            found[f"mean_intensity{suffix}"] = float(table[name][i])
            found[f"integrated_intensity{suffix}"] = float(table[name][i]) * area
        yield found


def _as_text(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula, which could start programs."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_table(path: Path, labels: LabelArray, context: ExportContext) -> None:
    rows = [{n: _as_text(v) for n, v in row.items()} for row in measure(labels, context)]
    names = list(rows[0]) if rows else ["image", "label"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
