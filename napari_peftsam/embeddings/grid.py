"""Image planes on grids of overlapping tiles; a small plane is a grid of one tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from napari_peftsam.embeddings.encode import EncodeEvent, EncodeRequest
from napari_peftsam.embeddings.store import (
    BASE_ADAPTER,
    Embedding,
    EmbeddingKey,
    embedding_key,
    image_signature,
)
from napari_peftsam.errors import PeftSamError
from napari_peftsam.models import Architecture, SamModel
from napari_peftsam.normalisation import Limits, sampled_limits
from napari_peftsam.planes import read_plane, unreadable
from napari_peftsam.types import PixelArray, Plane, Window

__all__ = [
    "MOST_FRAMES",
    "EmbedEvent",
    "PlaneEmbedding",
    "PlaneReady",
    "Tile",
    "TileGrid",
    "TiledImage",
    "tile_grid",
    "tiled_image",
]

MOST_FRAMES = 3
"""A plane whose longer side is above this many model frames is cut into tiles.

Up to it, the plane as a whole is scaled to the frame. With SAM's 1024 pixels the border
is at 3072: what one camera takes at once (2048 to 2560 pixels as a rule) stays one frame,
while a nucleus of 30 pixels keeps at least ten of the model's. What is larger is a mosaic
or a slide scan, whose objects would vanish.
"""
_HALO = 8  # the halo is this part of a tile's side


@dataclass(frozen=True)
class Tile:
    """One tile of a `TileGrid`.

    Attributes
    ----------
    row, col
        Its place in the grid.
    window
        The pixels that are encoded together: the core with its halo. All tiles of a grid
        have the same shape; the last ones may reach over the end of the image by less
        than one pixel of the decoder's logits.
    core
        The pixels for which this tile sees most around them; cores do not overlap and
        together cover the image.
    """

    row: int
    col: int
    window: Window
    core: Window


@dataclass(frozen=True)
class _Axis:
    """One axis of a grid; see `TileGrid`."""

    length: int
    side: int
    halo: int
    stride: int

    @property
    def size(self) -> int:
        """Pixels of a tile along this axis."""
        return min(self.side, _rounded_up(self.length, self.stride))

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """First pixel of each tile, multiples of the stride, evenly spread."""
        covered = _rounded_up(self.length, self.stride)
        if covered == self.size:
            return np.zeros(1, np.int64)
        count = -(-(covered - 2 * self.halo) // (self.size - 2 * self.halo))
        steps = (covered - self.size) // self.stride
        return np.arange(count) * steps // (count - 1) * self.stride

    @cached_property
    def bounds(self) -> npt.NDArray[np.int64]:
        """Starts of the cores, and the end of the last: the middles of the overlaps."""
        middles = (self.starts[1:] + self.starts[:-1] + self.size) // 2
        return np.concatenate([[0], middles, [self.length]])

    def place(self, pixel: float) -> int:
        """Return the tile whose core holds a pixel; the nearest for one outside."""
        found = int(np.searchsorted(self.bounds, pixel, side="right")) - 1
        return min(max(found, 0), len(self.starts) - 1)


def _rounded_up(length: int, step: int) -> int:
    return -(-length // step) * step


@dataclass(frozen=True)
class TileGrid:
    """Tiles over a plane of ``height x width`` pixels, each a core with a halo around it.

    Tiles are made on request, so the cost of a grid does not depend on the plane's size.

    Attributes
    ----------
    height, width
        Size of the plane in pixels.
    side
        Side of a tile in pixels; at most the plane's length along each axis.
    halo
        Neighbouring tiles overlap by at least twice as many pixels.
    stride
        Image pixels per pixel of the decoder's logits. All tiles begin at multiples of
        it, so that the logits of all tiles lie on one lattice.
    """

    height: int
    width: int
    side: int
    halo: int
    stride: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return len(self._rows.starts), len(self._cols.starts)

    def __len__(self) -> int:
        """Return the number of tiles."""
        rows, cols = self.shape
        return rows * cols

    @property
    def window(self) -> Window:
        """The whole plane."""
        return Window(0, 0, self.height, self.width)

    def tile(self, row: int, col: int) -> Tile:
        """Return the tile at a place of the grid."""
        rows, cols = self._rows, self._cols
        window = Window(int(rows.starts[row]), int(cols.starts[col]), rows.size, cols.size)
        top, bottom = rows.bounds[row : row + 2].tolist()
        left, right = cols.bounds[col : col + 2].tolist()
        return Tile(row, col, window, Window(top, left, bottom - top, right - left))

    def tile_at(self, row: float, col: float) -> Tile:
        """Return the tile whose core holds a pixel."""
        return self.tile(self._rows.place(row), self._cols.place(col))

    def tiles_in(self, window: Window) -> tuple[Tile, ...]:
        """Return the tiles whose cores a window touches, row by row."""
        window = window & self.window
        if not window:
            return ()
        bottom, right = window.stop
        rows = range(self._rows.place(window.row), self._rows.place(bottom - 1) + 1)
        cols = range(self._cols.place(window.col), self._cols.place(right - 1) + 1)
        return tuple(self.tile(row, col) for row, col in product(rows, cols))

    def count_by_tile(
        self, rows: npt.NDArray[np.integer[Any]], cols: npt.NDArray[np.integer[Any]]
    ) -> dict[Tile, int]:
        """Return the tiles whose cores hold any of N pixels, and how many each holds."""
        places = [
            np.clip(np.searchsorted(axis.bounds, at, side="right") - 1, 0, len(axis.starts) - 1)
            for axis, at in ((self._rows, rows), (self._cols, cols))
        ]
        found, counts = np.unique(np.stack(places), axis=1, return_counts=True)
        return {
            self.tile(row, col): count
            for (row, col), count in zip(found.T.tolist(), counts.tolist(), strict=True)
        }

    def ordered(self, first: Window | None = None, part: slice = slice(None)) -> list[Tile]:
        """Return all tiles, or a part of them, in the order of reading.

        With a window `first`, the nearest to it come first, its own from its middle outwards.
        """
        places = np.indices(self.shape).reshape(2, -1)
        if first is not None:
            places = places[:, np.argsort(self._distances(first).ravel(), kind="stable")]
        return [self.tile(row, col) for row, col in places[:, part].T.tolist()]

    def _distances(self, window: Window) -> npt.NDArray[np.float64]:
        """Return how far each core is from a window, then from its middle; ``shape``."""
        near, middle = [], []
        for axis, start, stop in zip(
            (self._rows, self._cols), (window.row, window.col), window.stop, strict=True
        ):
            low, high = axis.bounds[:-1], axis.bounds[1:]
            near.append(np.maximum(0, np.maximum(low - stop + 1, start - high + 1)))
            middle.append(np.abs((low + high) / 2 - (start + stop) / 2))
        outside = np.hypot(near[0][:, None], near[1])
        # The second only decides where the first is equal, e.g. for all that is visible.
        return outside + 1e-6 * np.hypot(middle[0][:, None], middle[1])

    @cached_property
    def _rows(self) -> _Axis:
        return _Axis(self.height, self.side, self.halo, self.stride)

    @cached_property
    def _cols(self) -> _Axis:
        return _Axis(self.width, self.side, self.halo, self.stride)


def tile_grid(shape: tuple[int, ...], model: SamModel | Architecture) -> TileGrid:
    """Return the tile grid of a plane ``(H, W[, 3])`` for a model.

    Up to `MOST_FRAMES` model frames, the grid has one tile, which is scaled to the frame.
    The tiles of a larger plane are frames at the resolution of the image.
    """
    architecture = model if isinstance(model, Architecture) else model.architecture
    height, width = shape[:2]
    side, stride = architecture.image_size, architecture.patch_size // 4
    if max(height, width) <= MOST_FRAMES * side:
        return TileGrid(height, width, max(height, width), 0, 1)
    return TileGrid(height, width, side, _rounded_up(side // _HALO, stride), stride)


# --- planes on grids ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TiledImage:
    """An image plane on a grid of tiles; pixels are read when they are asked for.

    Attributes
    ----------
    name
        For messages.
    plane
        ``(H, W)`` or ``(H, W, 3)``, e.g. a zarr array; with several tiles read in parts only.
    grid
        Its tiles; one if the plane as a whole is scaled to the model's frame.
    """

    name: str
    plane: Plane = field(repr=False)
    grid: TileGrid

    @cached_property
    def intensity_range(self) -> Limits | None:
        """Intensity range of the plane, common to its tiles; None if there is only one.

        Found at the first use, from a sample that is spread over the plane.

        Raises
        ------
        ImageError
            If the plane is constant, has no finite value, or cannot be read.
        """
        if len(self.grid) == 1:
            return None
        try:
            return sampled_limits(self.plane)
        except PeftSamError as error:
            raise type(error)(f"{self.name}: {error}") from error
        except Exception as error:  # libraries raise all kinds of errors on damaged files
            raise unreadable(self.name, error) from error

    def read(self, tile: Tile) -> PixelArray:
        """Return the pixels of a tile; beyond the image's end, its last pixels are repeated."""
        inside = tile.window & self.grid.window
        pixels = read_plane(self.plane, self.name, inside.slices)
        missing = [n - m for n, m in zip(tile.window.shape, inside.shape, strict=True)]
        if any(missing):
            rest = [(0, 0)] * (pixels.ndim - 2)
            pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), *rest], mode="edge")
        return pixels

    def request(self, tile: Tile) -> EncodeRequest:
        """Return the request with which `encode` embeds a tile."""
        place = f" [{tile.row}, {tile.col}]" if len(self.grid) > 1 else ""
        return EncodeRequest(self.name + place, self.read(tile), self.intensity_range)

    def requests(self, tiles: Sequence[Tile] | None = None) -> list[Callable[[], EncodeRequest]]:
        """Return what `encode` needs to read and embed tiles one by one; default: all."""
        tiles = self.grid.ordered() if tiles is None else tiles
        return [partial(self.request, tile) for tile in tiles]

    @cached_property
    def signature(self) -> str:
        """Hash of the pixels; with several tiles, of shape, type, range and middle tile."""
        if len(self.grid) == 1:
            return image_signature(self.read(self.grid.tile(0, 0)))
        middle = self.grid.tile_at(self.grid.height / 2, self.grid.width / 2)
        known = (self.plane.shape, self.plane.dtype.str, image_signature(self.read(middle)))
        return xxhash.xxh128_hexdigest(f"{known}{self.intensity_range}".encode())

    def key(self, model: SamModel, adapter: str = BASE_ADAPTER) -> EmbeddingKey:
        """Return the address of the plane's embedding; that of a single tile is the same."""
        return embedding_key(model, self.signature, adapter, self.intensity_range)


@dataclass(frozen=True, eq=False)
class PlaneEmbedding:
    """An image plane as the mask decoder sees it, tile by tile.

    Attributes
    ----------
    key
        Address of the plane, its model and adapter; each of several tiles has its own.
    image
        The plane and its tiles.
    whole
        Embedding of the only tile; None if there are several, which are embedded on demand.
    """

    key: EmbeddingKey
    image: TiledImage = field(repr=False)
    whole: Embedding | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class PlaneReady:
    """A plane can be prompted: its only tile is embedded, or several are on demand."""

    name: str
    embedding: PlaneEmbedding


EmbedEvent = EncodeEvent | PlaneReady


def tiled_image(name: str, plane: Plane, model: SamModel) -> TiledImage:
    """Return a plane on the grid of tiles in which `model` works on it."""
    return TiledImage(name, plane, tile_grid(plane.shape, model))
