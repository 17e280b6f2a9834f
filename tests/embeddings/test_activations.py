"""Tensors come back bit for bit, from memory or disk, as long as the budgets allow."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from napari_peftsam.embeddings import ActivationCache, EntryFolder

SIZE = 4000  # bytes of one tensor


def tensor(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    width = torch.tensor([], dtype=dtype).element_size()
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(10, SIZE // 10 // width, generator=generator).to(dtype)


def folder(path: Path, budget: int | None = None) -> EntryFolder:
    return EntryFolder(path / "activations", "activations", budget)


def age(path: Path) -> None:
    """Make all entries a minute older: later uses are newer on any file system."""
    for entry in path.glob("**/*.zarr"):
        used = entry.stat().st_mtime - 60
        os.utime(entry, (used, used))


def count(path: Path) -> int:
    return len(list(path.glob("**/*.zarr")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory", [10 * SIZE, 0], ids=["memory", "disk"])
def test_every_bit_comes_back(dtype: torch.dtype, memory: int, tmp_path: Path) -> None:
    values = tensor(dtype=dtype)
    values[0, :3] = torch.tensor([float("nan"), float("-inf"), -0.0])
    with ActivationCache(memory, folder(tmp_path)) as cache:
        assert cache.get("a") is None
        cache.put("a", values)
        found = cache.get("a")
    assert found is not None
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(found.view(bits), values.view(bits))


def test_other_types_are_refused() -> None:
    with ActivationCache(SIZE) as cache, pytest.raises(TypeError, match=r"got torch\.int64"):
        cache.put("a", torch.zeros(1, dtype=torch.int64))


def test_what_is_kept_is_a_copy_and_can_be_trained_from() -> None:
    with ActivationCache(10 * SIZE) as cache:
        with torch.inference_mode():
            values = tensor()
            cache.put("a", values.t())
            values.zero_()
        kept = cache.get("a")
        assert kept is not None
        assert kept.is_contiguous()
        assert torch.equal(kept, tensor().t())
        weight = torch.ones((), requires_grad=True)
        (kept * weight).sum().backward()
        assert weight.grad is not None


def test_without_a_disk_what_was_not_used_for_longest_is_gone() -> None:
    with ActivationCache(2 * SIZE) as cache:
        cache.put("a", tensor(0))
        cache.put("b", tensor(1))
        cache.get("a")
        cache.put("c", tensor(2))
        assert [key for key in "abc" if key in cache] == ["a", "c"]
        assert cache.memory_bytes == 2 * SIZE


def test_beyond_memory_it_goes_to_disk_once(tmp_path: Path) -> None:
    with ActivationCache(2 * SIZE, folder(tmp_path)) as cache:
        for seed in range(6):
            cache.put(str(seed), tensor(seed))
        assert count(tmp_path) == 4
        for seed in range(6):
            found = cache.get(str(seed))
            assert found is not None
            assert torch.equal(found, tensor(seed))
        assert cache.memory_bytes == 2 * SIZE
        assert count(tmp_path) == 6, "what was in memory at first made room, too"


def test_a_thousand_images_take_no_more_than_the_budgets(tmp_path: Path) -> None:
    store = EntryFolder(tmp_path, "embeddings", 40 * SIZE)
    with ActivationCache(4 * SIZE, store, write_through=True) as cache:
        for number in range(1000):
            cache.put(str(number), tensor(0))
            assert cache.memory_bytes <= 4 * SIZE
        assert not cache._leaving
    assert count(tmp_path) <= 43, "a sixteenth more until the next look"


def test_what_is_put_again_replaces_what_is_on_disk(tmp_path: Path) -> None:
    with ActivationCache(SIZE, folder(tmp_path)) as cache:
        for key, seed in [("a", 0), ("b", 1), ("a", 2), ("b", 3)]:
            cache.put(key, tensor(seed))
        first = cache.get("a")
        assert first is not None
        assert torch.equal(first, tensor(2))


def test_written_through_it_outlives_the_cache(tmp_path: Path) -> None:
    with ActivationCache(10 * SIZE, folder(tmp_path), write_through=True) as cache:
        cache.put("a", tensor())
    with ActivationCache(0, folder(tmp_path)) as cache:
        found = cache.get("a")
    assert found is not None
    assert torch.equal(found, tensor())


def test_the_disk_has_a_budget_and_reading_counts_as_use(tmp_path: Path) -> None:
    budget = round(4.5 * SIZE)
    with ActivationCache(0, folder(tmp_path, budget)) as cache:
        cache.put("a", tensor(0))
        for seed in range(1, 10):
            age(tmp_path)
            assert cache.get("a") is not None
            age(tmp_path)
            cache.put(str(seed), tensor(seed))
        assert "a" in cache
        assert "9" in cache
        assert "1" not in cache
        assert 2 <= count(tmp_path) <= 4


def test_larger_than_all_budgets_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ActivationCache(SIZE // 2, folder(tmp_path, SIZE // 2)) as cache:
        cache.put("a", tensor())
        assert cache.get("a") is None
    assert not caplog.records


def test_a_temporary_folder_is_made_when_needed_and_removed(tmp_path: Path) -> None:
    with ActivationCache.temporary(SIZE, 10 * SIZE, tmp_path / "scratch") as cache:
        cache.put("a", tensor(0))
        assert not (tmp_path / "scratch").exists()
        cache.put("b", tensor(1))
        assert count(tmp_path) == 1
        assert cache.get("a") is not None
    assert list((tmp_path / "scratch").iterdir()) == []
    cache.put("c", tensor())
    assert cache.get("c") is None, "it was closed"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_that_of_a_living_one_stays(
    tmp_path: Path,
) -> None:
    code = (
        "import os, sys, torch\n"
        "from pathlib import Path\n"
        "from napari_peftsam.embeddings import ActivationCache\n"
        "cache = ActivationCache.temporary(0, 10**6, Path(sys.argv[1]))\n"
        "cache.put('a', torch.zeros(10))\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=200)
    assert count(tmp_path) == 1
    with (
        ActivationCache.temporary(0, 10**6, tmp_path) as one,
        ActivationCache.temporary(0, 10**6, tmp_path) as two,
    ):
        one.put("b", tensor())
        two.put("c", tensor())
        assert count(tmp_path) == 2
        assert one.get("b") is not None


def test_a_disk_that_fails_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "activations").write_text("in the way")
    with (
        caplog.at_level(logging.WARNING),
        ActivationCache(SIZE, folder(tmp_path)) as cache,
    ):
        for seed in range(3):
            cache.put(str(seed), tensor(seed))
        assert [key for key in "012" if key in cache] == ["2"]
    assert caplog.text.count("not kept") == 1


@pytest.mark.skipif(os.name == "nt", reason="limits the file size the POSIX way")
def test_a_full_disk_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    try:
        with ActivationCache(SIZE, folder(tmp_path)) as cache:
            for seed in range(3):
                cache.put(str(seed), tensor(seed))
            assert cache.get("0") is None
            assert cache.get("2") is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("not kept") == 1
    assert count(tmp_path) == 0


def test_a_damaged_entry_is_as_if_it_were_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ActivationCache(0, folder(tmp_path)) as cache:
        cache.put("a", tensor())
        [values] = [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size == SIZE]
        values.write_bytes(bytes(SIZE))
        assert cache.get("a") is None
    assert "damaged" in caplog.text
    assert count(tmp_path) == 0


def test_several_threads_may_use_one_cache(tmp_path: Path) -> None:
    wrong: list[str] = []

    def work(cache: ActivationCache, first: int) -> None:
        for seed in range(first, first + 12):
            cache.put(str(seed), tensor(seed))
            for other in range(first, seed + 1, 3):
                found = cache.get(str(other))
                if found is None or not torch.equal(found, tensor(other)):
                    wrong.append(str(other))

    with ActivationCache(3 * SIZE, folder(tmp_path)) as cache:
        threads = [threading.Thread(target=work, args=(cache, n * 100)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
