"""The image that all sides train on, and the one that they embed; numpy only."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["embedded_image", "squares", "training_scene"]

_RADIUS = 20
_SPACING = 80
_FIRST = 40


def embedded_image(side: int = 1024) -> np.ndarray:
    """Return an image ``(side, side, 3)`` uint8 of noise that fills the whole range.

    At 1024 pixels nobody need resize it, and our normalisation leaves it as it is.
    """
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def squares(count: int, side: int) -> list[tuple[float, float, float]]:
    """Return ``(row, col, side)`` of squares side by side, a gap between them."""
    across = math.ceil(math.sqrt(count))
    pitch = side / across
    return [
        (n // across * pitch + pitch / 8, n % across * pitch + pitch / 8, 0.75 * pitch)
        for n in range(count)
    ]


def training_scene(side: int = 512, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return an image ``(side, side)`` uint8 and its labels: disks of 20 pixels on a grid.

    An image of 512 pixels has 36 of them.
    """
    image = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    labels = np.zeros((side, side), np.int64)
    rows, cols = np.indices((side, side))
    centres = range(_FIRST, side - _RADIUS, _SPACING)
    for label, (row, col) in enumerate(((r, c) for r in centres for c in centres), start=1):
        labels[(rows - row) ** 2 + (cols - col) ** 2 < _RADIUS**2] = label
    return image, labels
