"""The store gives back what was put in, or nothing; it never raises for what is on disk."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.embeddings import Embedding, EmbeddingKey, EmbeddingStore
from napari_peftsam.errors import ExportError
from napari_peftsam.files import atomic_path
from napari_peftsam.folders import embedding_folder
from napari_peftsam.types import Frame

KEY = EmbeddingKey("image", "model", "base", "normalisation", 64, "fp32")


def embedding(key: EmbeddingKey = KEY, seed: int = 0) -> Embedding:
    features = np.random.default_rng(seed).standard_normal((16, 8, 8)).astype(np.float32)
    return Embedding(key, Frame(50, 37, 64), features)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "not" / "yet" / "there")


def entry(store: EmbeddingStore) -> Path:
    [path] = store.folder.glob("*.zarr")
    return path


def chunk(path: Path) -> Path:
    return max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_round_trip_is_exact(store: EmbeddingStore) -> None:
    assert store.get(KEY) is None
    assert store.size_bytes() == 0
    store.put(embedding())
    found = EmbeddingStore(store.folder).get(KEY)
    assert found is not None
    assert (found.key, found.frame) == (KEY, Frame(50, 37, 64))
    assert found.features.dtype == np.float32
    np.testing.assert_array_equal(found.features, embedding().features)
    assert store.size_bytes() > embedding().features.nbytes
    assert store.get(replace(KEY, adapter="another")) is None


def test_a_strided_array_is_stored_by_value(store: EmbeddingStore) -> None:
    whole = embedding().features
    store.put(replace(embedding(), features=whole.transpose(0, 2, 1)))
    found = store.get(KEY)
    assert found is not None
    np.testing.assert_array_equal(found.features, whole.transpose(0, 2, 1))


def test_put_replaces(store: EmbeddingStore) -> None:
    store.put(embedding())
    store.put(embedding(seed=1))
    found = store.get(KEY)
    assert found is not None
    np.testing.assert_array_equal(found.features, embedding(seed=1).features)


def truncate_chunk(path: Path) -> None:
    os.truncate(chunk(path), chunk(path).stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(chunk(path).read_bytes())
    data[100] ^= 1
    chunk(path).write_bytes(data)


def rewrite(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        file = path / "zarr.json"
        metadata = json.loads(file.read_text())
        change(metadata)
        file.write_text(json.dumps(metadata))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda p: chunk(p).unlink(), id="chunk missing"),
        pytest.param(truncate_chunk, id="chunk truncated"),
        pytest.param(lambda p: chunk(p).write_bytes(b""), id="chunk empty"),
        pytest.param(flip_a_bit, id="one bit flipped"),
        pytest.param(lambda p: (p / "zarr.json").unlink(), id="metadata missing"),
        pytest.param(lambda p: (p / "zarr.json").write_bytes(b""), id="metadata empty"),
        pytest.param(lambda p: (p / "zarr.json").write_bytes(b"{\xff"), id="metadata garbage"),
        pytest.param(lambda p: (p / "zarr.json").write_text("[1]"), id="metadata of another kind"),
        pytest.param(rewrite(lambda m: m["attributes"].clear()), id="attributes missing"),
        pytest.param(rewrite(lambda m: m["attributes"].pop("checksum")), id="no checksum"),
        pytest.param(rewrite(lambda m: m["attributes"].pop("frame")), id="no frame"),
        pytest.param(rewrite(lambda m: m["attributes"].update(format=0)), id="another format"),
        pytest.param(
            rewrite(lambda m: m["attributes"].update(key=asdict(replace(KEY, model="b")))),
            id="key of another",
        ),
        pytest.param(rewrite(lambda m: m.update(shape=[10**6, 10**6, 8])), id="absurd shape"),
        pytest.param(rewrite(lambda m: m.update(data_type="nonsense")), id="unknown type"),
        pytest.param(lambda p: (shutil.rmtree(p), p.mkdir()), id="empty folder"),
    ],
)
def test_a_damaged_entry_is_removed_and_can_be_made_again(
    store: EmbeddingStore, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    store.put(embedding())
    path = entry(store)
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert store.get(KEY) is None
    assert "damaged" in caplog.text
    assert not path.exists()
    store.put(embedding())
    assert store.get(KEY) is not None


def test_a_file_where_an_entry_should_be_is_no_entry(store: EmbeddingStore) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / f"{KEY.digest}.zarr").write_text("not a folder")
    assert store.get(KEY) is None


def test_an_interrupted_write_leaves_no_entry_and_is_swept(store: EmbeddingStore) -> None:
    store.put(embedding(replace(KEY, image="other")))
    with atomic_path(store.folder / "entry.zarr") as path:  # as a killed process leaves it
        left = path.with_name(path.name + "-killed")
        left.mkdir()
        path.mkdir()
    (left / "zarr.json").write_text("{}")
    assert store.get(KEY) is None
    store.put(embedding())
    assert left.exists(), "it may belong to a process that is still writing"
    os.utime(left, (0, 0))
    store.put(embedding())
    assert not left.exists()


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = EmbeddingStore(tmp_path / "file" / "store")
    assert store.get(KEY) is None
    with pytest.raises(ExportError, match="cannot store embeddings"):
        store.put(embedding())
    assert store.size_bytes() == 0


@pytest.mark.skipif(os.name == "nt", reason="limits the file size the POSIX way")
def test_a_full_disk_is_a_typed_error_and_leaves_nothing(store: EmbeddingStore) -> None:
    import resource

    store.put(embedding())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ExportError, match="cannot write"):
            store.put(embedding(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = store.get(KEY)
    assert found is not None, "the earlier entry stays"
    np.testing.assert_array_equal(found.features, embedding().features)
    assert list(store.folder.iterdir()) == [entry(store)]


def _put_and_get(folder: Path, rounds: int) -> bool:
    store = EmbeddingStore(folder)
    for _ in range(rounds):
        store.put(embedding())
        found = store.get(KEY)
        if found is not None and not np.array_equal(found.features, embedding().features):
            return False
    return True


def test_two_processes_may_write_the_same_key(store: EmbeddingStore) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        results = [pool.apply_async(_put_and_get, (store.folder, 15)) for _ in range(2)]
        assert [r.get(timeout=120) for r in results] == [True, True]
    assert store.get(KEY) is not None
    assert list(store.folder.iterdir()) == [entry(store)]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
@pytest.mark.parametrize(("place", "others"), [("own", False), ("elsewhere", True)])
def test_the_own_store_is_for_the_user_alone_and_another_follows_the_umask(
    place: str, others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = embedding_folder() if place == "own" else tmp_path / "store"
    EmbeddingStore(folder).put(embedding())
    for path in (folder, *folder.rglob("*")):
        assert bool(path.stat().st_mode & 0o077) is others, path
