"""OME-Zarr: the image, if given, with the labels inside, both as pyramids."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.errors import ExportError
from napari_peftsam.types import LabelArray, PixelArray

from ._format import AXES, ExportContext, ExportFormat, smallest_unsigned

if TYPE_CHECKING:
    import zarr

__all__ = ["FORMAT", "check_replaceable", "create_labels"]

_MARK = "napari-peftsam"
_SMALLEST_LEVEL = 256  # px: below it a further level saves nothing
_CHUNK = 1024  # px; one chunk holds one plane, since viewers show one at a time


def check_replaceable(path: Path) -> None:
    """Raise `ExportError` unless the folder `path` is empty or was written by `FORMAT`.

    An OME-Zarr may hold the only copy of an image, and is replaced as a whole.
    """
    import zarr

    if not any(path.iterdir()):
        return
    try:
        ours = _MARK in zarr.open_group(path, mode="r").attrs
    except (OSError, ValueError, KeyError):  # what zarr raises for other folders
        ours = False
    if not ours:
        raise ExportError(
            f"cannot write {path}: it was not written by napari-peftsam and is not replaced; "
            "choose another name"
        )


def _write(path: Path, labels: LabelArray, context: ExportContext) -> None:
    import dask

    # In a worker of a cluster, ome-zarr's own use of dask would give the labels to the cluster
    # and wait for it, and the cluster for this worker.
    with dask.config.set(scheduler="threads"):
        _write_group(path, labels, context)


def _write_group(path: Path, labels: LabelArray, context: ExportContext) -> None:
    import zarr

    writer = _import_writer()
    axes = AXES[-labels.ndim :]
    scale = dict(zip(axes, map(float, context.scale or [1] * labels.ndim), strict=True))
    factors = _factors(labels.shape)
    name = _plain(context.name)
    group = zarr.create_group(path, zarr_format=writer.CurrentFormat().zarr_format)
    group.attrs[_MARK] = {"image": context.image_name}
    if context.pixels is not None:
        _write_image(writer, group, context, scale, factors)
    details: dict[str, Any] = {"source": {"image": "../../"}}
    if context.records:
        details["properties"] = [{"label-value": r["label"], **r} for r in context.records]
    writer.write_labels(
        smallest_unsigned(labels),
        group,
        name=name,
        axes=axes,
        scale=scale,
        scale_factors=factors,
        scaler=None,  # its default is deprecated
        storage_options=_chunks(labels.shape),
        label_metadata=details,
    )
    _complete_metadata(writer, group, name, with_image=context.pixels is not None)


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
    name = _plain(context.name)
    group = zarr.create_group(path, zarr_format=fmt.zarr_format)
    group.attrs[_MARK] = {"image": context.image_name}
    inner = group.create_group(f"labels/{name}")
    array = inner.create_array("0", shape=shape, dtype=np.int32, fill_value=0, **_chunks(shape))
    scale = [{"type": "scale", "scale": [float(s) for s in context.scale or (1, 1)]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    axes = AXES[-len(shape) :]
    writer.write_multiscales_metadata(inner, datasets, fmt=fmt, axes=axes, name=name)
    source = {"image": "../../"}
    writer.write_label_metadata(group["labels"], name, fmt=fmt, source=source)
    _complete_metadata(writer, group, name, with_image=False)
    return array


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "objects"


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
    writer: Any,
    group: zarr.Group,
    context: ExportContext,
    scale: Mapping[str, float],
    factors: list[int],
) -> None:
    pixels, axes = np.asarray(context.pixels), "".join(scale)
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
        scale=dict(scale),
        scale_factors=factors,
        method=writer.Methods.LOCAL_MEAN,
        storage_options=_chunks(pixels.shape),
        **options,
    )


def _colours(pixels: PixelArray) -> dict[str, Any]:
    top = float(np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else pixels.max())
    window = {"min": 0.0, "max": top, "start": 0.0, "end": top}
    named = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
    channels = [
        {"label": label, "color": color, "active": True, "window": window}
        for label, color in named.items()
    ]
    return {"channels": channels, "rdefs": {"model": "color"}}


def _complete_metadata(writer: Any, group: zarr.Group, name: str, *, with_image: bool) -> None:
    fmt = writer.CurrentFormat()
    writer.add_metadata(group["labels"], {"version": fmt.version}, fmt=fmt)
    if with_image:
        return
    # Readers start at the top and want an image there: without one they find the label
    # image itself, named a second time rather than stored a second time.
    (multiscale,) = writer.get_metadata(group[f"labels/{name}"])["multiscales"]
    datasets = [{**d, "path": f"labels/{name}/{d['path']}"} for d in multiscale["datasets"]]
    writer.write_multiscales_metadata(group, datasets, axes=multiscale["axes"], name=name)


FORMAT = ExportFormat("ome-zarr", "OME-Zarr labels", (".ome.zarr", ".zarr"), _write)
