"""Embedding store on disk: zarr arrays by content hash, safe to share and to delete."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from napari_peftsam.embeddings._embedding import Embedding, EmbeddingKey
from napari_peftsam.embeddings._entries import LOOK_SHARE, Entry, EntryFolder
from napari_peftsam.types import Frame

__all__ = ["DEFAULT_STORE_BYTES", "EmbeddingStore", "room_for"]

DEFAULT_STORE_BYTES = 4 * 1000**3
"""Disk space of a store, in bytes: some 250 images of a ViT-B with what a reload needs."""


def room_for(size: int) -> int:
    """Return the smallest budget in bytes that keeps all entries of `size` bytes in total."""
    return math.ceil(size / (1 - LOOK_SHARE))


class EmbeddingStore:
    """A folder with one zarr array per embedding, named by the key's digest.

    An interrupted, truncated or otherwise damaged entry is recognised, removed and
    computed again (see `EntryFolder`). Since the name says everything an entry depends
    on, there is no outdated one, and several processes may use one folder without locks.

    Parameters
    ----------
    folder
        Created by the first `put`, with its parents.
    budget
        Disk space in bytes, None for no limit; what was not used for longest goes first.

    Attributes
    ----------
    entries
        The folder's arrays; the tokens that a reload starts from are kept there, too, and
        share the budget.
    """

    def __init__(self, folder: str | Path, budget: int | None = DEFAULT_STORE_BYTES) -> None:
        self.entries = EntryFolder(Path(folder), "embeddings", budget)

    @property
    def folder(self) -> Path:
        """Folder of the entries."""
        return self.entries.folder

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding of `key`; None if it is not there or was damaged."""
        entry = self.entries.read(key.digest, asdict(key))
        if entry is None:
            return None
        return Embedding(key, Frame(**entry.attributes["frame"]), entry.values)

    def put(self, embedding: Embedding) -> bool:
        """Store an embedding; one of the same key is replaced.

        Returns and raises what `EntryFolder.write` does.
        """
        key = embedding.key
        attributes = {"key": asdict(key), "frame": asdict(embedding.frame)}
        features = np.asarray(embedding.features, np.float32)
        return self.entries.write(key.digest, Entry(features, attributes))

    def size_bytes(self) -> int:
        """Return the disk space of all entries, in bytes."""
        return self.entries.size_bytes()
