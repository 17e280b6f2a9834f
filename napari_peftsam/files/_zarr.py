"""Reader of zarr arrays and OME-Zarr images, versions 2 and 3 of zarr."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from napari_peftsam.errors import InputFileError

from ._axes import guess_axes

__all__ = ["is_zarr", "read_zarr", "settle_zarr"]

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


def read_zarr(path: Path, labels: bool) -> tuple[Any, str]:
    """Return an array, a group's single array, or an OME-Zarr image, unread, and its axes.

    With `labels`, the label image inside an OME-Zarr image is preferred.
    """
    import zarr

    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Group) and labels:
        node = _inner_labels(node, path)
    if isinstance(node, zarr.Array):
        return node, guess_axes(node.shape)
    multiscales = _ome(node).get("multiscales")
    if multiscales:
        array = node[multiscales[0]["datasets"][0]["path"]]
        if not isinstance(array, zarr.Array):
            raise InputFileError(f"{path}: its OME-Zarr metadata names no array")
        return array, _ome_axes(multiscales[0], array.shape)
    arrays = dict(node.arrays())
    if len(arrays) != 1:
        held = ", ".join(sorted([*arrays, *(f"{n}/" for n in node.group_keys())])) or "nothing"
        raise InputFileError(
            f"{path}: expected one array or an OME-Zarr image, found {held}: open the part you need"
        )
    (array,) = arrays.values()
    return array, guess_axes(array.shape)


def _ome(group: Any) -> Mapping[str, Any]:
    """Return the OME metadata: below ``ome`` since version 0.5, at the top before."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, Mapping) else {}


def _ome_axes(multiscale: Mapping[str, Any], shape: tuple[int, ...]) -> str:
    """Return one letter per axis; versions 0.1 and 0.2 do not name them."""
    named = multiscale.get("axes")
    if not named:
        return "TCZYX"[-len(shape) :]
    return "".join(str(a["name"] if isinstance(a, Mapping) else a)[:1].upper() for a in named)


def _inner_labels(group: Any, path: Path) -> Any:
    """Return the single label image inside an OME-Zarr image, else the group itself."""
    if "labels" not in group:
        return group
    inner = group["labels"]
    names = list(_ome(inner).get("labels", ()))
    if len(names) > 1:
        raise InputFileError(
            f"{path}: holds the label images {', '.join(names)}: open one, like "
            f"{path / 'labels' / names[0]}"
        )
    return inner[names[0]] if names else group
