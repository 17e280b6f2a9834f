"""Embeddings on disk: zarr, addressed by content, safe to share and to lose."""

from __future__ import annotations

import logging
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import xxhash
import zarr

from napari_peftsam.embeddings._embedding import Embedding, EmbeddingKey
from napari_peftsam.errors import ExportError, PeftSamError
from napari_peftsam.files import atomic_path
from napari_peftsam.types import FloatArray, Frame

__all__ = ["EmbeddingStore"]

_log = logging.getLogger(__name__)
_FORMAT = 1
_SUFFIX = ".zarr"
# Where `atomic_path` writes, and what a killed process leaves behind.
_TEMPORARY = ".tmp-*"
_LEFTOVER_AGE_SECONDS = 24 * 3600


class _DamagedEntryError(Exception):
    """A store entry is not what was written."""


class EmbeddingStore:
    """A folder with one zarr array per embedding, named by the key's digest.

    An entry is written beside its place and then renamed, and carries a checksum of its
    values: an interrupted, truncated or otherwise damaged entry is recognised, removed
    and computed again. Since the name says everything an entry depends on, there is no
    outdated one, and several processes may use one folder without locks.

    Parameters
    ----------
    folder
        Created by the first `put`, with its parents.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: EmbeddingKey) -> Embedding | None:
        """Return the embedding of `key`, or None if it is not there or was damaged.

        A damaged entry is removed and a warning logged. Never raises for what is on disk.
        """
        path = self._path(key)
        try:
            if not path.is_dir():
                return None
            return _read(path, key)
        except PermissionError as error:
            _log.warning("cannot read the stored embedding %s: %s", path, error)
        except Exception as error:  # noqa: BLE001 - damaged metadata makes zarr raise anything
            if path.exists():  # otherwise another process just replaced or removed it
                _log.warning(
                    "the stored embedding %s is damaged and is computed again (%s: %s)",
                    *(path, type(error).__name__, error),
                )
                self.discard(key)
        return None

    def put(self, embedding: Embedding) -> None:
        """Store an embedding; one of the same key is replaced.

        Raises
        ------
        ExportError
            If it cannot be written (disk full, read-only); the folder stays usable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers(_LEFTOVER_AGE_SECONDS)
        except OSError as error:
            raise ExportError(
                f"cannot store embeddings in {self.folder}: {error.strerror or error}; "
                "choose a folder you may write to"
            ) from error
        with atomic_path(self._path(embedding.key)) as path:
            _write(path, embedding)

    def discard(self, key: EmbeddingKey) -> None:
        """Remove the entry of `key` if it is there; failing to is no error."""
        _remove(self._path(key))

    def clear(self) -> None:
        """Remove all entries, and what interrupted writes left."""
        for path in self._entries():
            _remove(path)
        self._remove_leftovers(0)

    def size_bytes(self) -> int:
        """Return the disk space of all entries, in bytes."""
        return sum(_folder_size(path) for path in self._entries())

    def _path(self, key: EmbeddingKey) -> Path:
        return self.folder / f"{key.digest}{_SUFFIX}"

    def _entries(self) -> list[Path]:
        return [p for p in self.folder.glob(f"*{_SUFFIX}") if not p.name.startswith(".")]

    def _remove_leftovers(self, age_seconds: float) -> None:
        for path in self.folder.glob(_TEMPORARY):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= age_seconds:
                    shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, embedding: Embedding) -> None:
    features = np.ascontiguousarray(embedding.features, np.float32)
    # Features look like noise to a compressor: it would cost time and save a few percent.
    zarr.create_array(
        path,
        data=features,
        chunks=features.shape,
        compressors=None,
        dimension_names=("channel", "row", "column"),
        attributes={
            "format": _FORMAT,
            "key": asdict(embedding.key),
            "frame": asdict(embedding.frame),
            "checksum": xxhash.xxh128_hexdigest(features.data),
        },
    )


def _read(path: Path, key: EmbeddingKey) -> Embedding:
    array = zarr.open_array(path, mode="r", zarr_format=3)
    attributes = cast("dict[str, Any]", dict(array.attrs))
    if attributes.get("format") != _FORMAT or attributes.get("key") != asdict(key):
        raise _DamagedEntryError("its metadata does not belong to its name")
    # Before reading: a damaged shape must not make us ask for terabytes.
    if array.dtype != np.float32 or array.ndim != 3 or array.nbytes > _folder_size(path):
        raise _DamagedEntryError("values are missing")
    features = cast("FloatArray", np.asarray(array[:]))
    if xxhash.xxh128_hexdigest(features.data) != attributes["checksum"]:
        raise _DamagedEntryError("its checksum does not match")
    return Embedding(key, Frame(**attributes["frame"]), features)


def _remove(path: Path) -> None:
    # Renamed first, so that nobody reads a folder that is half removed.
    with suppress(PeftSamError, OSError):
        aside = path.with_name(f"{_TEMPORARY[:-1]}removed-{time.time_ns():x}")
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _folder_size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):  # another process may be removing it
            total += file.stat().st_size if file.is_file() else 0
    return total
