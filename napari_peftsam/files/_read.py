"""Readers of images and label images: TIFF, PNG, JPEG or zarr."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.errors import InputFileError, LabelError, PeftSamError
from napari_peftsam.geometry import check_labels
from napari_peftsam.planes import LazyImage
from napari_peftsam.types import LabelArray, PixelArray

from ._axes import arrange, arrange_lazily
from ._tiff import outline_tiff, read_tiff
from ._zarr import is_zarr, read_zarr

__all__ = [
    "IMAGE_SUFFIXES",
    "image_name",
    "image_shape",
    "open_image",
    "read_image",
    "read_labels",
]

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".zarr")
"""Suffixes that can be read; ``.ome.tif`` and ``.ome.zarr`` are included by their last part."""

_TIFF = (".tif", ".tiff")
_Reader = Callable[[Path, bool], tuple[Any, str]]
_COLOURS = 3
_READ_AT_ONCE = 2**26  # bytes


def read_image(path: str | Path) -> PixelArray:
    """Read an image or a stack.

    TIFF (also OME-TIFF, ImageJ and LZW), PNG, JPEG, and zarr version 2 or 3: an array, a
    group with a single array, or OME-Zarr, of which the full resolution is read. Alpha is
    dropped, palettes become colours, axes of length one vanish.

    Returns
    -------
    numpy.ndarray
        ``(H, W)``, ``(H, W, 3)``, ``(Z, H, W)`` or ``(Z, H, W, 3)`` in the file's own type.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, of an unknown kind, or has other axes.
    """
    return np.asarray(_read(Path(path), labels=False))


def open_image(path: str | Path) -> PixelArray | LazyImage:
    """Open an image or a stack; a zarr above 64 MiB is read in parts, when they are used.

    Accepts the files, and has the shapes and errors, of `read_image`.
    """
    opened: PixelArray | LazyImage = _read(Path(path), labels=False, lazily=True)
    return opened


def image_shape(path: str | Path) -> tuple[int, ...]:
    """Return the shape ``(H, W)`` or ``(Z, H, W)`` of an image or a stack; reads no pixels.

    Accepts the files and raises the errors of `read_image`; damaged pixels go unnoticed.
    """
    shape: tuple[int, ...] = _read(Path(path), labels=False, outlined=True).shape
    return shape[:-1] if len(shape) > 2 and shape[-1] == _COLOURS else shape


def read_labels(path: str | Path) -> LabelArray:
    """Read instance labels, from the same kinds of file as `read_image`.

    The numbers of a palette image are the labels; of an OME-Zarr image with one label
    image inside, that one is read; booleans become 0 and 1.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` or ``(Z, H, W)`` integers, 0 is unlabelled.

    Raises
    ------
    InputFileError
        As `read_image`.
    LabelError
        If the labels are not whole numbers of at least 0, or are a colour image.
    """
    return check_labels(np.asarray(_read(Path(path), labels=True)), str(path))


def image_name(path: str | Path) -> str:
    """Return the file name without its image suffix: ``x`` for ``x.tif`` and ``x.ome.zarr``."""
    name = Path(path).name
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            return name[:-4] if name.lower().endswith(".ome") and len(name) > 4 else name
    return name


def _read(path: Path, labels: bool, lazily: bool = False, outlined: bool = False) -> Any:
    reader = _reader_for(path)
    try:
        array, axes = (_outline if outlined else reader)(path, labels)
        if labels:
            _check_no_colours(array.shape, axes, path)
        if outlined or (lazily and is_zarr(path) and array.nbytes > _READ_AT_ONCE):
            return arrange_lazily(array, axes, str(path))
        return arrange(array, axes, str(path))
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


def _check_no_colours(shape: tuple[int, ...], axes: str, path: Path) -> None:
    if any(a in "SC" and n >= _COLOURS for a, n in zip(axes, shape, strict=True)):
        raise LabelError(
            f"{path}: expected one label number per pixel, got a colour image of shape "
            f"{shape}: save the labels as a grey integer image"
        )


def _reader_for(path: Path) -> _Reader:
    if not path.exists():
        raise InputFileError(f"{path}: no such file or folder")
    if is_zarr(path):
        return read_zarr
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES or path.is_dir():
        kind = "a folder" if path.is_dir() else f"of unknown kind {suffix or '(no suffix)'}"
        raise InputFileError(
            f"{path}: is {kind}; images are read from {', '.join(IMAGE_SUFFIXES)} files"
        )
    return read_tiff if suffix in _TIFF else _read_plain


def _outline(path: Path, labels: bool) -> tuple[Any, str]:
    """Return an array of the right shape, perhaps without colours, and its axes."""
    if is_zarr(path):
        return read_zarr(path, labels)
    if path.suffix.lower() in _TIFF:
        return outline_tiff(path)
    from PIL import Image

    with _large_allowed(), Image.open(path) as image:
        return np.broadcast_to(np.uint8(0), image.size[::-1]), "YX"


@contextmanager
def _large_allowed() -> Iterator[None]:
    """Let Pillow open large microscopy images, which are no attack; twice the limit is an error."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _read_plain(path: Path, labels: bool) -> tuple[PixelArray, str]:
    from PIL import Image

    with _large_allowed(), Image.open(path) as image:
        palette = image.mode in ("P", "PA") and not labels
        foreign = image.mode in ("CMYK", "YCbCr", "LAB", "HSV")
        array = np.asarray(image.convert("RGB") if palette or foreign else image)
    return array, "YXS"[: array.ndim]
