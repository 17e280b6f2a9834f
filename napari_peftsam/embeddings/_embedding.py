"""Image embeddings and their addresses."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import numpy as np
import xxhash

from napari_peftsam.errors import ImageError
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import NORMALISATION, Limits
from napari_peftsam.types import FloatArray, Frame, PixelArray

__all__ = ["BASE_ADAPTER", "Embedding", "EmbeddingKey", "embedding_key", "image_signature"]

BASE_ADAPTER = "base"
"""The adapter part of a key when the model runs without an adapter."""


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
        Name of the intensity normalisation, with its limits for a tile of a large image.
    image_size
        Side of the square model input, in pixels.
    precision
        Precision of the encoder (`SamModel.precision`).
    """

    image: str
    model: str
    adapter: str
    normalisation: str
    image_size: int
    precision: str

    @property
    def digest(self) -> str:
        """The key as 32 hexadecimal digits (xxh128), the name of its store entry."""
        text = json.dumps(asdict(self), sort_keys=True)
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
        ``(C, h, w)`` float32.
    """

    key: EmbeddingKey
    frame: Frame
    features: FloatArray = field(repr=False)


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
    pixels: PixelArray,
    adapter: str = BASE_ADAPTER,
    limits: Limits | None = None,
) -> EmbeddingKey:
    """Return the embedding key of `pixels` for `model` with `adapter` injected.

    `limits` is the intensity range of the whole image if `pixels` are a tile of it.
    """
    normalisation = NORMALISATION if limits is None else limits.name
    return EmbeddingKey(
        image_signature(pixels),
        model.weights_hash,
        adapter,
        normalisation,
        model.image_size,
        model.precision,
    )
