"""Checked export of labels in one of the registered formats."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from napari_peftsam.errors import ConfigurationError, ExportError, LabelError
from napari_peftsam.files import IMAGE_SUFFIXES, atomic_path, check_shapes, read_provenance
from napari_peftsam.geometry import check_labels, flattened
from napari_peftsam.outputs import write_failure
from napari_peftsam.types import LabelArray

from ._coco import write_coco, write_coco_set
from ._format import AXES, ExportContext, ExportFormat, Record, do_overlap
from ._ome_zarr import append_labels, check_replaceable, holds_image, write_ome_zarr
from ._rasters import write_cellpose, write_overlay, write_tiff
from ._table import write_table
from ._vectors import write_geojson, write_roi, write_yolo, write_yolo_set

__all__ = ["FORMATS", "export_format", "export_labels", "export_target"]

_ZARR = (".ome.zarr", ".zarr")
FORMATS: dict[str, ExportFormat] = {
    f.name: f
    for f in (
        ExportFormat("tiff", "TIFF label image", (".tif", ".tiff"), write_tiff, is_raster=True),
        ExportFormat("ome-zarr", "OME-Zarr labels", _ZARR, write_ome_zarr),
        ExportFormat(
            "ome-zarr-0.4", "OME-Zarr 0.4 labels", _ZARR, partial(write_ome_zarr, version="0.4")
        ),
        ExportFormat("coco", "COCO JSON", (".json",), write_coco, write_coco_set),
        ExportFormat("yolo", "YOLO segmentation folder", (".yolo",), write_yolo, write_yolo_set),
        ExportFormat("roi", "ImageJ ROIs", (".zip",), write_roi),
        ExportFormat("geojson", "GeoJSON for QuPath", (".geojson",), write_geojson),
        ExportFormat("cellpose", "Cellpose", ("_seg.npy",), write_cellpose, is_raster=True),
        ExportFormat("csv", "Table of measurements", (".csv",), write_table),
        ExportFormat(
            "overlay",
            "Picture with objects",
            (".png",),
            write_overlay,
            is_raster=True,
            per_plane=True,
        ),
    )
}
"""All export formats by name; a new one is a module and an entry here."""


def export_labels(
    labels: LabelArray,
    path: str | Path,
    format_name: str | None = None,
    context: ExportContext | None = None,
) -> Path:
    """Write labels to a file; an older one is replaced once the new one is complete.

    Parameters
    ----------
    labels
        ``(H, W)`` or a stack ``(..., H, W)`` with up to four axes; 0 is unlabelled, and
        labels without any object are written, too. Where they overlap with other label sets of
        `context`, a label image has the smaller objects on top, and each set gets a file beside
        it, like ``objects-nucleus.tif``.
    path
        Target file; its folder must exist. The format's suffix is appended unless it is there.
        To an OME-Zarr image of another program a label image is added.
    format_name
        A key of `FORMATS`; by default chosen by the suffix of `path`.
    context
        Names, pixel sizes, provenance and the image itself, as far as known.

    Returns
    -------
    pathlib.Path
        The written file or folder; of a label image added to another's, its folder.

    Raises
    ------
    ConfigurationError
        If the format is unknown, `path` has the suffix of another format, or `context`
        does not fit the labels.
    LabelError
        If the labels are no whole numbers of at least 0 or do not fit the image.
    ExportError
        If the file cannot be written; an older one is untouched then.
    """
    target, chosen = _target(path, format_name)
    context = context or ExportContext()
    labels = _checked(np.asarray(labels), context)
    others = {k: _checked(np.asarray(each), context) for k, each in context.label_sets.items()}
    context = replace(context, label_sets=others)
    sets = context.sets(labels).values()
    context = replace(context, records=_records(context.records, sets))
    if chosen.per_plane and labels.ndim > 2:
        raise ConfigurationError(
            f"{chosen.title} shows one plane, got labels of shape {labels.shape}: export its "
            "planes one by one"
        )
    if chosen.name.startswith("ome-zarr") and target.is_dir() and holds_image(target):
        try:
            written = [append_labels(target, *each) for each in context.apart(labels)]
        except OSError as error:
            raise ExportError(f"cannot write {target}: {write_failure(error)}") from error
        return written[0]
    if chosen.is_raster:
        is_nested = chosen.name == "tiff" and len(sets) > 1 and do_overlap(sets)
        apart = context.apart(labels) if is_nested else []
        beside = [(_beside(target, its.name, chosen), each, its) for each, its in apart]
        for path, _, _ in beside:
            if path.exists() and not read_provenance(path):
                raise ExportError(
                    f"{path} is there and was not written by napari-peftsam, and the objects of a "
                    "class go into it: move it, or choose another name"
                )
        for path, each, alone in beside:
            _write(path, chosen, each, alone)
        labels = flattened(sets)
    _write(target, chosen, labels, context)
    return target


def _write(target: Path, chosen: ExportFormat, labels: LabelArray, context: ExportContext) -> None:
    with atomic_path(target) as temporary:
        if target.is_dir():
            _check_replaceable(target, chosen)
        chosen.write(temporary, labels, context)


def _beside(target: Path, name: str, chosen: ExportFormat) -> Path:
    """Return the file of one label set beside the one that shows all of them."""
    endings = (*(f".ome{suffix}" for suffix in chosen.suffixes), *chosen.suffixes)
    suffix = next(each for each in endings if target.name.lower().endswith(each))
    return target.with_name(f"{target.name[: -len(suffix)]}-{name}{suffix}")


def _check_replaceable(target: Path, chosen: ExportFormat) -> None:
    if chosen.name == "yolo" and (target / "data.yaml").is_file():
        return
    check_replaceable(target)


def export_target(path: str | Path, format_name: str | None = None) -> Path:
    """Return the path that `export_labels` writes to: `path` with the format's ending."""
    return _target(path, format_name)[0]


def _target(path: str | Path, format_name: str | None) -> tuple[Path, ExportFormat]:
    chosen = _choose(format_name, Path(path))
    return _with_ending(Path(path), chosen), chosen


def export_format(name: str) -> ExportFormat:
    """Return a format by its name; an unknown one is a `ConfigurationError`."""
    if name not in FORMATS:
        raise ConfigurationError(
            f"unknown export format {name!r}: choose one of {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def _choose(name: str | None, path: Path) -> ExportFormat:
    if name is not None:
        return export_format(name)
    for known in FORMATS.values():
        if path.name.lower().endswith(known.suffixes):
            return known
    suffixes = ", ".join(dict.fromkeys(f.suffixes[0] for f in FORMATS.values()))
    raise ConfigurationError(
        f"{path}: no export format has this suffix: end the name in one of {suffixes} or say the "
        f"format ({', '.join(FORMATS)})"
    )


def _with_ending(path: Path, chosen: ExportFormat) -> Path:
    name = path.name.lower()
    if name.endswith(chosen.suffixes):
        return path
    if not name or path.is_dir():
        raise ConfigurationError(
            f"{path} is a folder: name a file in it, like {path / 'objects'}{chosen.suffixes[0]}"
        )
    known = {s for f in FORMATS.values() for s in f.suffixes} | set(IMAGE_SUFFIXES)
    if name.endswith(tuple(known)):
        raise ConfigurationError(
            f"{path}: {chosen.title} is not written to {path.suffix} files: end the name in "
            f"{' or '.join(chosen.suffixes)}, or choose another format"
        )
    return path.with_name(path.name + chosen.suffixes[0])


def _checked(labels: LabelArray, context: ExportContext) -> LabelArray:
    if not 2 <= labels.ndim <= len(AXES) or 0 in labels.shape:
        raise LabelError(
            f"expected labels of shape (H, W) or a stack of them, got {labels.shape}: choose the "
            "planes to export"
        )
    if context.pixels is not None:
        check_shapes(context.pixels, labels, context.name)
    scale = context.scale
    if scale is not None and (len(scale) != labels.ndim or not all(0 < s < np.inf for s in scale)):
        raise ConfigurationError(
            f"the scale {tuple(scale)} does not fit labels of shape {labels.shape}: give the size "
            "of a pixel along each axis, above 0"
        )
    return check_labels(labels, context.name)


def _records(records: object, sets: Iterable[LabelArray]) -> tuple[Record, ...]:
    """Return the records of objects that exist, by label and as JSON types."""
    try:
        plain = json.loads(json.dumps(records, allow_nan=False))
        by_label = {int(record["label"]): record for record in plain}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"the provenance cannot be stored ({error}): it must be a list of objects with a "
            "`label` and JSON types only"
        ) from error
    if len(by_label) != len(plain):
        raise ConfigurationError("the provenance holds two records of one label: keep one of them")
    if not by_label:
        return ()
    present = {n for each in sets for n in np.unique(each).tolist()} - {0}
    return tuple(by_label[label] for label in sorted(by_label.keys() & present))
