"""Reader of tables with the centre of each object."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

from napari_peftsam.errors import InputFileError, PromptError
from napari_peftsam.geometry import sizes
from napari_peftsam.limits import in_time, read_text
from napari_peftsam.metadata import UNKNOWN, ImageMetadata

__all__ = ["read_centres"]

Index = tuple[int, ...]
Centre = tuple[float, float]
_COLUMNS = (
    ("row", "col"), ("row_px", "col_px"), ("y", "x"), ("y_px", "x_px"),
    ("centroid-0", "centroid-1"),
)  # fmt: skip
"""Names of the columns of rows and columns, in pixels; of napari's points the last two axes."""
_LARGEST = 32 * 1024**2  # bytes
_MOST_LINES, _LONGEST_LINE = 10**6, 10_000  # each cell takes fifty bytes
_OF_IMAGEJ = {"area", "mean", "slice", "ch", "frame", "counter"}


def read_centres(
    path: str | Path, shape: tuple[int, ...], metadata: ImageMetadata = UNKNOWN
) -> dict[Index, tuple[Centre, ...]]:
    """Read a table with a line for each object, separated by commas, semicolons or tabs.

    Positions are in pixels, in columns called ``row`` and ``col``, ``y`` and ``x``, or
    ``axis-0``, ``axis-1``, ... as napari writes points. Of a stack further columns, called like
    its axes, say the plane.

    Parameters
    ----------
    path
        The file.
    shape
        ``(..., H, W)`` of the image.
    metadata
        Names of the axes, and whether pixels have a size: ImageJ writes ``X`` and ``Y`` of such an
        image in units, so that its tables are refused then.

    Returns
    -------
    dict
        Row and column of the centres in each plane.

    Raises
    ------
    InputFileError
        If the file is missing or no such table.
    PromptError
        If a centre is no position in the image; the message names its line.
    """
    path = Path(path)
    try:
        text = read_text(path, _LARGEST)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputFileError(f"{path}: cannot be read as a table ({reason})") from error
    lines = _lines(text, path)
    head = next(lines, "")
    separator = max(",;\t", key=head.count)
    names = [name.strip().strip('"').lower() for name in head.split(separator)]
    _check_pixels(names, metadata, path)
    places = _places(names, len(shape), metadata.names, path)
    found: dict[Index, list[Centre]] = {}
    try:
        table = in_time(csv.reader(lines, delimiter=separator), path)
        for number, line in enumerate(table, start=2):
            if any(cell.strip() for cell in line):
                *index, row, col = _position(line, places, shape, f"{path}: line {number}")
                found.setdefault(tuple(map(int, index)), []).append((row, col))
    except csv.Error as error:
        raise InputFileError(f"{path}: cannot be read as a table ({error})") from error
    if not found:
        raise InputFileError(f"{path}: holds no centre: give a line for each object")
    return {index: tuple(centres) for index, centres in sorted(found.items())}


def _lines(text: str, path: Path) -> Iterator[str]:
    many = text.count("\n") > _MOST_LINES
    for line in io.StringIO(text):
        if many or len(line) > _LONGEST_LINE:
            raise InputFileError(
                f"{path}: cannot be read as a table (more than {_MOST_LINES:,} lines, or "
                f"{_LONGEST_LINE:,} characters in one): split it"
            )
        yield line


def _check_pixels(names: list[str], metadata: ImageMetadata, path: Path) -> None:
    """Raise if a table may be in the unit of a calibrated image."""
    if metadata.is_calibrated and {"x", "y"} <= set(names) and _OF_IMAGEJ & set(names):
        raise InputFileError(
            f"{path}: ImageJ writes X and Y in the unit of a calibrated image: call the columns "
            "x_px and y_px once they are in pixels"
        )


def _places(names: list[str], ndim: int, axes: str, path: Path) -> list[int]:
    """Return the column of each axis of the image."""
    numbered = [name for name in names if re.fullmatch(r"axis-\d+", name)]
    others = [name for name in ("t", "z") if name in names and ndim == 2]
    if (numbered and len(numbered) != ndim) or others:
        raise InputFileError(
            f"{path}: has the columns {', '.join(names)}, the image has {ndim} axes: choose the "
            "image that the centres lie in"
        )
    numbered = [f"axis-{i}" for i in range(ndim)]
    if all(name in names for name in numbered):
        return [names.index(name) for name in numbered]
    plane = next((pair for pair in _COLUMNS if all(name in names for name in pair)), None)
    if plane is None:
        raise InputFileError(
            f"{path}: has no columns row and col (or y and x), in pixels, got {', '.join(names)}"
        )
    leading = (axes if len(axes) == ndim else "tzyx"[-ndim:])[:-2]
    missing = [name for name in leading if name not in names]
    if missing:
        raise InputFileError(f"{path}: has no column {missing[0]}, which tells a centre's plane")
    return [names.index(name) for name in (*leading, *plane)]


def _position(
    line: list[str], places: list[int], shape: tuple[int, ...], where: str
) -> list[float]:
    try:
        position = [float(line[place]) for place in places]
    except (ValueError, IndexError) as error:
        raise PromptError(
            f"{where} must hold a number with a decimal point for each axis, got {line}"
        ) from error
    planes = len(shape) - 2
    # Between two planes the later one is meant, as between two pixels.
    position[:planes] = [math.floor(v + 0.5) if math.isfinite(v) else v for v in position[:planes]]
    for value, length in zip(position, shape, strict=True):
        if not (math.isfinite(value) and -0.5 <= value <= length - 0.5):
            raise PromptError(
                f"{where} lies outside the image of {sizes(shape)} pixels: "
                "positions are in pixels, and the first pixel is 0"
            )
    return position
