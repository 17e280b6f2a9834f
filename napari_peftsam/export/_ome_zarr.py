"""OME-Zarr: the image, if given, with the labels inside, both as pyramids."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.errors import ExportError, LabelError, PeftSamError
from napari_peftsam.geometry import sizes
from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.types import LabelArray, PixelArray

from ._format import AXES, ExportContext, plain_name, smallest_unsigned

if TYPE_CHECKING:
    import zarr

__all__ = ["check_replaceable", "create_labels"]

_MARK = "napari-peftsam"
_OLDER_ZARR = 2  # the version of zarr below OME-Zarr 0.4
_SMALLEST_LEVEL = 256  # px: below it a further level saves nothing
_CHUNK = 1024  # px; one chunk holds one plane, since viewers show one at a time


def check_replaceable(path: Path) -> None:
    """Raise `ExportError` unless the folder `path` is empty or was written by us.

    An OME-Zarr may hold the only copy of an image, and is replaced as a whole.
    """
    if any(path.iterdir()) and _MARK not in _attributes(path):
        raise ExportError(
            f"cannot write {path}: it was not written by napari-peftsam and is not replaced; "
            "choose another name"
        )


def write_ome_zarr(
    path: Path, labels: LabelArray, context: ExportContext, version: str | None = None
) -> None:
    """Write labels in a version of OME-Zarr, by default the current one."""
    import dask
    import zarr

    writer = _import_writer()
    fmt = _format(version)
    labels, context = _in_order(labels, context)
    group = zarr.create_group(path, zarr_format=fmt.zarr_format)
    group.attrs[_MARK] = {"image": context.image_name}
    calibration = context.calibration(labels.ndim)
    # In a worker of a cluster, ome-zarr's own use of dask would give the labels to the cluster
    # and wait for it, and the cluster for this worker.
    with dask.config.set(scheduler="threads"):
        if context.pixels is not None:
            _write_image(writer, group, context, calibration, fmt)
        sets = context.apart(labels)
        for each in sets:
            _write_labels(writer, group, *each, fmt)
        if context.background is not None:
            plain = replace(context, name="background", records=(), complete=())
            _write_labels(writer, group, context.background, plain, fmt)
    name = sets[0][1].name
    _complete_metadata(writer, group, name, fmt, with_image=context.pixels is not None)
    _set_units(group, calibration)


def _in_order(labels: LabelArray, context: ExportContext) -> tuple[LabelArray, ExportContext]:
    """Return labels and image with time before depth, as OME-Zarr wants them."""
    calibration = context.calibration(labels.ndim)
    order = sorted(range(labels.ndim), key=lambda axis: AXES.index(calibration.names[axis]))
    if order == list(range(labels.ndim)):
        return labels, context
    pixels = context.pixels
    if pixels is not None:
        pixels = np.transpose(pixels, (*order, *range(labels.ndim, np.ndim(pixels))))
    axes = [calibration.axes[axis] for axis in order]
    background = None if context.background is None else np.transpose(context.background, order)
    others = {name: np.transpose(each, order) for name, each in context.label_sets.items()}
    return np.transpose(labels, order), replace(
        context,
        pixels=pixels,
        background=background,
        label_sets=others,
        axes="".join(axis.name for axis in axes),
        scale=[axis.scale for axis in axes],
        units=[axis.unit for axis in axes],
    )


def _format(version: str | None) -> Any:
    from ome_zarr.format import CurrentFormat, format_from_version

    return CurrentFormat() if version is None else format_from_version(version)


def _write_labels(
    writer: Any, group: zarr.Group, labels: LabelArray, context: ExportContext, fmt: Any
) -> None:
    calibration = context.calibration(labels.ndim)
    details: dict[str, Any] = {"source": {"image": "../../"}}
    if context.records:
        details["properties"] = [{"label-value": r["label"], **r} for r in context.records]
    if context.complete:
        details[_MARK] = {"complete": list(context.complete)}
    writer.write_labels(
        smallest_unsigned(labels),
        group,
        name=plain_name(context.name),
        axes=calibration.names,
        scale=dict(zip(calibration.names, calibration.scale, strict=True)),
        scale_factors=_factors(labels.shape),
        scaler=None,  # its default is deprecated
        storage_options=_chunks(labels.shape),
        label_metadata=details,
        fmt=fmt,
    )


def holds_image(path: Path) -> bool:
    """Return True if a folder is an OME-Zarr image that another program wrote."""
    attributes = _attributes(path)
    ome = attributes.get("ome", attributes)
    return _MARK not in attributes and isinstance(ome, dict) and bool(ome.get("multiscales"))


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a zarr group, none of another folder."""
    from napari_peftsam.files.safe_zarr import open_zarr

    try:
        return dict(open_zarr(path).attrs)
    except PeftSamError:  # another folder
        return {}


def append_labels(path: Path, labels: LabelArray, context: ExportContext) -> Path:
    """Add a label image to an OME-Zarr image of another program, and return its folder.

    What is there stays as it is; the list of label images gets one more. Of several of one
    name, later ones get a number.
    """
    import zarr

    from napari_peftsam.files import atomic_path
    from napari_peftsam.files.ome import OmeLabels, read_ome

    writer = _import_writer()
    inside = path / "labels"
    if inside.resolve() != path.resolve() / "labels":
        raise ExportError(
            f"cannot write {inside}: it leads to another folder; copy the image first"
        )
    labels, context = _in_order(labels, context)
    _check_fits(labels, context, path)
    group = zarr.open_group(path, mode="r+")
    inner = group.require_group("labels")
    known = read_ome(inner, OmeLabels, path).labels or []
    name, number = plain_name(context.name), 1
    while name in known or name in inner:
        number += 1
        name = f"{plain_name(context.name)}_{number}"
    fmt = _format("0.4" if group.metadata.zarr_format == _OLDER_ZARR else None)
    context = replace(context, name=name, pixels=None)
    with atomic_path(path / "labels" / name) as temporary:
        scratch = temporary.with_name(f"{temporary.name}-all")
        other = zarr.create_group(scratch, zarr_format=fmt.zarr_format)
        try:
            _write_labels(writer, other, labels, context, fmt)
            _set_units(other, context.calibration(labels.ndim))
            (scratch / "labels" / name).rename(temporary)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    writer.add_metadata(inner, {"labels": [*known, name]}, fmt=fmt)
    return path / "labels" / name


def _check_fits(labels: LabelArray, context: ExportContext, path: Path) -> None:
    """Raise `LabelError` unless labels have the size of the image that they are added to.

    Raises `InputFileError` for damaged metadata.
    """
    import zarr

    from napari_peftsam.files.ome import OmeImage, read_ome
    from napari_peftsam.files.safe_zarr import open_zarr, reading_zarr

    group = open_zarr(path)
    multiscale = (read_ome(group, OmeImage, path).multiscales or [])[0]
    axes = [axis.name for axis in multiscale.axes or ()] or list("tczyx")
    with reading_zarr(path):
        if not isinstance(group.get("labels"), zarr.Group | None):
            raise TypeError("its labels are an array")
        level: Any = group[multiscale.datasets[0].path]
        named = zip(axes, level.shape, strict=True)
        image = {axis: n for axis, n in named if axis != "c" and n > 1}
    own = zip(context.calibration(labels.ndim).names, labels.shape, strict=True)
    if image != {name: n for name, n in own if n > 1}:
        raise LabelError(
            f"{path} has an image of {sizes(image.values())} pixels, the labels are "
            f"{sizes(labels.shape)}: choose the image that they were drawn on"
        )


def _set_units(group: zarr.Group, calibration: ImageMetadata) -> None:
    """Write the units of the axes, which the writer has no argument for, into all multiscales."""
    units = {axis.name: axis.unit for axis in calibration.axes if axis.unit}
    nodes: list[Any] = [group, *(node for _, node in group.members(max_depth=None))]
    for node in nodes:
        attributes: dict[str, Any] = dict(node.attrs)
        for place in (attributes.get("ome"), attributes):
            for multiscale in (place or {}).get("multiscales", ()):
                for axis in multiscale["axes"]:
                    if axis["name"] in units:
                        axis["unit"] = units[axis["name"]]
        if attributes:
            node.attrs.update(attributes)


def create_labels(path: Path, shape: tuple[int, int], context: ExportContext) -> Any:
    """Create an OME-Zarr with an empty label image, to be written part by part.

    It has the full resolution only. Chunks without objects take no space.

    Parameters
    ----------
    path
        Must not exist yet.
    shape
        ``(H, W)``.

    Returns
    -------
    zarr.Array
        ``(H, W)`` int32, zeros.
    """
    import zarr

    writer = _import_writer()
    fmt = writer.CurrentFormat()
    name = plain_name(context.name)
    group = zarr.create_group(path, zarr_format=fmt.zarr_format)
    group.attrs[_MARK] = {"image": context.image_name}
    inner = group.create_group(f"labels/{name}")
    array = inner.create_array("0", shape=shape, dtype=np.int32, fill_value=0, **_chunks(shape))
    calibration = context.calibration(len(shape))
    scale = [{"type": "scale", "scale": list(calibration.scale)}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    axes = calibration.names
    writer.write_multiscales_metadata(inner, datasets, fmt=fmt, axes=axes, name=name)
    source = {"image": "../../"}
    writer.write_label_metadata(group["labels"], name, fmt=fmt, source=source)
    _complete_metadata(writer, group, name, fmt, with_image=False)
    _set_units(group, calibration)
    return array


def _import_writer() -> Any:
    with warnings.catch_warnings():
        # ome-zarr uses its own deprecated class while it is imported.
        warnings.filterwarnings("ignore", "Call to deprecated class Scaler", DeprecationWarning)
        from ome_zarr import writer
    return writer


def _factors(shape: tuple[int, ...]) -> list[int]:
    """Return the factors of height and width for the levels after the first."""
    levels = range(1, max(max(shape[-2:]) // _SMALLEST_LEVEL, 1).bit_length())
    return [2**level for level in levels]


def _chunks(shape: tuple[int, ...]) -> dict[str, Any]:
    height, width = (min(_CHUNK, n) for n in shape[-2:])
    return {"chunks": (*(1,) * (len(shape) - 2), height, width)}


def _write_image(
    writer: Any, group: zarr.Group, context: ExportContext, calibration: ImageMetadata, fmt: Any
) -> None:
    pixels, axes = np.asarray(context.pixels), calibration.names
    scale = dict(zip(axes, calibration.scale, strict=True))
    factors = _factors(pixels.shape[: len(axes)])
    options: dict[str, Any] = {}
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    if pixels.ndim > len(axes):  # OME-Zarr keeps colours before depth
        place = axes.find("t") + 1
        pixels = np.moveaxis(pixels[..., :3], -1, place)
        axes, scale = axes[:place] + "c" + axes[place:], {"c": 1.0, **scale}
        options["omero"] = _colours(pixels)
    writer.write_image(
        pixels,
        group,
        name=context.image_name,
        axes=axes,
        scale=scale,
        scale_factors=factors,
        method=writer.Methods.LOCAL_MEAN,
        storage_options=_chunks(pixels.shape),
        fmt=fmt,
        **options,
    )


def _colours(pixels: PixelArray) -> dict[str, Any]:
    if pixels.dtype.kind in "iu":
        top = float(np.iinfo(pixels.dtype).max)
    else:
        top = float(np.max(pixels[np.isfinite(pixels)], initial=0.0)) or 1.0
    window = {"min": 0.0, "max": top, "start": 0.0, "end": top}
    named = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
    channels = [
        {"label": label, "color": color, "active": True, "window": window}
        for label, color in named.items()
    ]
    return {"channels": channels, "rdefs": {"model": "color"}}


def _complete_metadata(
    writer: Any, group: zarr.Group, name: str, fmt: Any, *, with_image: bool
) -> None:
    writer.add_metadata(group["labels"], {"version": fmt.version}, fmt=fmt)
    if with_image:
        return
    # Readers start at the top and want an image there: without one they find the label
    # image itself, named a second time rather than stored a second time.
    (multiscale,) = writer.get_metadata(group[f"labels/{name}"])["multiscales"]
    datasets = [{**d, "path": f"labels/{name}/{d['path']}"} for d in multiscale["datasets"]]
    writer.write_multiscales_metadata(group, datasets, fmt=fmt, axes=multiscale["axes"], name=name)
