"""Outlines of objects for ImageJ (ROI zip), QuPath (GeoJSON) and YOLO."""

from __future__ import annotations

import json
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.types import LabelArray

from ._format import ExportContext, ExportFormat, Labelled
from ._outlines import outlines, path_through_holes, rings_of

__all__ = ["GEOJSON", "ROI", "YOLO"]


def _outlines(
    labels: LabelArray, context: ExportContext, index: tuple[int, ...]
) -> Iterator[tuple[int, Any]]:
    """Yield labels and outlines of the objects of all label sets in a plane."""
    return chain(*(outlines(each[index]) for each in context.sets(labels).values()))


# --- ImageJ -------------------------------------------------------------------------


def _write_roi(path: Path, labels: LabelArray, context: ExportContext) -> None:
    import roifile

    names, rois = context.calibration(labels.ndim).names, []
    for index in np.ndindex(labels.shape[:-2]):
        place = {f"{a}_position": i + 1 for a, i in zip(names, index, strict=False) if a in "tz"}
        for label, outline in _outlines(labels, context, index):
            roi = _roi(roifile, outline)
            roi.name = f"{context.name} {label}" + (f" {list(index)}" if index else "")
            for name, value in place.items():
                setattr(roi, name, value)
            rois.append(roi)
    with zipfile.ZipFile(path, "w") as file:
        for roi in rois:
            entry = zipfile.ZipInfo(f"{roi.name}.roi")  # without the time, equal for equal labels
            file.writestr(entry, roi.tobytes())


def _roi(roifile: Any, outline: Any) -> Any:
    """Return a polygon, or for several parts and holes a composite of paths."""
    rings = rings_of(outline)
    if len(rings) == 1:
        roi = roifile.ImagejRoi.frompoints(rings[0].astype(int))
        roi.roitype = roifile.ROI_TYPE.POLYGON
        return roi
    path: list[float] = []
    for ring in rings:
        for number, (x, y) in enumerate(ring):
            path += [0.0 if number == 0 else 1.0, x, y]  # go there, or draw a line there
        path.append(4.0)  # close
    left, top, right, bottom = map(int, outline.bounds)
    roi = roifile.ImagejRoi()
    roi.roitype, roi.options = roifile.ROI_TYPE.RECT, roifile.ROI_OPTIONS(0)
    roi.left, roi.top, roi.right, roi.bottom = left, top, right, bottom
    roi.multi_coordinates, roi.shape_roi_size = np.asarray(path, np.float32), len(path)
    return roi


ROI = ExportFormat(
    "roi",
    "ImageJ ROIs",
    (".zip",),
    _write_roi,
    holds="position in z and t; several parts and holes as composites",
    library="roifile, shapely",
)


# --- QuPath -------------------------------------------------------------------------


def _write_geojson(path: Path, labels: LabelArray, context: ExportContext) -> None:
    import shapely

    names = context.calibration(labels.ndim).names
    records = {record["label"]: record for record in context.records}
    categories = context.categories
    features = []
    for index in np.ndindex(labels.shape[:-2]):
        place = {a: i for a, i in zip(names, index, strict=False) if a in "tz"}
        for label, outline in _outlines(labels, context, index):
            geometry = json.loads(shapely.to_geojson(outline))
            if place:
                geometry["plane"] = {"c": -1, "z": 0, "t": 0, **place}
            properties: dict[str, Any] = {
                "objectType": "annotation",
                "name": f"{context.name} {label}",
            }
            if label in categories:
                properties["classification"] = {"name": categories[label]}
            score = records.get(label, {}).get("score")
            if score is not None:
                properties["measurements"] = {"score": score}
            features.append({
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{context.image_name} {label} {index}")),
                "geometry": geometry,
                "properties": properties,
            })  # fmt: skip
    content = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


GEOJSON = ExportFormat(
    "geojson",
    "GeoJSON for QuPath",
    (".geojson",),
    _write_geojson,
    holds="position in z and t; several parts and holes; score; classes",
    library="shapely",
)


# --- YOLO ---------------------------------------------------------------------------

_VALIDATION = 5  # every fifth image


def _write_yolo(path: Path, labels: LabelArray, context: ExportContext) -> None:
    _write_yolo_set(path, [(labels, context)])


def _write_yolo_set(path: Path, images: Iterable[Labelled]) -> None:
    """Write ``images`` and ``labels`` in ``train`` and ``val``, and ``data.yaml``.

    Every fifth image is for validation; a single one is for both.
    """
    planes, taken, classes = [], set[str](), dict[str, int]()
    for labels, context in images:
        for each in context.classes:
            classes.setdefault(each, len(classes))
        for index in np.ndindex(labels.shape[:-2]):
            own = _file_name(context.image_name, index)
            name = next(
                n for n in chain((own,), (f"{own}~{k}" for k in count(2))) if n not in taken
            )
            taken.add(name)
            planes.append((name, labels, context, index))
    parts = ["val" if i % _VALIDATION == _VALIDATION - 1 else "train" for i in range(len(planes))]
    if "val" not in parts:
        parts[-1] = "val"
    for part, (name, labels, context, index) in zip(parts, planes, strict=True):
        for each in (part,) if len(planes) > 1 else ("train", "val"):
            for folder in ("images", "labels"):
                (path / folder / each).mkdir(parents=True, exist_ok=True)
            categories, lines = context.categories, list[str]()
            for label, outline in _outlines(labels, context, index):
                number = classes.setdefault(categories.get(label, context.name), len(classes))
                lines.append(_yolo_line(number, outline, labels.shape[-2:]))
            (path / "labels" / each / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
            if context.pixels is not None:
                _save_png(path / "images" / each / f"{name}.png", context.pixels[index])
    names = classes or {context.name: 0 for _, _, context, _ in planes}
    quoted = {number: json.dumps(name, ensure_ascii=False) for name, number in names.items()}
    listed = "".join(f"  {number}: {name}\n" for number, name in quoted.items())
    head = "path: .\ntrain: images/train\nval: images/val\nnames:\n"
    (path / "data.yaml").write_text(head + listed, encoding="utf-8")


def _file_name(name: str, index: tuple[int, ...]) -> str:
    from napari_peftsam.files import image_name

    return "_".join([image_name(name), *map(str, index)])


def _yolo_line(number: int, outline: Any, shape: tuple[int, ...]) -> str:
    points = path_through_holes(outline) / np.array([shape[1], shape[0]])
    return f"{number} " + " ".join(f"{value:.6f}" for value in points.ravel()) + "\n"


def _save_png(path: Path, pixels: Any) -> None:
    from PIL import Image

    from ._overlay import in_bytes

    Image.fromarray(in_bytes(np.asarray(pixels))).save(path)


YOLO = ExportFormat(
    "yolo",
    "YOLO segmentation folder",
    (".yolo",),
    _write_yolo,
    _write_yolo_set,
    holds="one image per plane, as 8-bit PNG; every fifth for validation; classes; holes and "
    "parts by lines of no width",
    library="shapely, Pillow",
)
