"""Freed memory stays with a process that loads a model on the CPU."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import weakref

import pytest

from napari_peftsam import heap

# Frees 64 MB, and prints by how many megabytes the process is larger, then and given back.
CODE = """
import numpy as np
import psutil
from napari_peftsam.heap import give_back_memory, keep_freed_memory

def larger():
    return (psutil.Process().memory_info().rss - start) >> 20

kept = keep_freed_memory()
start = psutil.Process().memory_info().rss
np.ones(64 << 20, np.uint8)
freed = larger()
give_back_memory()
print(kept, freed, larger())
"""


class Ring:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.me = self


def test_collections_pass_over_what_is_there_until_that_ends() -> None:
    heap.collect_all()
    before = Ring()
    heap.spare_collections()
    later = Ring()
    heap.spare_collections()  # once is enough: what came since is collected
    first, second = weakref.ref(before), weakref.ref(later)
    del before, later
    gc.collect()
    assert first() is not None
    assert second() is None
    heap.collect_all()
    gc.collect()
    assert first() is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory")
@pytest.mark.parametrize("value", ["", "0", "Off"], ids=["kept", "switched off", "in words"])
def test_freed_memory_is_kept_until_it_is_given_back(value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True,
        env={**os.environ, "NAPARI_PEFTSAM_KEEP_MEMORY": value},
    )  # fmt: skip
    kept, freed, given_back = done.stdout.split()
    assert kept == str(not value)
    assert (int(freed) >= 60) == (not value)
    assert int(given_back) < 10


@pytest.mark.parametrize(
    ("limit", "threshold"),
    [
        pytest.param(1 << 40, 1 << 30, id="any threshold"),
        pytest.param(32 << 20, 32 << 20, id="older glibc: 32 MB at most"),
    ],
)
def test_the_largest_threshold_that_glibc_takes(
    limit: int, threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {}

    def mallopt(name: int, value: int) -> int:
        if name == -3 and value > limit:
            return 0
        taken[name] = value
        return 1

    monkeypatch.delenv("NAPARI_PEFTSAM_KEEP_MEMORY", raising=False)
    monkeypatch.setattr(heap, "_glibc", lambda _: mallopt)
    assert heap.keep_freed_memory()
    assert taken == {-3: threshold, -1: (1 << 31) - 1, -8: 1}
