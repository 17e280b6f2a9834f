"""Reader of PNG, JPEG, BMP and WebP files by Pillow, and by imagecodecs where that has 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.errors import InputFileError, LabelError
from napari_peftsam.limits import check_claim, check_time, stored_bytes

from ._arrange import RawImage
from ._claims import check_coded

# Pillow goes by the content and has readers that start other programs.
_FORMATS = {
    ".png": ("PNG",), ".jpg": ("JPEG",), ".jpeg": ("JPEG",), ".bmp": ("BMP",), ".webp": ("WEBP",)
}  # fmt: skip
_DENSEST = 10_000  # pixels of a byte; a PNG may hold 8,000, a JPEG 500
_WEBP = 16  # bytes that decoding a pixel takes, with the copies that Pillow makes
_SECONDS_PER_RUN = 2e-7  # of a pixel of compressed BMP, which Pillow reads in Python
_LOSSY = ("JPEG", "MPO", "WEBP")
_PNG_DEPTH, _PNG_KIND = 24, 25  # positions of the bit depth and the colour type in a PNG
_WITH_COLOUR_OR_ALPHA = (2, 4, 6)
_DEEP = 16


def read_plain(path: Path, *, labels: bool) -> RawImage:
    """Read an image; with `labels`, the numbers of a palette instead of its colours.

    The orientation in a photograph's metadata is applied. Lossy labels are a `LabelError`.
    """
    from PIL import Image, ImageOps

    with _large_allowed(), Image.open(path, formats=_FORMATS[path.suffix.lower()]) as opened:
        _check_size(opened, path)
        if labels and opened.format in _LOSSY and not _is_lossless(path):
            raise LabelError(
                f"{path}: {opened.format} changes label numbers, so objects are lost and appear: "
                "save the labels as PNG or TIFF"
            )
        if opened.format in ("JPEG", "MPO"):
            check_coded(path.read_bytes(), opened.width * opened.height, path)
        if _is_deep_png(path):
            import imagecodecs

            array = np.asarray(imagecodecs.png_decode(path.read_bytes()))
        else:
            image: Any = ImageOps.exif_transpose(opened) if not labels else opened
            palette = image.mode in ("P", "PA") and not labels
            foreign = image.mode in ("CMYK", "YCbCr", "LAB", "HSV")
            mode = "RGBA" if palette and "transparency" in image.info else "RGB"
            if image.mode == "La":  # alpha that grey values were multiplied by
                mode, foreign = "LA", True
            elif image.mode == "RGBa":
                mode, foreign = "RGBA", True
            array = np.asarray(image.convert(mode) if palette or foreign else image)
    return RawImage(array, "YXS"[: array.ndim])


def _check_size(image: Any, path: Path) -> None:
    """Raise if an image takes too much memory, or more than its file can hold; not decoded yet."""
    pixels, stored = image.width * image.height, stored_bytes(path)
    values = pixels * len(image.getbands())
    if image.format == "WEBP":
        check_claim(_WEBP * pixels, stored, path)
    check_claim(values * (4 if image.mode.startswith(("I", "F")) else 2), stored, path)
    if any(tile[0] == "bmp_rle" for tile in image.tile):
        check_time(_SECONDS_PER_RUN * pixels, path)
    if image.format in ("PNG", "JPEG", "BMP") and values > _DENSEST * stored:
        raise InputFileError(f"{path}: is too short for {image.width} x {image.height} pixels")


def outline_plain(path: Path) -> RawImage:
    """Return an image of the right height and width, of which no pixels are read."""
    from PIL import Image

    with _large_allowed(), Image.open(path, formats=_FORMATS[path.suffix.lower()]) as image:
        _check_size(image, path)  # reading the orientation may read all
        sides = image.size[::-1]
        if image.getexif().get(_ORIENTATION, 1) >= _TURNED:
            sides = sides[::-1]
        return RawImage(np.broadcast_to(np.uint8(0), sides), "YX")


_ORIENTATION, _TURNED = 0x0112, 5  # from 5 on, height and width are exchanged


def _is_deep_png(path: Path) -> bool:
    """Return True for 16 bits in colour or with alpha, which Pillow cuts to 8."""
    with path.open("rb") as file:
        head = file.read(_PNG_KIND + 1)
    is_png = head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) > _PNG_KIND
    return is_png and head[_PNG_DEPTH] == _DEEP and head[_PNG_KIND] in _WITH_COLOUR_OR_ALPHA


def _is_lossless(path: Path) -> bool:
    """Return True for WebP that is compressed without loss."""
    with path.open("rb") as file:
        return b"VP8L" in file.read(64)


@contextmanager
def _large_allowed() -> Iterator[None]:
    """Let Pillow open large microscopy images, which are no attack; twice the limit is an error."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
