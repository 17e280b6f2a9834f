"""The logits of one candidate over several tiles, blended where these overlap."""

from __future__ import annotations

from functools import reduce
from operator import or_

import numpy as np

from napari_peftsam.embeddings import Tile, TileGrid
from napari_peftsam.types import BoolArray, FloatArray, Window

__all__ = ["NOTHING", "Mosaic", "lattice"]

NOTHING = -10.0
"""Logit of what no tile has seen: surely not the object."""
_UNSURE = 0.25  # weight below which a tile's word is not the last: the outer half of its halo
_SPECK = 4  # logits; fewer that reach over a border do not lead into the next tile


def lattice(window: Window, grid: TileGrid) -> Window:
    """Convert a window whose corner is on the lattice from pixels to logits."""
    stride = grid.stride
    height, width = (-(-n // stride) for n in window.shape)
    return Window(window.row // stride, window.col // stride, height, width)


class Mosaic:
    """Logits of one object by tile; together they are blended without a seam.

    A tile's weight is 1 inside and falls off linearly over twice the halo, the overlap
    with its neighbour, towards its edges (but not towards the edges of the image). Weights
    are divided by their sum: where only one tile has logits, they are used as they are.
    All windows here are counted in logits.
    """

    def __init__(self, grid: TileGrid) -> None:
        self.grid = grid
        self._pieces: dict[Tile, FloatArray] = {}

    def put(self, tile: Tile, logits: FloatArray) -> None:
        """Add the logits ``(h, w)`` of a tile's window."""
        self._pieces[tile] = logits

    @property
    def window(self) -> Window:
        """The smallest window that holds all tiles put here (at least one)."""
        return reduce(or_, (lattice(tile.window, self.grid) for tile in self._pieces))

    def blend(self, window: Window) -> tuple[FloatArray, BoolArray]:
        """Return the logits ``(h, w)`` in a window, `NOTHING` where unseen, and what is seen."""
        total = np.zeros(window.shape, np.float32)
        weight = np.zeros(window.shape, np.float32)
        for here, piece, share in self._parts(window):
            total[here] += piece * share
            weight[here] += share
        seen = weight > 0
        logits = np.full(window.shape, NOTHING, np.float32)
        np.divide(total, weight, out=logits, where=seen)
        return logits, seen

    def next_tiles(self) -> tuple[Tile, ...]:
        """Return the tiles that the mask goes on into, as it reaches its tiles' outer edges."""
        window = self.window
        logits, _ = self.blend(window)
        sureness = np.zeros(window.shape, np.float32)
        for here, _, share in self._parts(window):
            np.maximum(sureness[here], share, out=sureness[here])
        rows, cols = np.nonzero((logits > 0) & (sureness < _UNSURE) & (sureness > 0))
        stride = self.grid.stride
        rows, cols = (rows + window.row) * stride, (cols + window.col) * stride
        found = self.grid.count_by_tile(rows, cols)
        return tuple(t for t, n in found.items() if n >= _SPECK and t not in self._pieces)

    def _parts(self, window: Window) -> list[tuple[tuple[slice, slice], FloatArray, FloatArray]]:
        """Return where each tile lies in a window, its logits and their weights there."""
        parts = []
        for tile, logits in self._pieces.items():
            own = lattice(tile.window, self.grid)
            both = own & window
            if both:
                inner = both.seen_from(own).slices
                share = _weights(tile, self.grid)[inner]
                parts.append((both.seen_from(window).slices, logits[inner], share))
        return parts


def _weights(tile: Tile, grid: TileGrid) -> FloatArray:
    """Return the weight ``(h, w)`` of each of a tile's logits, above 0."""
    rows, cols = grid.shape
    height, width = lattice(tile.window, grid).shape
    overlap = max(1, 2 * grid.halo // grid.stride)
    down = _ramp(height, overlap, tile.row > 0, tile.row < rows - 1)
    along = _ramp(width, overlap, tile.col > 0, tile.col < cols - 1)
    weights: FloatArray = down[:, None] * along
    return weights


def _ramp(length: int, overlap: int, at_start: bool, at_end: bool) -> FloatArray:
    steps = (np.arange(length, dtype=np.float32) + 0.5) / overlap
    rise = np.minimum(1, steps) if at_start else np.ones(length, np.float32)
    fall = np.minimum(1, steps[::-1]) if at_end else np.ones(length, np.float32)
    ramp: FloatArray = rise * fall
    return ramp
