"""Properties of an image beside its pixels: axes with their scale and unit, and channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis of an image.

    Attributes
    ----------
    name
        ``"t"``, ``"z"``, ``"y"``, ``"x"``, or another letter; empty if the file does not say.
    scale
        Distance of two neighbours along it, in `unit`; 1 if it is unknown.
    unit
        As `plain_unit` returns it; empty if it is unknown.
    """

    name: str = ""
    scale: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Channel:
    """A channel of an image file: its name and its colour as ``"RRGGBB"``, empty if unknown."""

    name: str = ""
    colour: str = ""


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
    default_channels
        The same for files with several channels of which none is chosen; those that an adapter
        was trained with.
    series
        Number of the image in a file that holds several, None for the first.
    allow_missing
        Read an OME-TIFF of several files even if some are missing; their planes are zero.
    own_planes
        Of an OME-TIFF of several files, read the planes that the named file holds itself.
    number_pieces
        Of labels with one number for all objects, take each connected piece as an object.
    """

    axes: str = ""
    channels: str = ""
    default_channels: str = ""
    series: int | None = None
    allow_missing: bool = False
    own_planes: bool = False
    number_pieces: bool = False


AS_THE_FILE_SAYS = ReadOptions()
"""Options that leave everything to the file."""


@dataclass(frozen=True)
class ImageMetadata:
    """Properties of an image beside its pixels ``(..., H, W[, 3])``.

    Attributes
    ----------
    axes
        One for each axis of ``(..., H, W)``; colours have none. Empty if nothing is known.
    channels
        The channels of the file, of which the pixels show those of `read_with`.
    read_with
        The options that the file was read with.
    """

    axes: tuple[Axis, ...] = ()
    channels: tuple[Channel, ...] = ()
    read_with: ReadOptions = AS_THE_FILE_SAYS

    @classmethod
    def of(
        cls,
        scale: Sequence[float] = (),
        units: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> ImageMetadata:
        """Return what is known of axes from their scales, units and names, in array order."""
        units = units or [""] * len(scale)
        names = names or "tzyx"[-len(scale) :]
        axes = (
            Axis(name, float(s), plain_unit(unit))
            for name, s, unit in zip(names, scale, units, strict=True)
        )
        return cls(tuple(axes))

    @property
    def names(self) -> str:
        """The first letters of the axes, ``"q"`` for those without a name."""
        return "".join(axis.name[:1].lower() or "q" for axis in self.axes)

    @property
    def scale(self) -> tuple[float, ...]:
        """The scale of each axis."""
        return tuple(axis.scale for axis in self.axes)

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each axis."""
        return tuple(axis.unit for axis in self.axes)

    @property
    def plane_scale(self) -> tuple[tuple[float, float], str]:
        """Height and width of a pixel and their unit: that of the width.

        The unit is empty where there is none, or one that the height cannot be converted to.
        """
        if not self.axes:
            return (1.0, 1.0), ""
        rows, cols = self.axes[-2:]
        height, width = in_micrometers(rows), in_micrometers(cols)
        if height is not None and width is not None:
            return (cols.scale * height / width, cols.scale), cols.unit
        return (rows.scale, cols.scale), cols.unit if rows.unit == cols.unit else ""

    def area_text(self, pixels: int) -> str:
        """Return an area of a plane in words: in the square of the unit, else in pixels."""
        (height, width), unit = self.plane_scale
        if not unit:
            return str(pixels)
        area = pixels * height * width
        return f"{area:.{0 if area >= 100 else 1 if area >= 10 else 2}f} {symbol(unit)}²"

    @property
    def is_calibrated(self) -> bool:
        """True if a size is known for the pixels of a plane."""
        return any(axis.unit or axis.scale != 1 for axis in self.axes[-2:])


UNKNOWN = ImageMetadata()
"""Metadata of an image of which nothing is known."""

_METRES = {
    "picometer": -12, "angstrom": -10, "nanometer": -9, "micrometer": -6, "millimeter": -3,
    "centimeter": -2, "meter": 0,
}  # fmt: skip
_UNITS = {
    "pm": "picometer", "å": "angstrom", "nm": "nanometer", "um": "micrometer",
    "micron": "micrometer", "microns": "micrometer", "mm": "millimeter", "cm": "centimeter",
    "m": "meter", "inch": "inch", "in": "inch", "ns": "nanosecond", "us": "microsecond",
    "ms": "millisecond", "msec": "millisecond", "s": "second", "sec": "second",
    "secs": "second", "seconds": "second", "min": "minute", "minutes": "minute", "h": "hour",
    "hr": "hour", "hours": "hour", "pixel": "", "pixels": "", "px": "", "none": "", "null": "",
    "dimensionless": "", "1": "", "reference_frame": "", "reference frame": "",
}  # fmt: skip

UNIT_SYMBOLS = {
    "angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm",
    "centimeter": "cm", "meter": "m", "nanosecond": "ns", "microsecond": "µs",
    "millisecond": "ms", "second": "s", "minute": "min", "hour": "h", "inch": "in",
}  # fmt: skip
"""Symbols of units, as OME-TIFF has them."""


def plain_unit(unit: object) -> str:
    r"""Return the name of a unit as OME-Zarr and napari write it; empty for pixels.

    ``"µm"``, ``"um"``, ``"\u00B5m"`` and ``"microns"`` all are ``"micrometer"``. Names that are
    not known stay as they are.
    """
    name = str(unit or "").strip().replace("\\u00B5", "u").replace("\\u00b5", "u")
    name = name.replace("µ", "u").replace("μ", "u").replace("Å", "å")
    lower = name.lower().replace("metre", "meter")
    if name in ("Mm", "Pm", "M", "H", "S"):  # other units than in lower case
        return name
    known = _UNITS.get(lower, lower if lower in _METRES else None)
    if known is None and lower.endswith("s") and lower[:-1] in _METRES:
        known = lower[:-1]
    return name if known is None else known


def symbol(unit: str) -> str:
    """Return the symbol of a unit; names that are not known stay as they are."""
    return UNIT_SYMBOLS.get(unit, unit)


def in_micrometers(axis: Axis) -> float | None:
    """Return the scale of an axis in micrometers, None if its unit is no length."""
    power = _METRES.get(axis.unit)
    return None if power is None else axis.scale * math.pow(10, power + 6)
