"""Whether the embeddings of images fit into the store, found out before they are computed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path

from napari_peftsam.embeddings import EmbeddingStore, room_for, tile_grid
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import Architecture

__all__ = ["bytes_of_images", "check_space"]

_DESCRIPTION = 2048  # bytes of an entry beside its values
_PREFIXES = 2  # what a reload starts from, see `Engine.keeps_prefixes`; large images have none


def bytes_of_images(shapes: Iterable[tuple[int, ...]], model: Architecture) -> int:
    """Return the most that the embeddings of images ``(H, W)`` or ``(Z, H, W)`` take."""
    return sum(math.prod(shape[:-2]) * _bytes_of_plane(shape[-2:], model) for shape in shapes)


def _bytes_of_plane(shape: tuple[int, ...], model: Architecture) -> int:
    tokens, number = model.grid**2, 4  # bytes of a float32
    embedding = tokens * model.embedding_width * number + _DESCRIPTION
    tiles = len(tile_grid(shape, model))
    if tiles > 1:
        return tiles * embedding
    prefixes = _PREFIXES if model.adaptable else 0
    return embedding + prefixes * (tokens * model.width * number + _DESCRIPTION)


def check_space(folder: Path, space: int | None, needed: int) -> None:
    """Raise `ConfigurationError` if a store of `space` bytes would lose what was put in first.

    Parameters
    ----------
    folder
        The store; without a `space`, its disk sets the limit.
    needed
        Bytes of all that is to be in it together.
    """
    size = f"the embeddings of these images take up to {needed / 1e9:.3g} GB"
    if space is not None and room_for(needed) > space:
        wanted = math.ceil(room_for(needed) / 1e6) / 1e3
        raise ConfigurationError(
            f"{size}, but {folder} may hold {space / 1e9:.3g} GB: the first ones would be removed "
            f"for the last; give --space {wanted:g}, or fewer images"
        )
    if space is None and needed > (free := shutil.disk_usage(folder).free):
        # Looking through the folder takes time, so only now: what is there is not made again.
        known = EmbeddingStore(folder).size_bytes()
        if needed > free + known:
            raise ConfigurationError(
                f"{size}, but there are {free / 1e9:.3g} GB free for {folder}: choose a --store "
                "on a larger disk, or fewer images"
            )
