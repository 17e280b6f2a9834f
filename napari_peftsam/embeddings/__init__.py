"""Image embeddings: computed as a stream of events, kept on disk by content."""

from napari_peftsam.embeddings._embedding import (
    BASE_ADAPTER,
    Embedding,
    EmbeddingKey,
    embedding_key,
    image_signature,
)
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
from napari_peftsam.embeddings.store import EmbeddingStore

__all__ = [
    "BASE_ADAPTER",
    "Embedding",
    "EmbeddingKey",
    "EmbeddingStore",
    "EncodeEvent",
    "EncodeFailed",
    "EncodeProgress",
    "EncodeRequest",
    "EncodeStarted",
    "Encoded",
    "embedding_key",
    "encode",
    "encode_one",
    "image_signature",
]
