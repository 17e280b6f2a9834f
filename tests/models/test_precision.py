"""The precision of computation: chosen by hardware, overridable, the same everywhere."""

from __future__ import annotations

import pickle
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import autocast, build, build_tiny, pick_precision


def _cpu(monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"),
    [
        pytest.param(False, False, "fp32", id="older-cpu"),
        pytest.param(False, True, "bf16", id="avx512-bf16"),
        pytest.param(True, True, "bf16", id="amx"),
    ],
)
def test_auto_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx512: bool, expected: str
) -> None:
    _cpu(monkeypatch, amx, avx512)
    assert pick_precision("cpu") == expected


@pytest.mark.parametrize(
    ("bf16", "capability", "expected"),
    [
        pytest.param(True, (9, 0), "bf16", id="hopper"),
        pytest.param(True, (8, 0), "bf16", id="ampere"),
        pytest.param(False, (7, 5), "fp16", id="turing"),
        pytest.param(False, (7, 0), "fp16", id="volta"),
        pytest.param(False, (6, 1), "fp32", id="pascal"),
    ],
)
def test_auto_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert pick_precision("cuda:0") == expected


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        pytest.param("cpu", "fp8", "unknown precision 'fp8': choose one of auto", id="unknown"),
        pytest.param("cpu", "fp16", "fp16 is for GPUs", id="fp16-on-the-cpu"),
    ],
)
def test_refused(device: str, precision: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        pick_precision(device, precision)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_computes_in_it(precision: str, dtype: torch.dtype) -> None:
    with autocast("cpu", precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_keeps_the_precision_it_was_built_for(precision: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(build_tiny().sam.state_dict(), path)
    model = build(path, precision=precision)
    assert model.precision == precision
    assert deepcopy(model).precision == pickle.loads(pickle.dumps(model)).precision == precision
    with model.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (
            torch.bfloat16 if precision == "bf16" else torch.float32
        )


def test_by_default_a_model_computes_in_what_suits_its_device() -> None:
    assert build_tiny().precision == pick_precision("cpu")


def test_a_wrong_precision_is_refused_before_a_model_is_read() -> None:
    with pytest.raises(ConfigurationError, match="unknown precision"):
        build("builtin", precision="half")
