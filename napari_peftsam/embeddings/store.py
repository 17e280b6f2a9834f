"""Image embeddings, their addresses, and their store on disk: zarr arrays by content hash."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from napari_peftsam.embeddings._entries import LOOK_SHARE, Entry, EntryFolder
from napari_peftsam.errors import ImageError
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import NORMALISATION, Limits
from napari_peftsam.types import FloatArray, Frame, PixelArray

__all__ = [
    "BASE_ADAPTER",
    "DEFAULT_STORE_BYTES",
    "Embedding",
    "EmbeddingKey",
    "EmbeddingStore",
    "embedding_key",
    "image_signature",
    "room_for",
]

BASE_ADAPTER = "base"
"""The adapter part of a key when the model runs without an adapter."""
DEFAULT_STORE_BYTES = 4 * 1000**3
"""Disk space of a store, in bytes: some 250 images of a ViT-B with what a reload needs."""


@dataclass(frozen=True)
class EmbeddingKey:
    """Everything an embedding depends on; equal keys mean equal embeddings.

    Attributes
    ----------
    image
        `image_signature` of the pixels.
    model
        Hash of the base weights (`SamModel.weights_hash`).
    adapter
        Content hash of the adapter, or ``"base"``.
    normalisation
        Name of the intensity normalisation, with its range for a tile of a large image.
    image_size
        Side of the square model input, in pixels.
    precision
        Precision of the encoder (`SamModel.precision`).
    orientations
        Number of those in which the image is embedded (`Architecture.orientations`).
    """

    image: str
    model: str
    adapter: str
    normalisation: str
    image_size: int
    precision: str
    orientations: int = 1

    @property
    def parts(self) -> dict[str, str | int]:
        """What the store knows an entry by; one orientation is not named, as when all had one."""
        return {k: v for k, v in asdict(self).items() if k != "orientations" or v != 1}

    @property
    def digest(self) -> str:
        """The key as 32 hexadecimal digits (xxh128), the name of its store entry."""
        text = json.dumps(self.parts, sort_keys=True)
        return xxhash.xxh128_hexdigest(text.encode())


@dataclass(frozen=True, eq=False)
class Embedding:
    """One image as the mask decoder sees it.

    Attributes
    ----------
    key
        Identity of its image, model, adapter and settings.
    frame
        Placement of the image in the model's square input.
    features
        ``(N C, h, w)`` float32, of N orientations one after the other, each as it was seen, in the
        order of `napari_peftsam.models.orientations.ORIENTATIONS`.
    """

    key: EmbeddingKey
    frame: Frame
    features: FloatArray = field(repr=False)

    def tensors(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return the embedding ``(1, C, h, w)`` of each orientation on a device."""
        # torch warns about arrays it could write to by accident
        writeable = self.features if self.features.flags.writeable else self.features.copy()
        whole = torch.from_numpy(writeable).to(device)[None]
        return whole.chunk(self.key.orientations, dim=1)


def image_signature(pixels: PixelArray) -> str:
    """Return the xxh128 (hex) of an image's type, shape and values.

    The memory layout does not count: a view and its copy have one signature.

    Raises
    ------
    ImageError
        If the array holds Python objects rather than numbers.
    """
    values = np.ascontiguousarray(pixels)
    if values.dtype.hasobject:
        raise ImageError(f"expected real numbers, got pixels of type {values.dtype}")
    digest = xxhash.xxh128(f"{values.dtype.str}{values.shape}".encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def embedding_key(
    model: SamModel,
    pixels: PixelArray | str,
    adapter: str = BASE_ADAPTER,
    intensity_range: Limits | None = None,
) -> EmbeddingKey:
    """Return the embedding key of `pixels`, or of their signature, for a model with an adapter.

    `intensity_range` is the one of the whole image if `pixels` are a tile of it.
    """
    return EmbeddingKey(
        pixels if isinstance(pixels, str) else image_signature(pixels),
        model.weights_hash,
        adapter,
        NORMALISATION if intensity_range is None else intensity_range.name,
        model.image_size,
        model.precision,
        model.architecture.orientations,
    )


def room_for(size: int) -> int:
    """Return the smallest budget in bytes that keeps all entries of `size` bytes in total."""
    return math.ceil(size / (1 - LOOK_SHARE))


class EmbeddingStore(EntryFolder):
    """A folder with one zarr array per embedding, named by the key's digest.

    An interrupted, truncated or otherwise damaged entry is recognised, removed and
    computed again (see `EntryFolder`). Since the name says everything an entry depends
    on, there is no outdated one, and several processes may use one folder without locks.
    The tokens that a reload starts from are entries, too, and share the budget.

    Parameters
    ----------
    folder
        Created by the first `put`, with its parents.
    budget
        Disk space in bytes, None for no limit; what was not used for longest goes first.
    """

    def __init__(self, folder: str | Path, budget: int | None = DEFAULT_STORE_BYTES) -> None:
        super().__init__(Path(folder), "embeddings", budget)

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding of `key`; None if it is not there or was damaged."""
        entry = self.read(key.digest, key.parts)
        if entry is None:
            return None
        return Embedding(key, Frame(**entry.attributes["frame"]), entry.values)

    def put(self, embedding: Embedding) -> bool:
        """Store an embedding; one of the same key is replaced. As `EntryFolder.write`."""
        key = embedding.key
        attributes = {"key": key.parts, "frame": asdict(embedding.frame)}
        features = np.asarray(embedding.features, np.float32)
        return self.write(key.digest, Entry(features, attributes))
