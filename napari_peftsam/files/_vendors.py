"""Readers of the microscopes' own files: CZI, ND2 and LIF, by packages that are optional."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.errors import InputFileError
from napari_peftsam.limits import check_claim, stored_bytes
from napari_peftsam.metadata import Channel, ReadOptions

from ._arrange import RawImage, series_number


def read_vendor(path: Path, options: ReadOptions) -> RawImage:
    """Read a CZI, ND2 or LIF file; `InputFileError` where its package is not installed."""
    package, read = VENDORS[path.suffix.lower()]
    try:
        module = import_module(package)
    except ImportError as error:
        raise InputFileError(
            f"{path}: {path.suffix.lower()[1:].upper()} files are read by {package.split('.')[0]}: "
            'install it with pip install "napari-peftsam[formats]"'
        ) from error
    return read(module, path, options)


def _read_czi(czi: Any, path: Path, options: ReadOptions) -> RawImage:
    with czi.open_czi(str(path)) as file:
        bounds, scenes = file.total_bounding_box, file.scenes_bounding_rectangle
        scene = sorted(scenes)[series_number(path, options, len(scenes))] if scenes else None
        ranges = {letter: range(*bounds[letter]) for letter in "TZC" if letter in bounds}
        size = prod(high - low for low, high in bounds.values())
        check_claim(size, stored_bytes(path), path)
        planes = [
            file.read(plane=dict(zip(ranges, at, strict=True)), scene=scene)
            for at in product(*ranges.values())
        ]
        array = np.stack(planes).reshape(*map(len, ranges.values()), *planes[0].shape)
        axes = "".join(ranges) + "YXS"
        if array.shape[-1] == 1:
            array, axes = array[..., 0], axes[:-1]
        else:
            array = array[..., ::-1]  # blue comes first
        return RawImage(array, axes, *_czi_metadata(file.metadata))


def _czi_metadata(metadata: Any) -> tuple[dict[str, tuple[float, str]], tuple[Channel, ...]]:
    """Return scales in micrometers and the channels, as far as the metadata hold them."""
    document = metadata.get("ImageDocument", {}).get("Metadata", {}) or {}
    items = _listed((document.get("Scaling") or {}).get("Items"), "Distance")
    scales = {
        str(item.get("@Id")): (float(item["Value"]) * 1e6, "micrometer")
        for item in items
        if item.get("Value") and float(item["Value"]) > 0
    }
    dimensions = ((document.get("Information") or {}).get("Image") or {}).get("Dimensions") or {}
    channels = tuple(
        Channel(str(each.get("@Name", "")), str(each.get("Color") or "")[-6:])
        for each in _listed(dimensions.get("Channels"), "Channel")
    )
    return scales, channels


def _listed(parent: Any, name: str) -> list[Any]:
    found = (parent or {}).get(name) or []
    return found if isinstance(found, list) else [found]


def _read_nd2(nd2: Any, path: Path, options: ReadOptions) -> RawImage:
    with nd2.ND2File(path) as file:
        check_claim(file.nbytes, stored_bytes(path), path)
        array, sizes = file.asarray(), dict(file.sizes)
        if "P" in sizes:  # positions of the stage are images of their own
            at = list(sizes).index("P")
            array = np.take(array, series_number(path, options, sizes.pop("P")), at)
        size = file.voxel_size()
        scales = {
            letter: (float(value), "micrometer")
            for letter, value in zip("XYZ", size, strict=True)
            if value and value > 0
        }
        channels = tuple(
            Channel(str(each.channel.name))
            for each in getattr(file.metadata, "channels", None) or ()
        )
        return RawImage(array, "".join(sizes), scales, channels)


def _read_lif(liffile: Any, path: Path, options: ReadOptions) -> RawImage:
    with liffile.LifFile(path) as file:
        image = file.images[series_number(path, options, len(file.images))]
        scales = {}
        for letter, values in image.coords.items():
            if letter not in "TZYX" or len(values) < 2:
                continue
            step = abs(float(values[1]) - float(values[0]))
            if step > 0:
                scales[letter] = (step, "second") if letter == "T" else (step * 1e6, "micrometer")
        check_claim(image.nbytes, stored_bytes(path), path)
        return RawImage(image.asarray(), "".join(image.dims), scales)


VENDORS: dict[str, tuple[str, Callable[[Any, Path, ReadOptions], RawImage]]] = {
    ".czi": ("pylibCZIrw.czi", _read_czi),
    ".nd2": ("nd2", _read_nd2),
    ".lif": ("liffile", _read_lif),
}
"""Package and reader by suffix."""
