"""Reader of zarr arrays and OME-Zarr images, versions 2 and 3 of zarr."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_peftsam.errors import InputFileError
from napari_peftsam.metadata import Channel, ReadOptions, plain_unit

from ._arrange import RawImage, guess_axes, series_number
from .ome import Multiscale, OmeImage, OmeLabels, OmePlate, OmeWell, ome_attributes, read_ome

__all__ = ["is_zarr", "list_fields", "settle_zarr"]

_SETTLES = 5.0  # seconds
_METADATA = ("zarr.json", ".zarray", ".zgroup")


def is_zarr(path: Path) -> bool:
    """Return True if `path` is a folder that holds a zarr array or group."""
    return path.is_dir() and any((path / name).is_file() for name in _METADATA)


def settle_zarr() -> None:
    """Wait for zarr's pending reads and writes at the end of a program.

    Where one chunk is damaged, zarr raises while it still reads others. It would write a
    traceback for each of them when Python ends.
    """
    from zarr.core.sync import sync

    with suppress(TimeoutError):
        sync(_others_end(), timeout=_SETTLES)


async def _others_end() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


def list_fields(path: Path) -> dict[str, Path]:
    """Return the fields of view of an OME-Zarr plate by name, like ``"A/1/0"``; else nothing."""
    import zarr

    from .safe_zarr import reading_zarr

    group: Any = _open(path)
    plate = read_ome(group, OmePlate, path).plate if isinstance(group, zarr.Group) else None
    found = {}
    with reading_zarr(path):
        for well in plate.wells if plate else ():
            fields = read_ome(group[well.path], OmeWell, path).well
            for image in fields.images if fields else ():
                found[f"{well.path}/{image.path}"] = path / well.path / image.path
    return found


def read_zarr(path: Path, options: ReadOptions, *, labels: bool) -> RawImage:
    """Return an array, a group's single array, or an OME-Zarr image, unread.

    With `labels`, the label image inside an OME-Zarr image is preferred.
    """
    import zarr

    node = _open(path)
    if isinstance(node, zarr.Group):
        node = _series(node, path, options)
    if isinstance(node, zarr.Group) and labels:
        node = _inner_labels(node, path)
    if isinstance(node, zarr.Array):
        return _plain(node, path)
    multiscales = read_ome(node, OmeImage, path).multiscales
    if multiscales:
        return _multiscale(node, multiscales[0], path)
    arrays = dict(node.arrays())
    if len(arrays) != 1:
        fields = list(list_fields(path))
        held = [*fields] or sorted([*arrays, *(f"{n}/" for n in node.group_keys())])
        shown = ", ".join(held[:6]) + (", ..." if len(held) > 6 else "")
        raise InputFileError(
            f"{path}: expected one array or an OME-Zarr image, found {shown or 'nothing'}: open "
            "the part you need"
        )
    (array,) = arrays.values()
    return _plain(array, path)


def _open(path: Path) -> Any:
    from .safe_zarr import open_zarr  # zarr takes a third of a second

    return open_zarr(path)


def _plain(array: Any, path: Path) -> RawImage:
    """Name the axes of an array by its own names, where it has them for all axes."""
    from .safe_zarr import checked_array

    array = checked_array(array, path)
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get(
        "_ARRAY_DIMENSIONS", ()
    )
    letters = "".join(str(name or "q")[:1].upper() for name in names)
    is_named = len(letters) == array.ndim and {"Y", "X"} <= set(letters)
    axes = letters if is_named else guess_axes(array.shape)
    return RawImage(array, axes)


def _series(group: Any, path: Path, options: ReadOptions) -> Any:
    """Return one of the images that Bio-Formats' converter wrote into one folder."""
    if "bioformats2raw.layout" not in ome_attributes(group):
        return group
    numbers = sorted((n for n in group.group_keys() if n.isdigit()), key=int)
    return group[numbers[series_number(path, options, len(numbers))]]


def _multiscale(node: Any, multiscale: Multiscale, path: Path) -> RawImage:
    import zarr

    from .safe_zarr import checked_array

    levels = [node[dataset.path] for dataset in multiscale.datasets]
    if not all(isinstance(level, zarr.Array) for level in levels):
        raise InputFileError(f"{path}: its OME-Zarr metadata names no array")
    levels = [checked_array(level, path) for level in levels]
    axes, units = _ome_axes(multiscale, levels[0].ndim)
    steps = [1.0] * len(axes)
    for scaled in (multiscale.datasets[0], multiscale):
        for each in scaled.coordinateTransformations or ():
            if each.get("type") == "scale" and len(each.get("scale", ())) == len(axes):
                steps = [a * float(b) for a, b in zip(steps, each["scale"], strict=True)]
    scales = {a: (s, u) for a, s, u in zip(axes, steps, units, strict=True) if s > 0}
    omero = ome_attributes(node).get("omero") or {}
    channels = tuple(
        Channel(str(each.get("label") or ""), str(each.get("color") or "")[:6])
        for each in omero.get("channels") or ()
    )
    if axes.count("C") == 1 and (omero.get("rdefs") or {}).get("model") == "color":
        axes = _as_colours(axes, levels[0].shape, channels)
    return RawImage(levels[0], axes, scales, channels, tuple(levels[1:]))


def _as_colours(axes: str, shape: tuple[int, ...], channels: tuple[Channel, ...]) -> str:
    """Take three channels as colours where they are red, green and blue, in this order."""
    rgb = ("FF0000", "00FF00", "0000FF")
    is_rgb = shape[axes.index("C")] == len(rgb) and rgb == tuple(c.colour for c in channels)
    return axes.replace("C", "S") if is_rgb else axes


def _ome_axes(multiscale: Multiscale, ndim: int) -> tuple[str, list[str]]:
    """Return a letter and a unit per axis; versions 0.1 and 0.2 do not name them."""
    axes = multiscale.axes
    if not axes:
        return "TCZYX"[-ndim:], [""] * ndim
    letters = "".join("C" if axis.type == "channel" else axis.name[:1].upper() for axis in axes)
    return letters, [plain_unit(axis.unit or "") for axis in axes]


def _inner_labels(group: Any, path: Path) -> Any:
    """Return the single label image inside an OME-Zarr image, else the group itself."""
    if "labels" not in group:
        return group
    inner, names = group["labels"], _label_names(group, path)
    if len(names) > 1:
        raise InputFileError(
            f"{path}: holds the label images {', '.join(names)}: open one, like "
            f"{path / 'labels' / names[0]}"
        )
    return inner[names[0]] if names else group


def _label_names(group: Any, path: Path) -> list[str]:
    """Return the names of the label images with objects inside an OME-Zarr image."""
    from .safe_zarr import reading_zarr

    with reading_zarr(path):
        inner = group.get("labels")
    listed = (read_ome(inner, OmeLabels, path).labels or []) if inner is not None else []
    # What our own export declares background are no objects.
    return [name for name in listed if name != "background"] or listed


def label_images(path: Path) -> list[Path]:
    """Return the label images inside an OME-Zarr image, or the path itself if there is one."""
    import zarr

    node = _open(path)
    names = _label_names(node, path) if isinstance(node, zarr.Group) else []
    return [path / "labels" / name for name in names] if len(names) > 1 else [path]


def zarr_provenance(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the records of objects that our export wrote into an OME-Zarr."""
    labels = _inner_labels(_open(path), path)
    properties = ome_attributes(labels).get("image-label", {}).get("properties", ())
    return tuple({**each, "label": each["label-value"]} for each in properties)
