"""Image planes that lie on disk and are read in parts."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_peftsam.errors import ImageError
from napari_peftsam.types import PixelArray, Plane


@dataclass(frozen=True, eq=False)
class LazyImage:
    """A view of an array on disk: other order of axes, some of them fixed, nothing read yet.

    Slices and numbers as keys read what they cover; `numpy.asarray` reads all of it.

    Attributes
    ----------
    source
        The array that holds the values, e.g. of zarr or dask.
    axes
        For each axis of the view the axis of the source.
    fixed
        Positions along the axes of the source that the view does not have.
    last
        Length of the view's last axis where it is cut, e.g. to leave alpha out.
    mix
        For each colour of the last axis the position along its axis of the source, and the
        factor on its values; further colours are 0. Empty: as they are.
    """

    source: Any = field(repr=False)
    axes: tuple[int, ...]
    fixed: tuple[tuple[int, int], ...] = ()
    last: int | None = None
    mix: tuple[tuple[int, float], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the view."""
        shape = tuple(int(self.source.shape[axis]) for axis in self.axes)
        return shape if self.last is None else (*shape[:-1], self.last)

    @property
    def ndim(self) -> int:
        """Number of the view's axes."""
        return len(self.axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, in the machine's byte order."""
        native: np.dtype[Any] = np.dtype(self.source.dtype).newbyteorder("=")
        return native

    def __getitem__(self, key: Any) -> PixelArray:
        """Read a part: slices without step and numbers, the remaining axes whole."""
        given = _all_axes(key if isinstance(key, tuple) else (key,), self.ndim)
        parts = [_bounds(k, n) for k, n in zip(given, self.shape, strict=True)]
        at: list[Any] = [0] * len(self.source.shape)
        for axis, position in self.fixed:
            at[axis] = position
        for axis, part in zip(self.axes, parts, strict=True):
            at[axis] = part
        if self.mix:
            at[self.axes[-1]] = slice(None)
        values = np.asarray(self.source[tuple(at)])
        kept = sorted(self.axes)  # in the order in which the source returns them
        values = values.transpose([kept.index(axis) for axis in self.axes])
        if self.mix:
            values = self._mixed(values)[..., parts[-1]]
        values = values[tuple(slice(None) if isinstance(k, slice) else 0 for k in given)]
        return np.ascontiguousarray(values, self.dtype)

    def _mixed(self, channels: PixelArray) -> PixelArray:
        """Return colours ``(..., 3)`` of channels ``(..., C)``."""
        colours = np.zeros((*channels.shape[:-1], self.last or len(self.mix)), self.dtype)
        for colour, (position, factor) in enumerate(self.mix):
            values = channels[..., position]
            if factor != 1:
                values = _in_range(values * np.float64(factor), self.dtype)
            colours[..., colour] = values
        return colours

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> PixelArray:
        """Read all of it."""
        values = self[()]
        return values if dtype is None else values.astype(dtype, copy=False)


def plane_of(pixels: Any, index: tuple[int, ...]) -> Plane:
    """Return one plane of an image or stack ``(..., H, W[, 3|4])`` without reading it.

    A numpy array gives a view.

    Parameters
    ----------
    pixels
        Anything with shape, type and slices.
    index
        Position along the leading axes.
    """
    if isinstance(pixels, np.ndarray):
        plane: Plane = pixels[index]
        return plane
    if not index:
        whole: Plane = pixels
        return whole
    axes = tuple(range(len(index), len(pixels.shape)))
    return LazyImage(pixels, axes, tuple(enumerate(index)))


def read_plane(plane: Plane, name: str, part: tuple[slice, ...] = ()) -> PixelArray:
    """Return the values of a plane, or of a part of it; of a numpy array a view.

    Raises
    ------
    ImageError
        If they cannot be read; it names the image `name`.
    """
    try:
        return np.asarray(plane[part] if part else plane)
    except Exception as error:  # libraries raise all kinds of errors on damaged files
        raise unreadable(name, error) from error


def unreadable(name: str, error: Exception) -> ImageError:
    """Return the error of an image whose values cannot be read."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ImageError(
        f"{name}: a part of the image cannot be read ({reason}); the file may be damaged"
    )


def plane_identity(plane: Plane) -> Hashable:
    """Return an identity shared by views of the same part of one array, while it is alive."""
    if isinstance(plane, LazyImage):
        return id(plane.source), plane.axes, plane.fixed, plane.last, plane.mix
    if isinstance(plane, np.ndarray):
        return plane.ctypes.data, plane.shape, plane.strides, plane.dtype
    return id(plane)


def _in_range(values: PixelArray, kind: np.dtype[Any]) -> PixelArray:
    """Return values in a type, cut to its range."""
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(kind)


def _all_axes(key: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """Return a key for every axis: `...`, or what is left out at the end, are whole ones."""
    whole = (slice(None),) * (ndim - len(key) + (Ellipsis in key))
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    return (*key[:at], *whole, *key[at + 1 :])


def _bounds(key: Any, length: int) -> slice:
    if isinstance(key, slice):
        start, stop, step = key.indices(length)
        if step != 1:
            raise IndexError(f"a part of an image is read without steps, got {key}")
        return slice(start, max(start, stop))
    position = int(key)
    if not -length <= position < length:
        raise IndexError(f"position {position} is outside an axis of {length}")
    position %= length
    return slice(position, position + 1)
