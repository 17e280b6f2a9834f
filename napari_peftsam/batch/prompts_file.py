"""Prompts of many objects: a JSON file, a table of centres, or old labels."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from napari_peftsam.errors import PeftSamError, PromptError, printable
from napari_peftsam.files import (
    ImageFile,
    holds_objects,
    read_centres,
    read_objects,
    split_pieces,
)
from napari_peftsam.geometry import object_windows
from napari_peftsam.limits import parse_json, read_json, read_text
from napari_peftsam.types import Box, Point, Prompts

_log = logging.getLogger(__name__)

_KEYS = ("points", "labels", "box")
_BOX_LENGTH = 4
_LARGEST = 1e9  # pixels
_LARGEST_FILE = 32 * 1024**2  # bytes: half a million objects
_MOST_POINTS = 10_000  # of an object; a decoder takes memory by their square
_ECHOED, _SHOWN = 20, 80  # values and characters of what is wrong
_OF_OBJECTS = re.compile('"(annotations|features|geometry)"')


def read_prompts_for(
    image: ImageFile, name: str, path: str | Path, number_pieces: bool = False
) -> tuple[Prompts, ...]:
    """Read the prompts of an image's objects from a file of any kind.

    JSON is as of `read_prompts`, a table (``.csv``) as of `napari_peftsam.files.read_centres`. Of
    labels or outlines (see `napari_peftsam.files.read_objects`), the boxes around the objects are
    the prompts, by ascending label.

    Parameters
    ----------
    image, name
        The image, of one plane, and its name.
    path
        The file.
    number_pieces
        Of a mask with one number, take each connected piece as an object.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        centres = read_centres(path, image.shape, image.metadata)
        return tuple(Prompts((Point(*at),)) for at in centres[()])
    if path.suffix.lower() == ".json" and not _is_of_objects(path):
        return read_prompts(path)
    found = read_objects(path, image.shape, name)
    if not found.labels.any():
        raise PromptError(f"{path} holds no object: there is nothing to prompt")
    pieces, problem = split_pieces(found.labels)
    if problem and not number_pieces:
        _log.warning("%s: %s: use --number-pieces if each is an object", path, problem)
    if found.skipped:
        _log.warning("%s: %d entries have no area and are left out", path, found.skipped)
    windows = object_windows(pieces if number_pieces else found.labels).values()
    return tuple(Prompts(box=Box.around(window)) for window in windows)


def check_prompts(path: Path) -> None:
    """Raise the errors of a prompts file, as far as its image is not needed."""
    if path.suffix.lower() == ".json" and not _is_of_objects(path):
        read_prompts(path)


def _is_of_objects(path: Path) -> bool:
    try:
        text = read_text(path)
        return bool(_OF_OBJECTS.search(text)) and holds_objects(parse_json(text, path))
    except (OSError, ValueError, PeftSamError):  # which reading the prompts will tell
        return False


def read_prompts(path: str | Path) -> tuple[Prompts, ...]:
    """Read a list of objects ``{"points": [[row, col], …], "labels": [1, 0, …], "box": […]}``.

    Coordinates are image pixels. A point is at a pixel's centre, so ``[0, 0]`` is the
    centre of the top-left pixel. A box ``[row0, col0, row1, col1]`` is half-open, as
    ``skimage.measure.regionprops(...).bbox`` is. Each key may be missing or null, but an
    object needs points or a box; without ``labels`` all points are positive.

    Raises
    ------
    InputFileError
        If the file is missing or unreadable.
    PromptError
        If it is not valid; the message names the object (from 1) and what is wrong.
    """
    path = Path(path)
    content = read_json(path, PromptError, _LARGEST_FILE)
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else _kind(content)
        raise PromptError(f"{path} must hold a list of at least one object, got {found}")
    return tuple(_prompts(item, f"{path}: object {i}") for i, item in enumerate(content, start=1))


def check_prompts_inside(
    prompts: tuple[Prompts, ...], shape: tuple[int, int], path: str | Path
) -> None:
    """Raise `PromptError` naming the first object with prompts outside an image of `shape`."""
    for number, one in enumerate(prompts, start=1):
        try:
            one.check_inside(shape)
        except PromptError as error:
            raise PromptError(f"{path}: object {number}: {error}") from None


def _prompts(item: Any, where: str) -> Prompts:
    if not isinstance(item, dict):
        raise PromptError(f"{where} must be an object with {', '.join(_KEYS)}, got {_kind(item)}")
    unknown = sorted(item.keys() - set(_KEYS))
    if unknown:
        raise PromptError(f"{where} has an unknown key {unknown[0]!r}: use {', '.join(_KEYS)}")
    points = _points(item.get("points"), item.get("labels"), where)
    box = _box(item.get("box"), where)
    if not points and box is None:
        raise PromptError(f"{where} has neither points nor a box: give at least one")
    if box is None and not any(point.positive for point in points):
        raise PromptError(f"{where} has only points that are not on it: give one that is, or a box")
    return Prompts(points, box)


def _points(points: Any, labels: Any, where: str) -> tuple[Point, ...]:
    points = [] if points is None else points
    if not isinstance(points, list):
        raise PromptError(f"{where}: points must be a list of [row, col], got {_kind(points)}")
    labels = [1] * len(points) if labels is None else labels
    if not isinstance(labels, list) or any(_is_no_label(x) for x in labels):
        raise PromptError(
            f"{where}: labels must be a list of 1 (on the object) and 0 (not on it), "
            f"got {_short(labels)}"
        )
    if len(points) > _MOST_POINTS:
        raise PromptError(
            f"{where} has {len(points):,} points: give at most {_MOST_POINTS:,}, or a box"
        )
    if len(labels) != len(points):
        raise PromptError(
            f"{where} has {len(points)} points but {len(labels)} labels: give one label per point"
        )
    pairs = [_numbers(p, 2, f"{where}: point {i}", "[row, col]") for i, p in enumerate(points, 1)]
    return tuple(Point(p[0], p[1], bool(x)) for p, x in zip(pairs, labels, strict=True))


def _box(box: Any, where: str) -> Box | None:
    if box is None:
        return None
    edges = _numbers(box, _BOX_LENGTH, f"{where}: the box", "[row0, col0, row1, col1]")
    try:
        return Box(*edges)
    except PromptError as error:
        raise PromptError(f"{where}: {error}") from None


def _is_no_label(value: Any) -> bool:
    return isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1)


def _numbers(values: Any, length: int, what: str, form: str) -> list[float]:
    def bad(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return not (number and abs(value) <= _LARGEST)  # NaN is not

    if not isinstance(values, list) or len(values) != length or any(map(bad, values)):
        raise PromptError(f"{what} must be {length} numbers {form}, got {_short(values)}")
    return [float(v) for v in values]


def _short(value: Any) -> str:
    # Of a long list not all is made a text.
    return printable(repr(value[:_ECHOED] if isinstance(value, list | str) else value), _SHOWN)


def _kind(value: Any) -> str:
    names = {dict: "a JSON object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")
