"""Small labelled folders and model files for the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_peftsam.cli import main
from napari_peftsam.models import build_tiny
from napari_peftsam.peft import LoraConfig, capture, inject, save_adapter


@dataclass(frozen=True)
class Inputs:
    """A folder of files that are good on their own; tests spoil one at a time."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def folders(self) -> tuple[str, ...]:
        return ("--images", str(self / "images"), "--labels", str(self / "labels"))

    def model(self, name: str = "tiny.pth") -> tuple[str, str]:
        return ("--model", str(self / name))

    def contents(self) -> dict[str, bytes]:
        """Return every file with its content."""
        files = (p for p in self.root.rglob("*") if p.is_file())
        return {str(p.relative_to(self.root)): p.read_bytes() for p in files}


@dataclass(frozen=True)
class Outcome:
    """What a run of the program left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Program = Callable[..., Outcome]


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    """Run the program in this process; one of its own would import torch each time."""
    capfd.readouterr()
    code = main(arguments)
    out, err = capfd.readouterr()
    return Outcome(code, out, err)


def make_inputs(root: Path) -> Inputs:
    """Write three pairs of 40 x 48 images with labels, models, adapter and prompts."""
    for name in ("images", "labels"):
        (root / name).mkdir()
    for index in range(3):
        pixels, labels = scene(index)
        tifffile.imwrite(root / "images" / f"a{index}.tif", pixels)
        tifffile.imwrite(root / "labels" / f"a{index}.tif", labels)
    tifffile.imwrite(root / "image.tif", scene(0)[0])
    tifffile.imwrite(root / "labels.tif", scene(0)[1])
    model = build_tiny()
    torch.save(model.sam.state_dict(), root / "tiny.pth")
    torch.save(build_tiny(seed=1).sam.state_dict(), root / "other.pth")
    with inject(model, LoraConfig(rank=2)) as injection:
        save_adapter(capture(injection, {}, {}), root / "adapter.safetensors")
    prompts = [{"points": [[10, 10], [2, 30]], "labels": [1, 0]}, {"box": [22, 30, 34, 42]}]
    (root / "prompts.json").write_text(json.dumps(prompts))
    return Inputs(root)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bright squares on noise, ``(40, 48)``, with their labels."""
    labels = np.zeros((40, 48), np.uint16)
    for number, (row, col) in enumerate(((4, 4), (4, 28), (22, 6), (22, 30)), start=1):
        labels[row : row + 12, col : col + 12] = number
    labels[38, 46] = 9  # too small to count
    noise = np.random.default_rng(seed).normal(60, 10, labels.shape)
    return (noise + 120 * (labels > 0)).clip(0, 255).astype(np.uint8), labels
