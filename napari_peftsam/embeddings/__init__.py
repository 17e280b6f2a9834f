"""Image embeddings: computed as a stream of events, kept on disk by content."""

from napari_peftsam.embeddings._entries import EntryFolder
from napari_peftsam.embeddings.activations import ActivationCache, FrozenActivations
from napari_peftsam.embeddings.encode import (
    Encoded,
    EncodeEvent,
    EncodeFailed,
    EncodeProgress,
    EncodeRequest,
    EncodeStarted,
    encode,
    encode_one,
)
from napari_peftsam.embeddings.grid import (
    MOST_FRAMES,
    EmbedEvent,
    PlaneEmbedding,
    PlaneReady,
    Tile,
    TiledImage,
    TileGrid,
    tile_grid,
    tiled_image,
)
from napari_peftsam.embeddings.store import (
    BASE_ADAPTER,
    DEFAULT_STORE_BYTES,
    Embedding,
    EmbeddingKey,
    EmbeddingStore,
    embedding_key,
    image_signature,
    room_for,
)

__all__ = [
    "BASE_ADAPTER",
    "DEFAULT_STORE_BYTES",
    "MOST_FRAMES",
    "ActivationCache",
    "EmbedEvent",
    "Embedding",
    "EmbeddingKey",
    "EmbeddingStore",
    "EncodeEvent",
    "EncodeFailed",
    "EncodeProgress",
    "EncodeRequest",
    "EncodeStarted",
    "Encoded",
    "EntryFolder",
    "FrozenActivations",
    "PlaneEmbedding",
    "PlaneReady",
    "Tile",
    "TileGrid",
    "TiledImage",
    "embedding_key",
    "encode",
    "encode_one",
    "image_signature",
    "room_for",
    "tile_grid",
    "tiled_image",
]
