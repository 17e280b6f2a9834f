"""Free memory, memory taken, and errors of running out."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from napari_peftsam import heap
from napari_peftsam.models import memory
from napari_peftsam.models.memory import (
    free_memory,
    is_out_of_memory,
    measure_peak,
    readable_bytes,
    release_memory,
    tensor_bytes,
)

CPU = torch.device("cpu")
MB = 1_000_000


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 MB"), (850 * MB, "850 MB"), (1_940 * MB, "1.9 GB"), (24_300 * MB, "24 GB")],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert readable_bytes(size) == text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory."), True, id="torch"),
        pytest.param(MemoryError(), True, id="Python"),
        pytest.param(
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True, id="Linux"
        ),
        pytest.param(RuntimeError("DefaultCPUAllocator: not enough memory"), True, id="Windows"),
        pytest.param(RuntimeError("MPS backend out of memory (MPS"), True, id="MPS"),
        pytest.param(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), True, id="cuBLAS"),
        pytest.param(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True, id="cuDNN"),
        pytest.param(RuntimeError("mat1 and mat2 shapes"), False, id="another RuntimeError"),
        pytest.param(ValueError("out of memory"), False, id="another type"),
    ],
)
def test_running_out_of_memory_is_recognised(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torch_says_so_as_expected() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def test_the_free_memory_of_the_cpu_is_what_is_available() -> None:
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


# Files of control groups, what they leave
GROUPS = [
    pytest.param(
        "0::/\n",
        {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 50"},
        350,
        id="container, version 2",
    ),
    pytest.param(
        "0::/user/app\n",
        {
            "user/app/memory.max": "max",
            "user/memory.max": "500",
            "user/memory.current": "100",
        },
        400,
        id="limit of a group above",
    ),
    pytest.param(
        "5:devices:/a\n4:memory:/docker/abc\n0::/\n",
        {
            "memory/memory.limit_in_bytes": "900",
            "memory/memory.usage_in_bytes": "800",
            "memory/memory.stat": "total_inactive_file 300",
        },
        400,
        id="version 1, seen as the root",
    ),
    pytest.param(
        "0::/\n", {"memory.max": "10", "memory.current": "20"}, 0, id="more taken than allowed"
    ),
    pytest.param("0::/\n", {"memory.max": "max"}, None, id="no limit"),
    pytest.param("0::/\n", {"memory.max": "10"}, None, id="what is taken cannot be read"),
    pytest.param("", {}, None, id="not Linux"),
]


@pytest.mark.parametrize(("groups", "files", "left"), GROUPS)
def test_limits_of_containers_count(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    groups: str,
    files: dict[str, str],
    left: int | None,
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(heap, "_PROCESS", tmp_path)
    monkeypatch.setattr(heap, "_CONTROL_GROUPS", tmp_path / "groups")
    found = free_memory(CPU)
    assert found == left if left is not None else found > MB


def test_tensors_are_counted_while_they_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_reset_peak", lambda: False)  # as on other systems than Linux
    before = torch.zeros(MB)
    with measure_peak(CPU) as peak:
        first = before + 1
        view = first.view(10, -1)
        second = view * 2
        del first, second
        third = torch.cat([view, view])  # 8 MB, and the view keeps 4 MB
        del view, third
        torch.ones(MB)
    assert peak.rise == 12 * MB


def test_parameters_and_gradients_are_counted_once() -> None:
    layer = nn.Linear(10, 10, bias=False)
    both = nn.ModuleList([layer, layer])
    assert tensor_bytes(both) == 400
    layer(torch.ones(1, 10)).sum().backward()
    assert tensor_bytes(both) == 800


@pytest.mark.parametrize("by_system", [True, False])
def test_the_peak_of_a_block_is_measured(monkeypatch: pytest.MonkeyPatch, by_system: bool) -> None:
    if not by_system:
        monkeypatch.setattr(memory, "_reset_peak", lambda: False)
    with measure_peak(CPU) as peak:
        large = torch.ones(25 * MB)
        del large
        torch.ones(MB)
    assert peak.rise == pytest.approx(100 * MB, rel=0.1)


def test_releasing_memory_leaves_what_is_used() -> None:
    kept = torch.ones(MB)
    release_memory()
    assert kept.sum() == MB
