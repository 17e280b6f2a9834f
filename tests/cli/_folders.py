"""Small labelled folders and model files for the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_peftsam.cli import main
from napari_peftsam.models import build_random, build_tiny


@dataclass(frozen=True)
class Inputs:
    """Paths that are good on their own; tests spoil one at a time."""

    root: Path

    def __getitem__(self, name: str) -> str:
        return str(self.root / name)


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


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    """Run the program in this process (a process of its own would import torch each time)."""
    capfd.readouterr()
    code = main(arguments)
    out, err = capfd.readouterr()
    return Outcome(code, out, err)


def make_inputs(root: Path) -> Inputs:
    """Write two pairs of 40 x 48 images with labels, models, prompts and labels to export."""
    for name in ("images", "labels"):
        (root / name).mkdir()
    for index in range(2):
        pixels, labels = scene(index)
        tifffile.imwrite(root / "images" / f"a{index}.tif", pixels)
        tifffile.imwrite(root / "labels" / f"a{index}.tif", labels)
    tifffile.imwrite(root / "image.tif", scene(0)[0])
    tifffile.imwrite(root / "labels.tif", scene(0)[1])
    torch.save(build_tiny().sam.state_dict(), root / "tiny.pth")
    torch.save(build_tiny(seed=1).sam.state_dict(), root / "other.pth")
    write_prompts(root / "prompts.json", [{"points": [[10, 10]]}, {"box": [20, 20, 34, 40]}])
    return Inputs(root)


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bright rectangles on noise, ``(40, 48)``, with their labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((40, 48), np.uint16)
    for number, (row, col) in enumerate(((4, 4), (4, 28), (22, 6), (22, 30)), start=1):
        labels[row : row + 12, col : col + 12] = number
    labels[38, 46] = 9  # too small to count
    pixels = rng.normal(60, 10, labels.shape) + 120 * (labels > 0)
    return pixels.clip(0, 255).astype(np.uint8), labels


def write_prompts(path: Path, content: object) -> None:
    """Write a prompts file."""
    path.write_text(json.dumps(content))


def wrong_architecture(path: Path) -> None:
    """Write the weights of half a tiny model."""
    state = build_random("tiny").sam.state_dict()
    torch.save({k: v for k, v in state.items() if ".blocks.3." not in k}, path)
