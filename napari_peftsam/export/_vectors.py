"""Outlines of objects for ImageJ (ROI zip), QuPath (GeoJSON) and YOLO.

They run along the edges of pixels, valid and exact, holes included.
"""

from __future__ import annotations

import json
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.geometry import object_windows
from napari_peftsam.types import BoolArray, LabelArray

from ._format import ExportContext, Labelled

# --- outlines ------------------------------------------------------------------------


def outlines(plane: LabelArray) -> Iterator[tuple[int, Any]]:
    """Yield each label of a plane ``(H, W)`` with its outline.

    The outline is a shapely polygon, or several, whose ``(x, y)`` run along the edges of
    pixels: the pixel in row 0 and column 0 covers 0 to 1.
    """
    for label, window in object_windows(plane).items():
        row, col = (part.start for part in window)
        yield label, _outline(plane[window] == label, row, col)


def _outline(mask: BoolArray, row: int, col: int) -> Any:
    import shapely

    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    boxes = shapely.box(starts + col, rows + row, stops + col, rows + row + 1)
    return shapely.normalize(shapely.union_all(boxes))


def rings_of(outline: Any) -> list[Any]:
    """Return all rings of an outline as ``(N, 2)`` arrays of x and y, without the repeated end.

    Those of the largest part come first.
    """
    rings, parts = [], outline.geoms if outline.geom_type == "MultiPolygon" else [outline]
    for part in sorted(parts, key=lambda part: -part.area):
        for ring in (part.exterior, *part.interiors):
            rings.append(np.asarray(ring.coords)[:-1])  # noqa: PERF401  # two loops
    return rings


def path_through_holes(outline: Any) -> Any:
    """Return one closed path ``(N, 2)`` around all parts and holes, for formats without either.

    It leads to each further ring and back on the same line, so that the even-odd rule gives
    the same pixels.
    """
    rings = rings_of(outline)
    path = rings[0]
    for ring in rings[1:]:
        distances = ((path[:, None] - ring[None]) ** 2).sum(-1)
        here, there = np.unravel_index(int(np.argmin(distances)), distances.shape)
        detour = np.concatenate([np.roll(ring, -there, axis=0), ring[there : there + 1]])
        path = np.concatenate([path[: here + 1], detour, path[here:]])
    return path


def _outlines(
    labels: LabelArray, context: ExportContext, index: tuple[int, ...]
) -> Iterator[tuple[int, Any]]:
    """Yield labels and outlines of the objects of all label sets in a plane."""
    return chain(*(outlines(each[index]) for each in context.every(labels)))


# --- ImageJ -------------------------------------------------------------------------


def write_roi(path: Path, labels: LabelArray, context: ExportContext) -> None:
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


# --- QuPath -------------------------------------------------------------------------


def write_geojson(path: Path, labels: LabelArray, context: ExportContext) -> None:
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


# --- YOLO ---------------------------------------------------------------------------

_VALIDATION = 5  # every fifth image


def write_yolo(path: Path, labels: LabelArray, context: ExportContext) -> None:
    write_yolo_set(path, [(labels, context)])


def write_yolo_set(path: Path, images: Iterable[Labelled]) -> None:
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

    from ._rasters import in_bytes

    Image.fromarray(in_bytes(np.asarray(pixels))).save(path)
