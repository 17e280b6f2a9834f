"""Large images made up as they are read, with objects at known places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_peftsam.types import BoolArray, Window

Ellipse = tuple[float, float, float, float]
"""Row and column of the middle, half height and half width."""


class Slide:
    """A plane of any size that holds nothing in memory and counts what is read of it.

    Bright ellipses on a dim, grainy ground, with soft outlines.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, int], ellipses: Sequence[Ellipse]) -> None:
        self.shape = shape
        self.ellipses = tuple(ellipses)
        self.pixels_read = 0

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, cols = (np.arange(n)[k] for n, k in zip(self.shape, key, strict=True))
        self.pixels_read += rows.size * cols.size
        row, col = rows[:, None].astype(np.float32), cols[None].astype(np.float32)
        # Grain that depends on the place only, so that every tile sees the same.
        grain = np.sin(row * 12.9898 + col * 78.233) * 43758.547
        values = 40 + 6 * (grain - np.floor(grain))
        for r, c, a, b in self.ellipses:
            if abs(rows - r).min(initial=1e9) < 2 * a and abs(cols - c).min(initial=1e9) < 2 * b:
                inside = 1 - np.hypot((row - r) / a, (col - c) / b)
                values = values + 90 / (1 + np.exp(-np.clip(inside * min(a, b), -30, 30)))
        return values.astype(np.uint8)

    def mask(self, number: int, window: Window) -> BoolArray:
        """Return the pixels of an ellipse in a window."""
        r, c, a, b = self.ellipses[number]
        rows, cols = (np.arange(s.start, s.stop) for s in window.slices)
        inside: BoolArray = np.hypot((rows[:, None] - r) / a, (cols[None] - c) / b) <= 1
        return inside
