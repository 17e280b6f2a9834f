"""Labels as compressed tiles: what a project stores of an image's pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_peftsam.document.codec import compress, decompress
from napari_peftsam.document.objects import ImageId
from napari_peftsam.document.regions import Integers
from napari_peftsam.errors import ProjectError

__all__ = ["SIDE", "TileKey", "put_tile", "tile_bytes", "tiles_at"]

SIDE = 512
"""Pixels along a tile's sides; tiles at the bottom and right edges are smaller."""


class TileKey(NamedTuple):
    """Addresses a tile: image, label set, number of the plane, row and column of the tile."""

    image: ImageId
    label_set: str
    plane: int
    row: int
    col: int

    def window(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """Return the index of the tile's pixels in an array ``(..., H, W)`` of `shape`."""
        leading = tuple(int(i) for i in np.unravel_index(self.plane, shape[:-2]))
        top, left = self.row * SIDE, self.col * SIDE
        return (*leading, slice(top, top + SIDE), slice(left, left + SIDE))


def tiles_at(
    image: ImageId, label_set: str, where: list[Integers], shape: tuple[int, ...]
) -> Iterator[TileKey]:
    """Yield the tiles that hold these flat positions of an array of `shape`."""
    height, width = shape[-2:]
    rows, cols = -(-height // SIDE), -(-width // SIDE)
    numbers: set[int] = set()
    for positions in where:
        plane, inside = np.divmod(positions, height * width)
        row, col = np.divmod(inside, width)
        found = (plane * rows + row // SIDE) * cols + col // SIDE
        changes = np.flatnonzero(found[1:] != found[:-1]) + 1
        numbers |= {int(found[0]), *found[changes].tolist()}
    for number in sorted(numbers):
        rest, col_number = divmod(number, cols)
        plane_number, row_number = divmod(rest, rows)
        yield TileKey(image, label_set, plane_number, row_number, col_number)


def tile_bytes(array: npt.NDArray[Any], key: TileKey) -> bytes | None:
    """Return a tile of an array, compressed; None if all of it is 0."""
    tile = array[key.window(array.shape)]
    return compress(np.ascontiguousarray(tile).tobytes()) if tile.any() else None


def put_tile(array: npt.NDArray[Any], key: TileKey, data: bytes) -> None:
    """Write a compressed tile into an array.

    Raises
    ------
    ProjectError
        If the bytes are damaged or do not fit.
    """
    view = array[key.window(array.shape)]
    plain = decompress(data)
    if len(plain) != view.nbytes:
        raise ProjectError(f"a tile of {key.image!r} has {len(plain)} bytes, not {view.nbytes}")
    view[...] = np.frombuffer(plain, array.dtype).reshape(view.shape)
