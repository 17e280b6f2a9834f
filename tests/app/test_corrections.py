"""Corrections of accepted objects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_peftsam.app.corrections import (
    cut_object,
    grow_objects,
    relabel_object,
    split_at,
    split_object,
)
from napari_peftsam.document import Document, Paint, PlaneKey
from napari_peftsam.errors import LabelError
from tests.document._cases import CELLS, IMAGE, STACK, accept, check_invariants, make_document

ROWS, COLS = np.mgrid[:24, :32]


def disc(row: float, col: float, radius: float) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLS - col) ** 2 <= radius**2


PAIR = disc(12, 9, 7) | disc(12, 20, 6)
LARGE = disc(12, 9, 7)


@pytest.fixture
def document() -> Document:
    return make_document()


def areas(document: Document, plane: PlaneKey = CELLS) -> dict[int, int]:
    labels = document.labels(plane)
    return {int(n): int((labels == n).sum()) for n in np.unique(labels[labels > 0])}


def split(document: Document, label: int) -> Paint:
    return split_object(document.image(IMAGE), CELLS, label)


def cut(document: Document, label: int) -> Paint:
    return cut_object(document.image(IMAGE), CELLS, [(0, 15), (23, 15)])


def split_by_clicks(document: Document, label: int) -> Paint:
    return split_at(document.image(IMAGE), CELLS, label, [(12, 20), (13.4, 6)])


@pytest.mark.parametrize("correct", [split, cut, split_by_clicks])
def test_two_that_touch_become_two(
    document: Document, correct: Callable[[Document, int], Paint]
) -> None:
    label = accept(document, PAIR)
    document.do(correct(document, label))
    labels = document.labels(CELLS)
    assert np.array_equal(labels > 0, PAIR)  # no pixel is lost
    assert sorted(areas(document)) == [1, 2]
    assert labels[12, 4] == 1  # the larger part keeps its number
    assert labels[12, 24] == 2
    assert (labels[:, :14][labels[:, :14] > 0] == 1).all()
    first, second = document.records(IMAGE)
    assert first.prompts.points
    assert (first.corrected, second.corrected) == (True, True)
    assert (second.model, second.adapter, second.score) == ("tiny", "v1", None)
    assert document.undo_label == "split 1"
    document.undo()
    assert areas(document) == {1: int(PAIR.sum())}
    check_invariants(document)


BUD = disc(12, 11, 10) | disc(12, 24, 4)
SAUSAGE = (abs(ROWS - 12) <= 3) & (COLS >= 3) & (COLS < 29)


@pytest.mark.parametrize(
    ("mask", "places", "border"),
    [
        (BUD, [(12, 11), (12, 25)], 20),
        (BUD, [(4, 11), (12, 26)], 20),
        (LARGE, [(12, 5), (12, 12)], 9),
        (SAUSAGE, [(12, 5), (12, 26)], 16),
        (SAUSAGE, [(12, 5), (12, 14)], 10),
    ],
    ids=["at the neck", "clicks near the edge", "round", "long", "one part longer"],
)
def test_two_clicks_split_where_it_is_narrow_else_half_way(
    document: Document, mask: np.ndarray, places: list[tuple[float, float]], border: int
) -> None:
    label = accept(document, mask)
    document.do(split_at(document.image(IMAGE), CELLS, label, places))
    labels = document.labels(CELLS)
    assert np.array_equal(labels > 0, mask)
    left, right = (int(labels[round(row), round(col)]) for row, col in places)
    assert sorted((left, right)) == [1, 2]
    assert (labels[:, : border - 2][mask[:, : border - 2]] == left).all()
    assert (labels[:, border + 2 :][mask[:, border + 2 :]] == right).all()
    document.undo()
    assert areas(document) == {1: int(mask.sum())}
    check_invariants(document)


@pytest.mark.parametrize(
    "places", [[(12, 9), (12, 9.2)], [(12, 9), (0, 31)], [(-5, 9), (12, 9)]],
    ids=["one pixel", "outside", "outside the plane"],
)  # fmt: skip
def test_two_places_in_the_object_are_needed(
    document: Document, places: list[tuple[float, float]]
) -> None:
    label = accept(document, LARGE)
    with pytest.raises(LabelError, match="click on two places in object 1"):
        split_at(document.image(IMAGE), CELLS, label, places)


def test_what_is_narrow_nowhere_is_not_split(document: Document) -> None:
    label = accept(document, LARGE)
    with pytest.raises(LabelError, match="narrow nowhere: cut it"):
        split(document, label)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ([(0, 0), (1, 3)], "no object under the line"),
        ([(12, 0), (12, 8)], "does not divide object 1"),
        ([(-9, -9), (-5, -5)], "no object under the line"),
    ],
    ids=["beside it", "not through it", "outside the image"],
)
def test_a_line_must_divide_an_object(
    document: Document, path: list[tuple[float, float]], why: str
) -> None:
    accept(document, LARGE)
    with pytest.raises(LabelError, match=why):
        cut_object(document.image(IMAGE), CELLS, path)


def test_pieces_beside_the_line_keep_their_number(document: Document) -> None:
    label = accept(document, LARGE | disc(4, 28, 2))
    document.do(cut_object(document.image(IMAGE), CELLS, [(0, 7), (23, 7)]))
    assert sorted(areas(document)) == [1, 2]
    assert document.labels(CELLS)[4, 28] == label


@pytest.mark.parametrize("path", [[(0, 1), (23, 17)], [(5, 16), (12, 10), (19, 16)]])
def test_a_slanted_line_leaves_no_gap(document: Document, path: list[tuple[float, float]]) -> None:
    accept(document, LARGE)
    document.do(cut_object(document.image(IMAGE), CELLS, path))
    assert np.array_equal(document.labels(CELLS) > 0, LARGE)
    assert len(areas(document)) >= 2
    check_invariants(document)


def test_objects_grow_where_nothing_is(document: Document) -> None:
    first, second = accept(document, disc(12, 9, 4)), accept(document, disc(12, 18, 4))
    before = areas(document)
    for _ in range(3):
        document.do(grow_objects(document.image(IMAGE), CELLS, (first, second)))
    after = areas(document)
    assert after[first] > before[first]
    assert after[second] > before[second]
    assert document.undo_label == "grow objects"
    check_invariants(document)


def test_an_object_at_the_edge_grows(document: Document) -> None:
    label = accept(document, disc(0, 0, 4))
    document.do(grow_objects(document.image(IMAGE), CELLS, (label,)))
    assert areas(document)[label] > disc(0, 0, 4).sum()


def test_something_is_left_of_what_shrinks(document: Document) -> None:
    label = accept(document, disc(12, 9, 3))
    for _ in range(6):
        document.do(grow_objects(document.image(IMAGE), CELLS, (label,), -1))
    assert 0 < areas(document)[label] < disc(12, 9, 3).sum()


def test_an_object_gets_another_number_in_all_planes(document: Document) -> None:
    label = accept(document, LARGE, plane=STACK)
    before = document.records(STACK.image)[0]
    document.do(relabel_object(document.image(STACK.image), label, 12))
    (record,) = document.records(STACK.image)
    assert areas(document, STACK) == {12: int(LARGE.sum())}
    assert (record.label, record.planes, record.model) == (12, before.planes, before.model)
    assert document.undo_label == f"renumber {label}"


@pytest.mark.parametrize(("new", "why"), [(0, "numbers start at 1"), (2, "an object 2 already")])
def test_a_number_must_be_free(document: Document, new: int, why: str) -> None:
    accept(document, disc(5, 5, 3))
    accept(document, disc(15, 15, 3))
    with pytest.raises(LabelError, match=why):
        relabel_object(document.image(IMAGE), 1, new)


def test_corrections_concern_the_shown_plane(document: Document) -> None:
    label = accept(document, LARGE, plane=STACK)
    image = document.image(STACK.image)
    with pytest.raises(LabelError, match="no selected object lies in this plane"):
        grow_objects(image, PlaneKey(STACK.image, (0,)), (label,))
    other = accept(document, disc(5, 25, 3), plane=PlaneKey(STACK.image, (0,)))
    document.do(grow_objects(image, STACK, (label, other)))  # the other one is left alone
    assert areas(document, STACK)[label] > LARGE.sum()
