"""Image planes on grids of tiles, and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from napari_peftsam.embeddings.encode import EncodeEvent, EncodeRequest
from napari_peftsam.embeddings.grid import Tile, TileGrid, tile_grid
from napari_peftsam.embeddings.store import (
    BASE_ADAPTER,
    Embedding,
    EmbeddingKey,
    embedding_key,
    image_signature,
)
from napari_peftsam.errors import PeftSamError
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import Limits, sampled_limits
from napari_peftsam.planes import read_plane, unreadable
from napari_peftsam.types import PixelArray, Plane

__all__ = [
    "EmbedEvent",
    "PlaneEmbedding",
    "PlaneReady",
    "TileRequests",
    "TiledImage",
    "tiled_image",
]


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
    def limits(self) -> Limits | None:
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
        return EncodeRequest(self.name + place, self.read(tile), self.limits)

    @cached_property
    def signature(self) -> str:
        """Hash of the pixels; with several tiles, of shape, type, limits and middle tile."""
        if len(self.grid) == 1:
            return image_signature(self.read(self.grid.tile(0, 0)))
        middle = self.grid.tile_at(self.grid.height / 2, self.grid.width / 2)
        known = (self.plane.shape, self.plane.dtype.str, image_signature(self.read(middle)))
        return xxhash.xxh128_hexdigest(f"{known}{self.limits}".encode())

    def key(self, model: SamModel, adapter: str = BASE_ADAPTER) -> EmbeddingKey:
        """Return the address of the plane's embedding; that of a single tile is the same."""
        return embedding_key(model, self.signature, adapter, self.limits)


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


class TileRequests(Sequence[EncodeRequest]):
    """Tiles to `encode`, read one by one: memory does not depend on how many there are.

    Parameters
    ----------
    image
        The plane.
    tiles
        Its tiles in the order wanted, see `TileGrid.ordered`; default: all, row by row.
    """

    def __init__(self, image: TiledImage, tiles: Sequence[Tile] | None = None) -> None:
        self._image = image
        self.tiles = image.grid.ordered() if tiles is None else tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return TileRequests(self._image, self.tiles[index])
        return self._image.request(self.tiles[index])


def tiled_image(name: str, plane: Plane, model: SamModel) -> TiledImage:
    """Return a plane on the grid of tiles in which `model` works on it."""
    return TiledImage(name, plane, tile_grid(plane.shape, model))
