"""Sources of image pixels: files found again, changes noticed, arrays kept inside."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import xxhash

from napari_peftsam.document.records import ImageSource
from napari_peftsam.document.store import Store
from napari_peftsam.errors import ProjectError
from napari_peftsam.folders import resolved
from napari_peftsam.types import PixelArray, Plane

__all__ = [
    "Found",
    "describe_source",
    "find_source",
    "is_digest_of",
    "plane_digest",
    "read_pixels",
    "store_pixels",
]

_MOST_BYTES = 512_000_000  # of an image in the project; with more, saving copies takes minutes
_SAMPLES, _SIDE = 4, 256  # tiles along each axis, and their pixels, of a plane on disk


@dataclass(frozen=True)
class Found:
    """The state of the file that an image comes from.

    Attributes
    ----------
    state
        "inside": the project holds the pixels; "there": unchanged by size and time.
    path
        Path where the file is, or was expected.
    text
        A sentence for the user; empty if all is well.
    """

    state: Literal["inside", "there", "changed", "missing"]
    path: Path | None = None
    text: str = ""


def describe_source(path: str | Path, project: Path | None, series: int = 0) -> ImageSource:
    """Return a project's reference to a file or folder of pixels.

    Parameters
    ----------
    path
        The file or folder.
    project
        The project file; None while there is none.
    series
        Number of the image in a file that holds several.
    """
    path = resolved(path)
    try:
        size, modified = _size_and_time(path)
    except OSError as error:
        raise ProjectError(f"{path} cannot be read ({error.strerror}): check the path") from error
    return ImageSource(_reference(path, project), size, modified, series, absolute=str(path))


def find_source(source: ImageSource | None, project: Path | None) -> Found:
    """Look for an image's file: first as seen from the project, then where it was."""
    if source is None or not source.path:
        if source is not None and source.digest:
            return Found("inside")
        text = "the image was never saved as a file: locate one, or add it"
        return Found("missing", None, text)
    candidates = [path for path in _candidates(source, project) if path.exists()]
    if not candidates:
        where = _candidates(source, project)[0]
        return Found("missing", where, f"{where} is not there: locate it to see its pixels")
    path = candidates[0]
    try:
        found = _size_and_time(path)
    except OSError as error:
        text = f"{path} cannot be read ({error.strerror}): locate it, or check its rights"
        return Found("missing", path, text)
    # A copy of the folder may have other times, but not another size.
    if found[0] != source.size or (found[1] != source.modified and str(path) == source.absolute):
        text = f"{path} has changed since it was annotated: check that the objects still fit"
        return Found("changed", path, text)
    return Found("there", path)


def moved_source(source: ImageSource | None, old: Path | None, new: Path) -> ImageSource | None:
    """Return a source with its path as seen from a copy of the project elsewhere."""
    if source is None or not source.path:
        return source
    if old is None and not Path(source.path).is_absolute():
        return source
    there = [path for path in _candidates(source, old) if path.exists()]
    if not there:
        return source
    return replace(source, path=_reference(there[0], new), absolute=str(there[0]))


# --- pixels -------------------------------------------------------------------------


def plane_digest(plane: Plane) -> str:
    """Return a hash of a plane's pixels, or of a fixed sample of tiles if it is on disk."""
    return _digest(plane, "all" if isinstance(plane, np.ndarray) else "sample")


def is_digest_of(digest: str, plane: Plane) -> bool:
    """Return True if this is the hash of these pixels, taken on disk or in memory."""
    return digest == _digest(plane, digest.partition(":")[0])


def store_pixels(store: Store, pixels: Any) -> ImageSource:
    """Keep an array of numbers that has no file, at most 512 MB, in the project."""
    size = int(np.prod(pixels.shape, dtype=np.int64)) * np.dtype(pixels.dtype).itemsize
    if size > _MOST_BYTES:
        raise ProjectError(
            f"the image takes {size / 1e6:,.0f} MB, a project keeps up to "
            f"{_MOST_BYTES / 1e6:,.0f} MB: save it as a file first and open that"
        )
    buffer = io.BytesIO()
    try:
        np.lib.format.write_array(buffer, np.asarray(pixels), allow_pickle=False)
    except ValueError as error:
        raise ProjectError(f"the image holds {pixels.dtype}, not numbers: convert it") from error
    return ImageSource(size=size, digest=store.put_blob(buffer.getvalue()))


def read_pixels(store: Store, source: ImageSource) -> PixelArray:
    """Return an array stored by `store_pixels`; raise `ProjectError` if it is damaged."""
    buffer = io.BytesIO(store.blob(source.digest))
    array: PixelArray = np.lib.format.read_array(buffer, allow_pickle=False)
    return array


def _digest(plane: Plane, kind: str) -> str:
    kind_of_pixels = np.dtype(plane.dtype).newbyteorder("<").str
    digest = xxhash.xxh128(f"{kind_of_pixels}{tuple(plane.shape)}".encode())
    parts: Iterator[Any] = iter([plane]) if kind == "all" else _tiles(plane)
    for part in parts:
        array = np.ascontiguousarray(part)
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return f"{kind}:{digest.hexdigest()}"


def _tiles(plane: Plane) -> Iterator[Any]:
    rows, cols = (
        sorted({round(i * max(0, n - _SIDE) / (_SAMPLES - 1)) for i in range(_SAMPLES)})
        for n in plane.shape[:2]
    )
    for row in rows:
        for col in cols:
            yield np.asarray(plane[row : row + _SIDE, col : col + _SIDE])


# --- files --------------------------------------------------------------------------


def _reference(path: Path, project: Path | None) -> str:
    """Return a path as seen from the project's folder, if it lies below it or beside it."""
    if project is None:
        return str(path)
    try:
        relative = os.path.relpath(path, project.parent)
    except ValueError:  # another drive
        return str(path)
    if Path(relative).parts[:2] == ("..", ".."):
        return str(path)
    return Path(relative).as_posix()


def _candidates(source: ImageSource, project: Path | None) -> list[Path]:
    path = Path(source.path)
    if not path.is_absolute() and project is not None:
        path = project.parent.joinpath(*PurePosixPath(source.path).parts)
    found = [Path(os.path.normpath(path))]
    return [*found, Path(source.absolute)] if source.absolute else found


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return the bytes of a file or of the files of a folder, and the time of the last change."""
    if not path.is_dir():
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    sizes, times = [0], [path.stat().st_mtime_ns]
    for folder, _, names in os.walk(path):
        for name in names:
            found = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118  # many
            sizes.append(found.st_size)
            times.append(found.st_mtime_ns)
    return sum(sizes), max(times)
