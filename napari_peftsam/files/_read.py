"""Readers of images and label images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.errors import InputFileError, LabelError, PeftSamError
from napari_peftsam.geometry import check_labels
from napari_peftsam.limits import check_claim, check_file, check_time, stored_bytes
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ImageMetadata, ReadOptions
from napari_peftsam.planes import LazyImage
from napari_peftsam.types import LabelArray, PixelArray

from ._arrange import RawImage, arrange
from ._plain import outline_plain, read_plain
from ._tiff import read_tiff, tiff_provenance
from ._vendors import VENDORS, read_vendor
from ._zarr import is_zarr, read_zarr, zarr_provenance

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageFile",
    "image_name",
    "image_shape",
    "open_image",
    "open_labels",
    "read_image",
    "read_labels",
    "read_provenance",
]

_TIFF = (".tif", ".tiff")
_PLAIN = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
IMAGE_SUFFIXES = (*_TIFF, *_PLAIN, *VENDORS, ".zarr")
"""Suffixes that can be read; ``.ome.tif`` and ``.ome.zarr`` are included by their last part."""


_COLOURS = 3
_READ_AT_ONCE = 2**26  # bytes
_SECONDS_PER_CHUNK = 1e-3  # of a zarr array
_LARGEST_WHOLE = 2.0**53  # above, floats skip whole numbers
# Labels of objects of 4 pixels across that all touch. In the data of our benchmarks, labels reach
# 0.03, and the darkest grey image has 0.40.
_MOST_CHANGING = 0.25
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image file that is open.

    Attributes
    ----------
    pixels
        ``(..., H, W)`` or ``(..., H, W, 3)`` in the file's own type; large ones are read in
        parts, when they are used.
    metadata
        Axes, pixel size and channels.
    levels
        The same in lower resolutions, for display.
    """

    pixels: PixelArray | LazyImage
    metadata: ImageMetadata
    levels: tuple[Any, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape ``(..., H, W)``."""
        return tuple(self.pixels.shape[: len(self.metadata.axes)])

    @property
    def rgb(self) -> bool:
        """True if the last axis holds red, green and blue."""
        return len(self.pixels.shape) > len(self.metadata.axes)


def open_image(path: str | Path, options: ReadOptions = AS_THE_FILE_SAYS) -> ImageFile:
    """Open an image or a stack; pixels above 64 MiB are read in parts, when they are used.

    TIFF (OME-TIFF, ImageJ, BigTIFF, all compressions of imagecodecs), PNG, JPEG, BMP, WebP,
    CZI, ND2, LIF, and zarr version 2 or 3: an array, a group with a single array, or OME-Zarr,
    of which the full resolution is read. Alpha is dropped, palettes become colours, axes of
    length one vanish.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, of an unknown kind, or belongs to a set of which files
        are missing.
    UndecidedError
        If nothing says what its axes are, or it has several channels of which none is chosen.
    """
    return _open(Path(path), options)


def read_image(path: str | Path, options: ReadOptions = AS_THE_FILE_SAYS) -> PixelArray:
    """Read the pixels of an image or a stack; files and errors as of `open_image`.

    Returns
    -------
    numpy.ndarray
        ``(..., H, W)`` or ``(..., H, W, 3)`` in the file's own type.
    """
    return np.asarray(_open(Path(path), options, above=float("inf")).pixels)


def image_shape(path: str | Path, options: ReadOptions = AS_THE_FILE_SAYS) -> tuple[int, ...]:
    """Return the shape ``(..., H, W)`` of an image or a stack; reads no pixels if possible.

    Accepts the files and raises the errors of `open_image`; damaged pixels go unnoticed.
    """
    path = Path(path)
    outline = path.suffix.lower() in _PLAIN and path.is_file() and not options.channels
    return _open(path, options, outline=outline, above=-1.0).shape


def read_labels(path: str | Path) -> LabelArray:
    """Read instance labels, from the same kinds of file as `open_image`.

    The numbers of a palette image are the labels; of an OME-Zarr image with one label
    image inside, that one is read; booleans become 0 and 1. A warning is logged where most
    numbers change from pixel to pixel, as in a grey image.

    Returns
    -------
    numpy.ndarray
        ``(..., H, W)`` integers, 0 is unlabelled.

    Raises
    ------
    InputFileError
        As `open_image`.
    LabelError
        If the labels are not whole numbers of at least 0, are a colour image, or were saved
        with loss.
    """
    return open_labels(path)[0]


def open_labels(path: str | Path) -> tuple[LabelArray, ImageMetadata]:
    """Read instance labels and their metadata; see `read_labels`."""
    file = _open(Path(path), AS_THE_FILE_SAYS, labels=True, above=float("inf"))
    labels = np.asarray(file.pixels)
    if labels.dtype.kind == "f" and _is_whole(labels):
        _log.warning("%s: labels are saved as %s; its whole numbers are used", path, labels.dtype)
        labels = labels.astype(np.int64)
    labels = check_labels(labels, str(path))
    changing = _changing(labels)
    if changing > _MOST_CHANGING:
        _log.warning(
            "%s: does not look like labels: %.0f %% of neighbouring pixels have different numbers, "
            "as in a grey image; give the file with one number per object, and 0 where there is "
            "none",
            path, 100 * changing,
        )  # fmt: skip
    return labels, file.metadata


def _changing(labels: LabelArray) -> float:
    """Return the share of pixels side by side, both labelled, that have different labels."""
    labelled = labels > 0
    both = labelled[..., :-1] & labelled[..., 1:]
    changes = np.diff(labels, axis=-1) != 0
    return int(np.count_nonzero(changes & both)) / max(1, int(np.count_nonzero(both)))


def _is_whole(array: PixelArray) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(np.all((array == np.rint(array)) & (np.abs(array) < _LARGEST_WHOLE)))


def image_name(path: str | Path) -> str:
    """Return the file name without its image suffix: ``x`` for ``x.tif`` and ``x.ome.zarr``."""
    name = Path(path).name
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            return name[:-4] if name.lower().endswith(".ome") and len(name) > 4 else name
    return name


def _open(
    path: Path,
    options: ReadOptions,
    *,
    labels: bool = False,
    outline: bool = False,
    above: float | None = None,
) -> ImageFile:
    above = _READ_AT_ONCE if above is None else above
    read = _reader(path, options, labels, outline, above)
    try:
        raw = read()
        if labels:
            _check_no_colours(raw, path)
        view, metadata = arrange(raw, options, str(path), labels=labels)
        size = np.dtype(view.dtype).itemsize * np.prod(view.shape, dtype=float)
        is_lazy = outline or (size > above and not isinstance(raw.array, np.ndarray))
        if not is_lazy and size > _READ_AT_ONCE:
            check_claim(size, stored_bytes(path), path)
        if not is_lazy and not isinstance(raw.array, np.ndarray):
            check_time(_SECONDS_PER_CHUNK * raw.array.nchunks, path)
        # The lower resolutions have the same order of axes and the same channels.
        levels = (
            []
            if view.mix
            else [LazyImage(level, view.axes, view.fixed, view.last) for level in raw.levels]
        )
        pixels = view if is_lazy else view[()]
        if not labels and isinstance(pixels, np.ndarray):
            _tell_not_finite(pixels, path)
        return ImageFile(pixels, metadata, tuple(levels))
    except PeftSamError:
        raise
    except MemoryError as error:
        raise InputFileError(f"{path}: does not fit into memory; use a smaller part") from error
    # The libraries raise all kinds of errors on damaged files, so all are caught.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputFileError(
            f"{path}: cannot be read as {path.suffix.lower() or '.zarr'} ({reason}); the file may "
            "be damaged or not be what its name says"
        ) from error


def _tell_not_finite(pixels: PixelArray, path: Path) -> None:
    """Warn about pixels without a value; where all are, the normalisation refuses the image."""
    count = 0 if pixels.dtype.kind != "f" else pixels.size - np.count_nonzero(np.isfinite(pixels))
    if 0 < count < pixels.size:
        _log.warning(
            "%s: %s not finite (NaN or infinite) and count as the lowest value",
            path, "1 pixel is" if count == 1 else f"{count:,} pixels are",
        )  # fmt: skip


def _check_no_colours(raw: RawImage, path: Path) -> None:
    shape = raw.array.shape
    if any(a in "SC" and n >= _COLOURS for a, n in zip(raw.axes, shape, strict=True)):
        raise LabelError(
            f"{path}: expected one label number per pixel, got a colour image of shape "
            f"{shape}: save the labels as a grey integer image"
        )


def _reader(
    path: Path, options: ReadOptions, labels: bool, outline: bool, above: float
) -> Callable[[], RawImage]:
    if not path.exists():
        raise InputFileError(f"{path}: no such file or folder")
    if is_zarr(path):
        return lambda: read_zarr(path, options, labels=labels)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES or path.is_dir():
        kind = "a folder" if path.is_dir() else f"of unknown kind {suffix or '(no suffix)'}"
        raise InputFileError(
            f"{path}: is {kind}; images are read from {', '.join(IMAGE_SUFFIXES)} files"
        )
    check_file(path)
    if not path.stat().st_size:
        raise InputFileError(f"{path}: is empty (0 bytes); copy or save it again")
    if suffix in _TIFF:
        return lambda: read_tiff(path, options, labels=labels, above=above)
    if suffix in VENDORS:
        return lambda: read_vendor(path, options)
    return (lambda: outline_plain(path)) if outline else (lambda: read_plain(path, labels=labels))


def read_provenance(path: str | Path) -> tuple[dict[str, Any], ...]:
    """Return the records of objects that our own export wrote beside their labels, if any."""
    path = Path(path)
    with suppress(Exception):  # of another program, or damaged: the labels count
        if is_zarr(path):
            return zarr_provenance(path)
        if path.suffix.lower() in _TIFF:
            return tiff_provenance(path)
    return ()
