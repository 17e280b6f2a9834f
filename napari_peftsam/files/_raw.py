"""An image as its file holds it, and which one of several it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_peftsam.errors import InputFileError
from napari_peftsam.metadata import Channel, ReadOptions


@dataclass(frozen=True, eq=False)
class RawImage:
    """An image as its file holds it.

    Attributes
    ----------
    array
        Anything with shape, type and slices.
    axes
        One letter per axis: ``T``, ``Z``, ``Y``, ``X``, channels ``C``, samples ``S`` of a
        colour (with alpha: 2 or 4 of them), ``Q`` where the file does not say.
    scales
        Scale and unit by letter of the axis.
    channels
        Names and colours of the channels.
    levels
        The same in lower resolutions, for display.
    """

    array: Any
    axes: str
    scales: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()
    levels: tuple[Any, ...] = ()


def series_number(path: Path, options: ReadOptions, count: int) -> int:
    """Return the number of the image to read; one of several must be chosen."""
    if options.series is None and count > 1:
        raise InputFileError(
            f"{path}: holds {count} images: choose one with --series, from 0 to {count - 1}"
        )
    number = options.series or 0
    if number >= max(count, 1):
        raise InputFileError(f"{path}: there is no image {number}, it holds {count}")
    return number
