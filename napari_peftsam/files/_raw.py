"""An image as its file holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from napari_peftsam.metadata import Channel


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
