"""Prompts in a large image, decoded tile by tile, followed across borders and blended."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np
from scipy import ndimage

from napari_peftsam.embeddings import Embedding, Tile, TileGrid
from napari_peftsam.errors import PromptError
from napari_peftsam.segmentation.crops import NOTHING, Crop
from napari_peftsam.segmentation.predictor import Decoded, Predictor
from napari_peftsam.segmentation.region_labels import enlarged
from napari_peftsam.types import (
    BoolArray,
    Box,
    FloatArray,
    MaskPrompt,
    Point,
    Prediction,
    Prompts,
    Window,
)

__all__ = ["MOST_TILES", "WantedTile", "predict_in_tiles", "predict_many_in_tiles"]

MOST_TILES = 25
"""Most tiles into which one object is followed, or which a box may span."""
_AGREEMENT = 0.5  # IoU in the overlap from which on a neighbouring tile is believed
_OUTPUTS = 4
_UNSURE = 0.25  # weight below which a tile's word is not the last: the outer half of its halo
_SPECK = 4  # logits; fewer that reach over a border do not lead into the next tile


@dataclass(frozen=True)
class WantedTile:
    """A tile whose embedding is needed next.

    Attributes
    ----------
    tile
        The tile.
    index, total
        It is number `index` (from 0) of `total` as far as is known by now.
    """

    tile: Tile
    index: int
    total: int


def predict_in_tiles(
    predictor: Predictor, grid: TileGrid, prompts: Prompts, mask_prompt: MaskPrompt | None = None
) -> Generator[WantedTile, Embedding, Prediction]:
    """Predict the candidates for one object of an image plane.

    A single tile is decoded directly. Of several, the one that holds the prompts comes first.
    Where the best candidate reaches the outer half of a tile's halo, it is followed into the
    next tile. There the part of the mask that both tiles see is the prompt; the decoder's
    output that agrees with it best is taken, if their IoU is above one half. The other
    candidates are followed through the same tiles only.

    Parameters
    ----------
    prompts
        At least one point or a box, in pixels of the image. A box is cut at its edges.
    mask_prompt
        A candidate of the last prediction for this object, to refine it.

    Yields
    ------
    WantedTile
        Send the embedding of this tile.

    Returns
    -------
    Prediction
        Of a single tile, the whole plane; else the part of it that holds the candidates,
        and nothing on the way to it has the size of the plane.

    Raises
    ------
    PromptError
        If there are no prompts, one lies outside the image, or they span too many tiles.
    """
    if not prompts:
        raise PromptError("there is no prompt: give at least one point or a box")
    prompts.check_inside((grid.height, grid.width))
    if len(grid) == 1:
        embedding = yield WantedTile(grid.tile(0, 0), 0, 1)
        logits = None if mask_prompt is None else mask_prompt.logits
        return predictor.predict(embedding, prompts, logits)
    wanted = list(_first_tiles(grid, prompts))
    if len(wanted) > MOST_TILES:
        raise PromptError(
            f"the prompts span {len(wanted)} tiles of {grid.side} pixels, the limit is "
            f"{MOST_TILES}: prompt a smaller object"
        )
    work = _Object(predictor, grid, prompts, mask_prompt)
    done = 0
    while done < len(wanted):
        tile = wanted[done]
        embedding = yield WantedTile(tile, done, len(wanted))
        work.see(tile, embedding)
        done += 1
        if done == len(wanted):
            wanted += work.next_tiles(wanted)[: MOST_TILES - done]
    return work.prediction()


def predict_many_in_tiles(
    predictor: Predictor, grid: TileGrid, prompts: Sequence[Prompts], crop: Crop | None = None
) -> Generator[WantedTile, Embedding, list[Prediction]]:
    """Predict the best candidate of several objects; in a single tile, in batches.

    Of several tiles, which are parts of the image already, no `crop` is taken.

    Yields
    ------
    WantedTile
        Send the embedding of this tile.
    """
    if len(grid) == 1:
        embedding = yield WantedTile(grid.tile(0, 0), 0, 1)
        return predictor.predict_many(embedding, prompts, candidates=1, crop=crop)
    found = []
    for one in prompts:
        prediction = yield from predict_in_tiles(predictor, grid, one)
        found.append(prediction)
    return found


class _Object:
    """One object's candidates while its tiles are decoded one after the other."""

    def __init__(
        self, predictor: Predictor, grid: TileGrid, prompts: Prompts, mask_prompt: MaskPrompt | None
    ) -> None:
        self._predictor = predictor
        self._grid = grid
        self._prompts = prompts
        self._mask_prompt = mask_prompt
        self._mosaics: list[Mosaic] = []
        self._scores: FloatArray = np.zeros(0, np.float32)

    def see(self, tile: Tile, embedding: Embedding) -> None:
        """Decode a tile and add its part of each candidate."""
        if not self._mosaics:
            self._begin(tile, embedding)
            return
        window = lattice(tile.window, self._grid)
        own = self._prompts.within(tile.window)
        for mosaic in self._mosaics:
            logits, seen = mosaic.blend(window)
            mask = logits > 0
            prompts = own if not mask.any() else own.with_point(_deepest(mask, self._grid.stride))
            if not _says_where(prompts):
                continue
            remembered = self._remembered(window, logits, seen)
            [answer] = self._predictor.decode_many(
                embedding, [prompts], [remembered], keep=_OUTPUTS
            )
            chosen = _agreeing(answer, mask, seen, trusted=_says_where(own))
            if chosen is not None:
                mosaic.put(tile, chosen)

    def _begin(self, tile: Tile, embedding: Embedding) -> None:
        window = lattice(tile.window, self._grid)
        nothing = np.full(window.shape, NOTHING, np.float32)
        remembered = self._remembered(window, nothing, nothing > 0)
        prompts = self._prompts.within(tile.window)
        [answer] = self._predictor.decode_many(embedding, [prompts], [remembered])
        self._scores = answer.scores.cpu().numpy()
        for logits in _of_window(answer, window):
            mosaic = Mosaic(self._grid)
            mosaic.put(tile, logits)
            self._mosaics.append(mosaic)

    def next_tiles(self, known: Sequence[Tile]) -> list[Tile]:
        """Return the tiles into which the best candidate goes on."""
        return [tile for tile in self._mosaics[0].next_tiles() if tile not in known]

    def prediction(self) -> Prediction:
        """Return all candidates in pixels of the image."""
        grid, window = self._grid, self._window()
        logits = np.stack([mosaic.blend(window)[0] for mosaic in self._mosaics])
        large, offset = enlarged(logits, grid.stride)
        row, col = window.row * grid.stride, window.col * grid.stride
        row, col = row + offset[0], col + offset[1]
        inside = Window(row, col, *large.shape[1:]) & grid.window  # tiles may reach over the end
        masks = large[:, : inside.height, : inside.width] > 0
        corner = window.row * grid.stride, window.col * grid.stride
        whole = grid.window.shape
        return Prediction(masks, self._scores, logits, (row, col), corner, whole).trimmed()

    def _window(self) -> Window:
        window = self._mosaics[0].window
        for mosaic in self._mosaics[1:]:
            window |= mosaic.window
        return window

    def _remembered(self, window: Window, logits: FloatArray, seen: BoolArray) -> FloatArray | None:
        """Return the mask prompt ``(4 h, 4 w)`` of a tile, None if nothing is known of it.

        Logits of other tiles count most, then the last prediction.
        """
        known = logits.copy()
        if self._mask_prompt is not None:
            stride = self._grid.stride
            row, col = (n // stride for n in self._mask_prompt.offset)
            old = Window(row, col, *self._mask_prompt.logits.shape)
            both = old & window
            if both:
                here = both.seen_from(window).slices
                before = self._mask_prompt.logits[both.seen_from(old).slices]
                known[here] = np.where(seen[here], known[here], before)
        if not (known > 0).any():
            return None
        return _squared(known)


def _squared(logits: FloatArray) -> FloatArray:
    side = max(logits.shape)
    missing = [(0, side - n) for n in logits.shape]
    return np.pad(logits, missing, constant_values=NOTHING)


def _of_window(decoded: Decoded, window: Window) -> FloatArray:
    """Return the logits ``(K, h, w)`` of a tile without what pads it to a square."""
    logits: FloatArray = decoded.logits[:, : window.height, : window.width].float().cpu().numpy()
    return logits


def _agreeing(
    decoded: Decoded, mask: BoolArray, seen: BoolArray, trusted: bool
) -> FloatArray | None:
    """Return the output ``(h, w)`` that agrees best with what is known of the mask.

    None if none agrees well and the user's own prompts do not point there (`trusted`).
    """
    logits = _of_window(decoded, Window(0, 0, *mask.shape))
    first: FloatArray = logits[0]
    if not mask.any():
        return first
    answers = (logits > 0) & seen
    both = (answers & mask).sum((1, 2))
    agreement = both / np.maximum(1, (answers | mask).sum((1, 2)))
    best = int(agreement.argmax())
    if agreement[best] < _AGREEMENT:
        return first if trusted else None
    agreeing: FloatArray = logits[best]
    return agreeing


def _first_tiles(grid: TileGrid, prompts: Prompts) -> Iterable[Tile]:
    """Return the tiles to begin with, the one around the middle of the prompts first."""
    extent = prompts.extent
    middle = grid.tile_at(*extent.middle)
    if _holds(middle, extent, grid):
        return [middle]
    # What reaches into another core by less than half a halo is seen from here as well.
    margin = grid.halo // 2
    tiles = {grid.tile_at(p.row, p.col): None for p in prompts.points if p.positive}
    if prompts.box is not None:
        rows = _shrunk(prompts.box.row0, prompts.box.row1, margin)
        cols = _shrunk(prompts.box.col0, prompts.box.col1, margin)
        tiles |= dict.fromkeys(grid.tiles_in(Window.from_slices(rows, cols)))
    first = middle if middle in tiles else next(iter(tiles))
    return sorted(tiles, key=lambda t: max(abs(t.row - first.row), abs(t.col - first.col)))


def _shrunk(start: float, stop: float, margin: int) -> slice:
    low, high = int(start), int(np.ceil(stop))
    if high - low > 2 * margin:
        low, high = low + margin, high - margin
    return slice(low, high)


def _holds(tile: Tile, extent: Box, grid: TileGrid) -> bool:
    """Return True if a box lies in a tile, at least half a halo from its edges."""
    margin = grid.halo / 2
    bottom, right = tile.window.stop
    rows, cols = grid.shape
    return (
        (extent.row0 >= tile.window.row + margin or tile.row == 0)
        and (extent.col0 >= tile.window.col + margin or tile.col == 0)
        and (extent.row1 <= bottom - margin or tile.row == rows - 1)
        and (extent.col1 <= right - margin or tile.col == cols - 1)
    )


def _says_where(prompts: Prompts) -> bool:
    return prompts.box is not None or any(p.positive for p in prompts.points)


def _deepest(mask: BoolArray, stride: int) -> Point:
    """Return the point of a mask ``(h, w)`` of logits that is farthest from its outline."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, col = np.unravel_index(distance.argmax(), mask.shape)
    return Point((int(row) + 0.5) * stride - 0.5, (int(col) + 0.5) * stride - 0.5)


# --- blending -------------------------------------------------------------------------


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
