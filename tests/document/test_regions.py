"""What edits are saved by: who owns a pixel first, and which tiles positions lie in."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.document.regions import first_of, tally
from napari_peftsam.document.tables import TileKey, tiles_at


@pytest.mark.parametrize("scale", [1, 1000], ids=["dense", "sparse"])
def test_the_first_owner_keeps_a_position(scale: int) -> None:
    where, owner = np.array([5, 6, 7, 3, 6, 9]) * scale, np.array([0, 0, 0, 1, 1, 2])
    found, owners = first_of(where, owner)
    assert (found // scale).tolist() == [3, 5, 6, 7, 9]
    assert owners.tolist() == [1, 0, 0, 0, 2]


def test_pixels_are_counted_by_label_and_place() -> None:
    places, labels = np.array([0, 0, 1, 0, 2, 2]), np.array([4, 4, 4, 4, 0, 3])
    assert list(tally(places, labels)) == [(3, 2, 1), (4, 0, 3), (4, 1, 1)]


@pytest.mark.parametrize(
    ("where", "tiles"),
    [
        ([np.array([0])], [(0, 0, 0)]),
        ([np.arange(510, 514)], [(0, 0, 0), (0, 0, 1)]),
        ([np.arange(590, 610)], [(0, 0, 0), (0, 0, 1)]),
        ([np.arange(600 * 511, 600 * 513)], [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1)]),
        ([np.arange(600 * 520 - 1, 600 * 520 + 1)], [(0, 1, 1), (1, 0, 0)]),
        ([np.array([600 * 520]), np.array([3])], [(0, 0, 0), (1, 0, 0)]),
    ],
    ids=["pixel", "across a border", "two lines", "four tiles", "two planes", "two changes"],
)
def test_the_tiles_of_positions(where: list[np.ndarray], tiles: list[tuple[int, int, int]]) -> None:
    runs = [(each[:1], np.array([len(each)])) for each in where]
    found = tiles_at("i", "objects", runs, (2, 520, 600))
    assert list(found) == [TileKey("i", "objects", *each) for each in tiles]
