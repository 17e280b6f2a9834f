"""A large image plane as tiles: what each holds, and how all of them are embedded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xxhash

from napari_peftsam.embeddings._embedding import (
    BASE_ADAPTER,
    EmbeddingKey,
    image_signature,
)
from napari_peftsam.embeddings.encode import EncodeEvent, EncodeRequest
from napari_peftsam.embeddings.grid import Tile, TileGrid, tile_grid
from napari_peftsam.errors import PeftSamError
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import Limits, sampled_limits
from napari_peftsam.planes import read_plane, unreadable
from napari_peftsam.types import PixelArray, Plane

__all__ = [
    "EmbedEvent",
    "TileRequests",
    "TiledEmbedding",
    "TiledImage",
    "TilesReady",
    "tiled_image",
]


@dataclass(frozen=True, eq=False)
class TiledImage:
    """A large plane with its tiles; pixels are read when they are asked for.

    Attributes
    ----------
    name
        For messages.
    plane
        ``(H, W)`` or ``(H, W, 3)``, e.g. a zarr array; only ever read in parts.
    grid
        Its tiles.
    """

    name: str
    plane: Plane = field(repr=False)
    grid: TileGrid

    @cached_property
    def limits(self) -> Limits:
        """The intensity limits of the whole plane, by which all tiles are normalised.

        Found at the first use, from a sample that is spread over the plane.

        Raises
        ------
        ImageError
            If the plane is constant, has no finite value, or cannot be read.
        """
        try:
            return sampled_limits(self.plane)
        except PeftSamError as error:
            raise type(error)(f"{self.name}: {error}") from error
        except Exception as error:  # libraries raise all kinds of errors on damaged files
            raise unreadable(self.name, error) from error

    def read(self, tile: Tile) -> PixelArray:
        """Return the pixels of a tile; over the image's end, its last pixels are repeated.

        Raises
        ------
        ImageError
            If they cannot be read.
        """
        inside = tile.window & self.grid.window
        pixels = read_plane(self.plane, self.name, inside.slices)
        missing = [n - m for n, m in zip(tile.window.shape, inside.shape, strict=True)]
        if any(missing):
            rest = [(0, 0)] * (pixels.ndim - 2)
            pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), *rest], mode="edge")
        return pixels

    def request(self, tile: Tile) -> EncodeRequest:
        """Return what `encode` needs to embed a tile."""
        name = f"{self.name} [{tile.row}, {tile.col}]"
        return EncodeRequest(name, self.read(tile), self.limits)

    @cached_property
    def signature(self) -> str:
        """Tells images apart by shape, type, limits and their middle tile; not every pixel."""
        middle = self.grid.tile_at(self.grid.height / 2, self.grid.width / 2)
        known = (self.plane.shape, self.plane.dtype.str, image_signature(self.read(middle)))
        return xxhash.xxh128_hexdigest(f"{known}{self.limits}".encode())

    def embedding(self, model: SamModel, adapter: str = BASE_ADAPTER) -> TiledEmbedding:
        """Return what stands for the embedding of the whole plane; none is computed."""
        key = EmbeddingKey(
            self.signature,
            model.weights_hash,
            adapter,
            self.limits.name,
            model.image_size,
            model.precision,
        )
        return TiledEmbedding(key, self)


@dataclass(frozen=True, eq=False)
class TiledEmbedding:
    """A large plane as the mask decoder may come to see it: its tiles are embedded on demand.

    Attributes
    ----------
    key
        Names model, adapter and image, like that of an `Embedding`; each tile has a key of
        its own.
    image
        The plane and its tiles.
    """

    key: EmbeddingKey
    image: TiledImage = field(repr=False)


@dataclass(frozen=True, eq=False)
class TilesReady:
    """A large plane can be prompted: its tiles are embedded when they are needed."""

    name: str
    embedding: TiledEmbedding


EmbedEvent = EncodeEvent | TilesReady


class TileRequests(Sequence[EncodeRequest]):
    """Tiles to `encode`, read one by one: memory does not depend on how many there are.

    Parameters
    ----------
    image
        Whose tiles.
    tiles
        Which and in what order; default: all, row by row. See `TileGrid.ordered`.
    """

    def __init__(self, image: TiledImage, tiles: Iterable[Tile] | None = None) -> None:
        self._image = image
        chosen = image.grid.ordered() if tiles is None else tiles
        self.tiles: Sequence[Tile] = chosen if isinstance(chosen, Sequence) else tuple(chosen)

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return TileRequests(self._image, self.tiles[index])
        return self._image.request(self.tiles[index])


def tiled_image(name: str, plane: Plane, model: SamModel) -> TiledImage:
    """Return a plane that is too large for one frame of `model` (see `is_large`) in tiles."""
    return TiledImage(name, plane, tile_grid(plane.shape, model))
