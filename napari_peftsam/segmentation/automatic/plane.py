"""Proposals for a whole plane, tile by tile; memory does not depend on its size."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from napari_peftsam.embeddings import Embedding, Tile, TiledImage
from napari_peftsam.segmentation.automatic.coarse import look_coarsely
from napari_peftsam.segmentation.automatic.hypotheses import (
    THRESHOLDS,
    Hypotheses,
    find_hypotheses,
)
from napari_peftsam.segmentation.automatic.maps import DenseMaps, working_frame
from napari_peftsam.segmentation.automatic.proposals import Proposal, propose
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.segmentation.tiled import WantedTile
from napari_peftsam.types import BoolArray, Frame, Window

__all__ = ["TileProposals", "propose_in_frame", "propose_in_tiles"]

_FAST = THRESHOLDS[:1]


@dataclass(frozen=True, eq=False)
class TileProposals:
    """What a tile proposes, in pixels of the plane.

    Attributes
    ----------
    seeded
        Hypotheses of the tile.
    empty, cut, elsewhere, left_out
        Of them, those without a mask, those that end at the tile's edge within the plane, those
        whose middle another tile has, and those beyond the most that are asked for.
    coarse
        Whether a grid of clicks stood in for the head that the model lacks.
    """

    tile: Tile
    proposals: tuple[Proposal, ...] = field(repr=False)
    seeded: int
    empty: int = 0
    cut: int = 0
    elsewhere: int = 0
    left_out: int = 0
    coarse: bool = False


def propose_in_frame(
    predictor: Predictor,
    embedding: Embedding,
    *,
    head: nn.Module | None = None,
    taken: BoolArray | None = None,
    fast: bool = False,
) -> tuple[list[Proposal], Hypotheses]:
    """Propose all objects of what one embedding shows; without a head, by a grid of clicks.

    Parameters
    ----------
    head
        See `DenseMaps.of`.
    taken
        ``(H, W)``: pixels of objects that are known.
    fast
        Only the watershed's best threshold.
    """
    known = None if taken is None else _resized(taken, working_frame(embedding.frame))
    if head is None and predictor.model.dense_head is None:
        maps, hypotheses = look_coarsely(predictor, embedding, known)
        return propose(predictor, embedding, maps, hypotheses), hypotheses
    maps = DenseMaps.of(predictor.model, embedding, head)
    hypotheses = find_hypotheses(maps, known, _FAST if fast else THRESHOLDS)
    return propose(predictor, embedding, maps, hypotheses), hypotheses


def propose_in_tiles(
    predictor: Predictor,
    image: TiledImage,
    head: nn.Module | None = None,
    taken: Callable[[Window], BoolArray] | None = None,
    fast: bool = False,
    part: Window | None = None,
) -> Generator[WantedTile | TileProposals, Embedding, int]:
    """Propose all objects of a plane.

    Parameters
    ----------
    head, fast
        See `propose_in_frame`.
    taken
        Returns which pixels of a window of the plane belong to known objects.
    part
        Tiles whose cores it touches; default: all.

    Yields
    ------
    WantedTile or TileProposals
        Send the embedding of a wanted tile; its proposals follow.

    Returns
    -------
    int
        Number of tiles.
    """
    grid = image.grid
    tiles = grid.tiles_in(part or grid.window)
    for index, tile in enumerate(tiles):
        embedding = yield WantedTile(tile, index, len(tiles))
        known = None if taken is None else _padded(taken(tile.window & grid.window), tile)
        found, hypotheses = propose_in_frame(
            predictor, embedding, head=head, taken=known, fast=fast
        )
        corner = tile.window.row, tile.window.col
        moved = [one.moved(corner) for one in found] if len(grid) > 1 else found
        own = [one for one in moved if _is_own(one, tile)]
        whole = [one for one in own if not _is_cut(one, tile, grid.window)]
        yield TileProposals(
            tile,
            tuple(whole),
            seeded=len(hypotheses),
            empty=len(hypotheses) - len(found),
            cut=len(own) - len(whole),
            elsewhere=len(found) - len(own),
            left_out=hypotheses.left_out,
            coarse=hypotheses.coarse,
        )
    return len(tiles)


def _is_own(one: Proposal, tile: Tile) -> bool:
    click = one.prompts.points[0]
    return tile.core.contains(click.row, click.col)


def _is_cut(one: Proposal, tile: Tile, plane: Window) -> bool:
    """Return whether a mask ends where the tile does, and the plane goes on."""
    _, window = one.drawn
    inner = tile.window & plane
    (row0, col0), (row1, col1) = (inner.row, inner.col), inner.stop
    bottom, right = window.stop
    return (
        (window.row <= row0 and row0 > plane.row)
        or (window.col <= col0 and col0 > plane.col)
        or (bottom >= row1 and row1 < plane.stop[0])
        or (right >= col1 and col1 < plane.stop[1])
    )


def _padded(mask: BoolArray, tile: Tile) -> BoolArray:
    """Return a mask of a tile's part of the plane in the whole tile."""
    height, width = tile.window.shape
    return np.pad(mask, ((0, height - mask.shape[0]), (0, width - mask.shape[1])))


def _resized(mask: BoolArray, frame: Frame) -> BoolArray:
    rows, cols = (
        ((np.arange(n) + 0.5) * m / n).astype(int).clip(max=m - 1)
        for n, m in zip((frame.height, frame.width), mask.shape, strict=True)
    )
    found: BoolArray = mask[np.ix_(rows, cols)]
    return found
