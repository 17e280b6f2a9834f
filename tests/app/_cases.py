"""A tiny model, and an adapter that any training beats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

import napari_peftsam as ps
from napari_peftsam.models import build, build_tiny
from napari_peftsam.peft import FrozenEncoderConfig, LoraConfig, capture, inject, save_adapter

TRAINING = ps.TrainingConfig(
    method=LoraConfig(rank=2), steps=2, rounds=1, validations=2, learning_rate=1e-3
)


def write_model(path: Path) -> Path:
    torch.save(build_tiny().sam.state_dict(), path)
    return path


def write_useless_adapter(path: Path, model: Path) -> Path:
    """Write an adapter with which all masks are empty."""
    with inject(build(model), FrozenEncoderConfig()) as injection:
        adapter = capture(injection, {}, {})
    last = [n for n in adapter.tensors if "hypernetworks" in n and ".layers.2." in n]
    assert last
    tensors = {n: t * 0 if n in last else t for n, t in adapter.tensors.items()}
    save_adapter(replace(adapter, tensors=tensors), path)
    return path
