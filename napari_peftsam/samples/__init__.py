"""Sample images that ship with the package: CC0 histology with labels, synthetic microscopy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from napari_peftsam.errors import InputFileError
from napari_peftsam.types import LabelArray, PixelArray

__all__ = [
    "ShippedSample",
    "SplitName",
    "SyntheticName",
    "shipped_samples",
    "shipped_synthetic",
]

SplitName = Literal["train", "held_out"]
SyntheticName = Literal["fluorescence", "phase", "membranes"]

_FOLDER = Path(__file__).parent / "data"
_SPLITS: tuple[SplitName, ...] = ("train", "held_out")


@dataclass(frozen=True)
class ShippedSample:
    """A sample image with its labels; `samples/data/README.md` describes its source.

    Attributes
    ----------
    name
        Its name in the source data set.
    split
        ``train`` to annotate and learn from, ``held_out`` to measure on; no tissue is in both.
    image_path, label_path
        PNG files.
    """

    name: str
    split: SplitName
    image_path: Path
    label_path: Path

    def read(self) -> tuple[PixelArray, LabelArray]:
        """Return ``(H, W, 3)`` uint8 pixels and ``(H, W)`` uint8 labels, 0 is background."""
        return _read(self.image_path), _read(self.label_path)


def shipped_samples(split: SplitName | None = None) -> tuple[ShippedSample, ...]:
    """Return the samples of a split by name, or all, ``train`` first."""
    samples = tuple(
        ShippedSample(path.stem, part, path, _FOLDER / part / "labels" / path.name)
        for part in _SPLITS
        if split in (None, part)
        for path in sorted((_FOLDER / part / "images").glob("*.png"))
    )
    if not samples:
        raise InputFileError(f"{_FOLDER} holds no sample images: install the package again")
    return samples


def shipped_synthetic(name: SyntheticName) -> PixelArray:
    """Return a synthetic image, ``(256, 256)`` uint8."""
    return _read(_FOLDER / "synthetic" / f"{name}.png")


def _read(path: Path) -> PixelArray:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except OSError as error:
        raise InputFileError(
            f"{path} cannot be read ({error}): install the package again"
        ) from error
