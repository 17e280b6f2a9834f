"""Reader of objects that other programs keep as outlines or runs, as label images."""

from __future__ import annotations

import logging
import math
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.errors import InputFileError, LabelError, PeftSamError
from napari_peftsam.geometry import check_labels, flattened
from napari_peftsam.limits import (
    check_claim,
    check_file,
    check_pickles,
    check_zip,
    in_time,
    read_json,
    stored_bytes,
)
from napari_peftsam.types import BoolArray, LabelArray

from ._read import image_name, open_labels, read_provenance
from ._zarr import is_zarr, label_images

__all__ = ["OBJECT_SUFFIXES", "LabelFile", "holds_objects", "read_objects"]

logging.getLogger("roifile").addHandler(logging.NullHandler())  # what matters is said by us
_HIGHEST = 2**31
# Pixels of all objects, and how often they cover the image.
_MOST_DRAWN, _MOST_LAYERS = 5 * 10**8, 8
_QUICK = 10**7  # pixels times corners that are filled in a tenth of a second
_CROSSING = 64  # bytes of memory where an edge crosses a row of pixels
_WITH_AREA = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")
Ring = Any  # (N, 2) numbers, as arrays or lists
# Plane, first pixel, mask, the label that our own export gave the object (0: none), and its class.
_Found = tuple[tuple[int, ...], tuple[int, int], BoolArray, int, str]
_OUR_NAME = re.compile(r".* (\d+)(?: \[[\d, ]+\])?")


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Objects of a file.

    Attributes
    ----------
    labels
        ``(..., H, W)``; 0 is unlabelled. Where classes overlap, smaller objects are on top.
    records
        The provenance that our own export wrote, by label; none from other programs.
    classes
        Classes by label, as a COCO file (categories) or GeoJSON of QuPath (classifications) has
        them; objects without one are not in it.
    sets
        Labels by class, an empty name for none, where a file has outlines: classes may overlap.
    overlapping
        Number of objects of which earlier ones of their class cover a part.
    skipped
        Number of entries without an area, like points and lines.
    """

    labels: LabelArray
    records: tuple[dict[str, Any], ...] = field(default=())
    classes: dict[int, str] = field(default_factory=dict)
    sets: dict[str, LabelArray] = field(default_factory=dict)
    overlapping: int = 0
    skipped: int = 0


@dataclass(frozen=True)
class _Image:
    """The image that objects are read for: shape ``(..., H, W)``, name and names of the axes."""

    shape: tuple[int, ...]
    name: str
    axes: str

    def plane(self, z: int, t: int) -> tuple[int, ...]:
        """Return the plane of a position in depth and time, of which a stack may have one."""
        if len(self.shape) == 3:  # (Z, H, W) or (T, H, W)
            return (int(z or t),)
        if self.axes == "ztyx":
            return int(z), int(t)
        return () if len(self.shape) == 2 and not (z or t) else (int(t), int(z))


def read_objects(
    path: str | Path, shape: tuple[int, ...], name: str = "", axes: str = ""
) -> LabelFile:
    """Read the objects of an image from a file of any kind.

    Label images (see `napari_peftsam.files.read_labels`), COCO JSON, GeoJSON, ROIs of ImageJ
    (``.zip`` or ``.roi``) and Cellpose's ``_seg.npy``. Where objects of a class overlap, the
    first keeps the pixels.

    Parameters
    ----------
    path
        The file.
    shape
        ``(..., H, W)`` of the image.
    name
        Name of the image, by which a COCO file with several finds it.
    axes
        One letter per axis of the image, as of `napari_peftsam.metadata.ImageMetadata.names`; of
        two leading axes, t comes before z by default.

    Raises
    ------
    InputFileError
        If the file is missing, damaged or of an unknown kind.
    LabelError
        If its labels cannot be used, or do not have the image's shape.
    """
    path = Path(path)
    read = next((r for suffix, r in _READERS.items() if path.name.lower().endswith(suffix)), None)
    if read is None:
        return _read_label_images(path, shape, axes)
    check_file(path)
    try:
        return read(path, _Image(shape, name, axes))
    except PeftSamError:
        raise
    # Files of other programs hold all kinds of surprises, so all errors are caught.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputFileError(
            f"{path}: cannot be read as objects ({reason}); the file may be damaged or not be what "
            "its name says"
        ) from error


def _read_label_images(path: Path, shape: tuple[int, ...], axes: str) -> LabelFile:
    """Read a label image, or each of those in an OME-Zarr image, whose names are classes then."""
    every = label_images(path) if is_zarr(path) else [path]
    sets, classes, records = dict[str, LabelArray](), dict[int, str](), list[dict[str, Any]]()
    highest = 0
    for each in every:
        labels, metadata = open_labels(each)
        labels = _checked_shape(_in_order(labels, metadata.names, axes), shape, path)
        own = read_provenance(each)
        if len(every) == 1:
            return LabelFile(labels, own)
        category = str(own[0].get("category") or "") if own else each.name
        category = each.name if category in sets else category
        if not own:
            labels = np.where(labels > 0, labels + np.int64(highest), 0)  # numbers are given once
            classes |= dict.fromkeys(np.unique(labels[labels > 0]).tolist(), category)
        sets[category] = labels
        records += own
        highest = max(highest, int(labels.max()))
    return LabelFile(flattened(sets.values()), tuple(records), classes, sets)


def _in_order(labels: LabelArray, names: str, axes: str) -> LabelArray:
    """Return labels with their axes in the order of the image's, where both name the same."""
    if names == axes or sorted(names) != sorted(axes) or len(set(axes)) < len(axes):
        return labels
    return np.transpose(labels, [names.index(axis) for axis in axes])


def _checked_shape(labels: LabelArray, shape: tuple[int, ...], path: Path) -> LabelArray:
    if labels.shape != shape:
        raise LabelError(
            f"{path}: the labels have the shape {labels.shape}, the image {shape}: choose the "
            "labels of this image"
        )
    return labels


def _drawn(objects: Iterator[_Found], shape: tuple[int, ...], path: Path) -> LabelFile:
    """Draw objects where nothing of their class is drawn yet.

    They get numbers from 1 on, or where all have one, and no two of a plane the same, their own:
    so the pieces of an object in several planes stay together.
    """
    every, drawn, pixels = list[_Found](), 0.0, float(np.prod(shape))
    for each in in_time(objects, path):
        every.append(each)
        drawn += each[2].size
        if drawn > max(_MOST_DRAWN, _MOST_LAYERS * pixels):
            raise InputFileError(
                f"{path}: its objects cover the image many times over, which is refused: keep "
                "those of one kind, or write them as labels"
            )
    found = [each for each in every if each[2].size]
    places = {(index, label) for index, _, _, label, _ in found if label}
    sets: dict[str, LabelArray] = {"": np.zeros(shape, np.int32)}
    overlapping, number = 0, 0
    classes = dict[int, str]()
    for index, (row, col), mask, label, category in in_time(found, path):
        if len(index) != len(shape) - 2 or any(
            i >= n for i, n in zip(index, shape[:-2], strict=True)
        ):
            raise LabelError(
                f"{path}: an object lies in plane {index}, which an image of {shape} does not "
                "have: choose the image that it was drawn on"
            )
        if category not in sets:
            size = pixels * np.int32().itemsize
            check_claim(size * (1 + len(sets)), size, f"the classes in {path}")
            sets[category] = np.zeros(shape, np.int32)
        part = sets[category][index][row : row + mask.shape[0], col : col + mask.shape[1]]
        inside = mask[: part.shape[0], : part.shape[1]]
        free = inside & (part == 0)
        overlapping += bool((inside & (part > 0)).any())
        if free.any():
            number = label if len(places) == len(found) else number + 1
            part[free] = number
            if category:
                classes.setdefault(number, category)
    skipped = len(every) - len(found)
    labels = flattened(sets.values())
    return LabelFile(labels, (), classes, sets, overlapping, skipped)


def _filled(
    index: tuple[int, ...],
    rings: Sequence[Ring],
    shape: tuple[int, ...],
    label: int = 0,
    category: str = "",
    *,
    together: bool = False,
) -> Iterator[_Found]:
    """Fill rings of ``(x, y)`` along pixel edges by the even-odd rule, or all `together`.

    Without an area inside the image the mask has no pixels.
    """
    arrays = [np.asarray(ring, float)[:, :2] for ring in rings if len(ring) > 2]
    nothing = index, (0, 0), np.zeros((0, 0), np.bool_), label, category
    if not arrays:
        yield nothing
        return
    every = np.concatenate(arrays)
    if not np.isfinite(every).all():
        raise ValueError("a corner is no number")
    low = np.maximum(np.floor(every.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(every.max(0)).astype(int), [shape[-1], shape[-2]])
    width, height = high - low
    if width < 1 or height < 1:
        yield nothing
        return
    inside = np.zeros((height, width), np.bool_)
    for ring in arrays:
        part = _polygon(inside.shape, *(ring - low - 0.5).T)
        inside = inside | part if together else inside ^ part
    yield index, (int(low[1]), int(low[0])), inside, label, category


def _polygon(
    shape: tuple[int, int], cols: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]
) -> BoolArray:
    """Return the pixels whose centres a ring encloses or meets."""
    from skimage.draw import polygon

    if shape[0] * shape[1] * len(rows) < _QUICK:
        inside = np.zeros(shape, np.bool_)
        inside[polygon(rows, cols, shape)] = True
        return inside
    # skimage's time is area times corners; this takes area plus the rows that edges cross.
    others, right = np.roll(rows, -1), np.roll(cols, -1)
    first = np.clip(np.ceil(np.minimum(rows, others)), 0, shape[0]).astype(int)
    beyond = np.clip(np.ceil(np.maximum(rows, others)), 0, shape[0]).astype(int)
    count = beyond - first
    check_claim(_CROSSING * float(count.sum()), rows.nbytes, "an outline")
    edge = np.repeat(np.arange(len(rows)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    rise = (row - rows[edge]) * (right - cols)[edge] / (others - rows)[edge]
    order = np.lexsort((cols[edge] + rise, row))
    row, x = row[order], (cols[edge] + rise)[order]
    # Of each two crossings of a row, one enters and one leaves. Edges along a row, and corners
    # below which there is nothing, cross none.
    lie = (rows == np.rint(rows)) & (rows >= 0) & (rows < shape[0])
    flat = lie & (rows == others)
    starts = [x[::2], cols[lie], np.minimum(cols, right)[flat]]
    ends = [x[1::2], cols[lie], np.maximum(cols, right)[flat]]
    at = np.concatenate([row[::2], rows[lie].astype(int), rows[flat].astype(int)])
    change = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(change, (at, _columns(np.ceil(np.concatenate(starts)), shape[1])), 1)
    np.add.at(change, (at, _columns(np.floor(np.concatenate(ends)) + 1, shape[1])), -1)
    return np.asarray(np.cumsum(change, 1, out=change)[:, :-1] > 0)


def _columns(places: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.intp]:
    return np.clip(places, 0, width).astype(np.intp)


def _label_in(name: object) -> int:
    """Return the label in a name like ``"objects 3"`` or ``"objects 3 [1, 0]"``, else 0."""
    match = _OUR_NAME.fullmatch(str(name))
    return int(match[1]) if match and int(match[1]) < _HIGHEST else 0


# --- formats ------------------------------------------------------------------------


def holds_objects(content: Any) -> bool:
    """Return True for the content of a COCO or GeoJSON file."""
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and bool({"annotations", "features", "geometry"} & first.keys())


def _read_json(path: Path, image: _Image) -> LabelFile:
    content = read_json(path)
    if not holds_objects(content):
        raise InputFileError(f"{path}: is neither COCO nor GeoJSON: choose a file of objects")
    is_coco = isinstance(content, dict) and "annotations" in content
    return _read_coco(content, path, image) if is_coco else _read_geojson(content, path, image)


def _read_coco(content: Any, path: Path, image: _Image) -> LabelFile:
    from pycocotools import mask

    shape, mine = image.shape, _coco_images(content["images"], image, path)
    indices = {each["id"]: tuple(each.get("index", ())) for each in mine}
    if len(indices) > 1 and not any(indices.values()):
        raise InputFileError(f"{path}: holds the image {image.name!r} more than once")
    names = _coco_classes(content)

    def objects() -> Iterator[_Found]:
        for each in content["annotations"]:
            index = indices.get(each["image_id"])
            shaped = each["segmentation"]
            if index is None:
                continue
            label = _label_in(f"label {each.get('label')}")
            category = names.get(each.get("category_id"), "")
            if each.get("planes"):  # our own
                category = str(each.get("category") or "")
            if isinstance(shaped, dict):
                height, width = shaped["size"]
                if (height, width) != shape[-2:]:
                    raise LabelError(
                        f"{path}: a mask has {height} x {width} pixels, not the image's"
                    )
                runs = shaped
                if isinstance(shaped["counts"], list):
                    runs = mask.frPyObjects(shaped, height, width)
                col, row, wide, high = mask.toBbox(runs).astype(int)
                inside = mask.decode(runs)[row : row + high, col : col + wide].astype(bool)
                yield index, (row, col), inside, label, category
            else:
                rings = [np.reshape(ring, (-1, 2)) for ring in shaped]
                yield from _filled(index, rings, shape, label, category, together=True)

    drawn = _drawn(objects(), shape, path)
    records = {a["label"]: a for a in content["annotations"] if a.get("planes") and "label" in a}
    present = {n for labels in drawn.sets.values() for n in np.unique(labels).tolist()}
    kept = tuple(records[n] for n in sorted(present & records.keys()))
    return replace(drawn, records=kept)


def _coco_classes(content: Any) -> dict[Any, str]:
    """Return names by id, but that by which our own export calls objects without a class."""
    about = (content.get("info") or {}).get("description")
    ours = str(about).rpartition(", by napari-peftsam")[0].partition(" of ")[0]
    named = {each.get("id"): str(each.get("name")) for each in content.get("categories") or ()}
    return {number: name.strip() for number, name in named.items() if name not in (ours, "None")}


def _coco_images(
    entries: Sequence[dict[str, Any]], image: _Image, path: Path
) -> list[dict[str, Any]]:
    """Return the entries of one image, the only one if none has its name."""
    name, shape = image_name(image.name), image.shape
    mine = [each for each in entries if image_name(Path(each["file_name"]).name) == name]
    if not mine:
        mine = list(entries)
        if len({each["file_name"] for each in entries}) > 1:
            known = ", ".join(str(each["file_name"]) for each in entries[:5])
            raise InputFileError(f"{path}: has no image {image.name!r}; it holds {known}")
    for each in mine:
        sides = each.get("height", shape[-2]), each.get("width", shape[-1])
        if sides != shape[-2:]:
            raise LabelError(
                f"{path}: the image {each['file_name']} has {sides[0]} x {sides[1]} pixels, this "
                f"one {shape[-2]} x {shape[-1]}: choose the labels of this image"
            )
    return mine


def _read_geojson(content: Any, path: Path, image: _Image) -> LabelFile:
    features = content.get("features", [content]) if isinstance(content, dict) else content

    def objects() -> Iterator[_Found]:
        for number, feature in enumerate(features, start=1):
            geometry = feature.get("geometry", feature) if isinstance(feature, dict) else ""
            geometry = {"type": ""} if geometry is None else geometry
            if not (isinstance(geometry, dict) and "type" in geometry):
                raise InputFileError(f"{path}: object {number} is no GeoJSON feature")
            kind, corners = geometry["type"], geometry.get("coordinates", [])
            rings = corners if kind == "Polygon" else []
            if kind == "MultiPolygon":
                rings = [ring for part in corners for ring in part]
            plane = geometry.get("plane") or {}
            place = image.plane(plane.get("z", 0), plane.get("t", 0))
            properties = feature.get("properties") or {}
            label = _label_in(properties.get("name", ""))
            category = _class_in(properties.get("classification"))
            yield from _filled(place, rings, image.shape, label, category)

    return _drawn(objects(), image.shape, path)


def _class_in(classification: Any) -> str:
    """Return the class that QuPath writes: a name, or several of a class within a class."""
    if isinstance(classification, dict):
        names = classification.get("names") or ()
        classification = classification.get("name") or ": ".join(map(str, names))
    return str(classification or "").strip()


def _read_rois(path: Path, image: _Image) -> LabelFile:
    import roifile

    if path.suffix.lower() == ".zip":
        check_zip(path)
    found = roifile.roiread(path)

    def objects() -> Iterator[_Found]:
        for roi in found if isinstance(found, list) else [found]:
            rings = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
            rings = rings if isinstance(rings, list) else [rings]
            rings = rings if roi.composite or roi.roitype.name in _WITH_AREA else []
            z, t = max(roi.z_position - 1, 0), max(roi.t_position - 1, 0)
            if not z and not t and len(image.shape) == 3:
                z = max(roi.position - 1, 0)
            yield from _filled(image.plane(z, t), rings, image.shape, _label_in(roi.name))

    return _drawn(objects(), image.shape, path)


def _read_cellpose(path: Path, image: _Image) -> LabelFile:
    with path.open("rb") as file:
        form = np.lib.format
        first = form.read_magic(file) == (1, 0)
        header = form.read_array_header_1_0(file) if first else form.read_array_header_2_0(file)
        if header[2] != np.dtype(object):
            raise InputFileError(f"{path}: holds a plain array, which Cellpose does not write")
        check_claim(path.stat().st_size, stored_bytes(path), path)
        start = file.tell()
        check_pickles(file, 1, path, InputFileError)
        file.seek(start)
        content = _PlainUnpickler(file).load()
    content = content.item() if isinstance(content, np.ndarray) else content
    if not (isinstance(content, dict) and isinstance(content.get("masks"), np.ndarray)):
        raise InputFileError(f"{path}: has no masks of Cellpose: save them there again")
    labels = check_labels(np.squeeze(np.asarray(content["masks"])), str(path))
    return LabelFile(_checked_shape(labels, image.shape, path))


class _PlainUnpickler(pickle._Unpickler):  # noqa: SLF001
    """An unpickler of numpy arrays, text, numbers and containers, and of nothing else.

    It is the one in Python: that in C takes memory for any position that a file names.
    """

    _MODULES = frozenset({"numpy", "numpy.core.multiarray", "numpy._core.multiarray"})

    def find_class(self, module: str, name: str) -> Any:
        if module in self._MODULES and name in _MADE:
            return _MADE[name]
        if (module, name) in _CHECKED:
            return super().find_class(module, name)
        if module.partition(".")[0] == "pathlib" and name.endswith("Path"):  # the image's name
            return lambda *_: ""
        raise InputFileError(f"the file asks for {module}.{name}, which is no plain data")


class _Array(np.ndarray[Any, Any]):
    """An array that takes the values of a pickle, but no more of them than there are."""

    def __setstate__(self, state: Any, /) -> None:
        _, shape, _, _, values = state
        if math.prod(shape) > len(values):
            raise ValueError("an array is larger than its values")
        super().__setstate__(state)


_CHECKED = {  # make no more than they are given, see `check_pickles`
    ("_codecs", "encode"), ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}  # fmt: skip
_MADE: dict[str, Any] = {
    "_reconstruct": lambda *_: _Array(0),  # empty, as pickles of all versions have it
    "dtype": np.dtype,
    "ndarray": None,  # named, but never made
    "scalar": lambda kind, value: np.frombuffer(value, kind, 1)[0],
}


_READERS: dict[str, Callable[[Path, _Image], LabelFile]] = {
    ".geojson": _read_json,
    ".json": _read_json,
    ".zip": _read_rois,
    ".roi": _read_rois,
    "_seg.npy": _read_cellpose,
}
OBJECT_SUFFIXES = tuple(_READERS)
"""Endings of files with objects, beside those of label images."""
