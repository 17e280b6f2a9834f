"""Reader of TIFF files; LZW and JPEG compression go through Pillow."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
import tifffile

from napari_peftsam.errors import InputFileError
from napari_peftsam.types import PixelArray

__all__ = ["outline_tiff", "read_tiff"]

_log = logging.getLogger(__name__)


def read_tiff(path: Path, labels: bool) -> tuple[PixelArray, str]:
    """Return the first series of a TIFF and one letter per axis.

    With `labels`, the numbers of a palette image are returned instead of its colours.
    """
    with tifffile.TiffFile(path) as tiff:
        _check_complete(tiff, path)
        if len(tiff.series) > 1:
            _log.warning("%s holds %d series, only the first is read", path, len(tiff.series))
        return _read_series(tiff.series[0], path, labels)


def outline_tiff(path: Path) -> tuple[PixelArray, str]:
    """Return an array of the shape and type of a TIFF, not its pixels, and its axes."""
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        return np.broadcast_to(np.zeros((), series.dtype), series.shape), series.axes


def _check_complete(tiff: tifffile.TiffFile, path: Path) -> None:
    """Raise if the chain of pages breaks off: tifffile would return fewer planes."""
    last, layout, file = tiff.pages[-1], tiff.tiff, tiff.filehandle
    file.seek(last.offset)
    (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    file.seek(last.offset + layout.tagnosize + tags * layout.tagsize)
    following = file.read(layout.offsetsize)
    if following.strip(b"\0") or len(following) < layout.offsetsize:
        raise InputFileError(
            f"{path}: the file breaks off after {len(tiff.pages)} pages; copy or save it again"
        )


def _read_series(
    series: tifffile.TiffPageSeries, path: Path, labels: bool
) -> tuple[PixelArray, str]:
    try:
        array, axes = np.asarray(series.asarray()), series.axes
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _read_with_pillow(series, path)
    page = series.keyframe
    if (
        not labels
        and page.photometric == tifffile.PHOTOMETRIC.PALETTE
        and page.colormap is not None
    ):
        return np.moveaxis(page.colormap[:, array], 0, -1), axes + "S"
    return array, axes


def _read_with_pillow(series: tifffile.TiffPageSeries, path: Path) -> tuple[PixelArray, str]:
    """Read what tifffile needs the optional imagecodecs for (LZW, JPEG)."""
    from PIL import Image

    planes = []
    with Image.open(path) as image:
        for page in series.pages:
            image.seek(int(page.index))  # type: ignore[union-attr]
            planes.append(np.asarray(image))
    leading = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if a not in "YXS"]
    shape = tuple(n for _, n in leading) + planes[0].shape
    axes = "".join(a for a, _ in leading) + "YXS"[: planes[0].ndim]
    return np.stack(planes).reshape(shape), axes
