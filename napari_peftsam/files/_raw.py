"""An image as its file holds it, and the options to read it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from napari_peftsam.metadata import Channel

__all__ = ["RawImage", "ReadOptions"]


@dataclass(frozen=True)
class ReadOptions:
    """Answers to what a file may leave open.

    Attributes
    ----------
    axes
        One letter per axis of the file's array, like ``"ZYX"`` or ``"YXC"``; takes the place of
        the file's own names. Empty: as the file says.
    channels
        The channels to use, by number or name, with weights: ``"2"``, ``"DAPI"``, ``"0,2"``,
        ``"DAPI:0.5,2:0.5"``. One gives a grey image; two or three give red, green and blue.
    series
        Number of the image in a file that holds several, None for the first.
    allow_missing
        Read an OME-TIFF of several files even if some are missing; their planes are zero.
    own_planes
        Of an OME-TIFF of several files, read the planes that the named file holds itself.
    """

    axes: str = ""
    channels: str = ""
    series: int | None = None
    allow_missing: bool = False
    own_planes: bool = False


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
    series: int = 0
