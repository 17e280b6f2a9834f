"""Objects of different classes may overlap, as a nucleus in a cell; those of one do not."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.document import (
    AcceptObjects,
    Action,
    Categorize,
    DeleteObjects,
    Document,
    ImportLabels,
    MergeObjects,
    NewObject,
    PlaneKey,
    Reopen,
    UseCategory,
    replay,
    verify,
)
from napari_peftsam.document.records import OBJECTS, label_set_of
from napari_peftsam.errors import LabelError
from napari_peftsam.types import Prompts
from tests.document._cases import (
    CELLS,
    IMAGE,
    SHAPE,
    check_invariants,
    painted,
    rectangle,
    snapshot,
)

CELL, NUCLEUS = rectangle(2, 2, 14, 18), rectangle(5, 6, 9, 11)
NUCLEI = label_set_of("nucleus")


def accept(document: Document, mask: np.ndarray, overlap: str = "keep", label: int = 0) -> int:
    made = NewObject(Prompts(), mask, 0.9, label=label)
    labels = document.do(AcceptObjects(CELLS, (made,), overlap))  # type: ignore[arg-type]
    return int(labels[0])


@pytest.fixture
def nested(document: Document) -> Document:
    """A document with a nucleus, 2, in a cell without a class, 1."""
    assert accept(document, CELL) == 1
    document.do(UseCategory("nucleus"))
    assert accept(document, NUCLEUS) == 2
    return document


def test_a_nucleus_lies_in_a_cell(nested: Document) -> None:
    image = nested.image(IMAGE)
    assert (image.area(1), image.area(2)) == (CELL.sum(), NUCLEUS.sum())
    assert image.label_sets == (OBJECTS, NUCLEI)
    assert [image.set_of(label) for label in (1, 2)] == [OBJECTS, NUCLEI]
    np.testing.assert_array_equal(nested.labels(CELLS) == 1, CELL)
    np.testing.assert_array_equal(nested.labels(CELLS, NUCLEI) == 2, NUCLEUS)
    check_invariants(nested)


@pytest.mark.parametrize(
    ("at", "label"),
    [
        pytest.param((6, 7), 2, id="the smaller one where both lie"),
        pytest.param((3, 3), 1, id="the only one"),
        pytest.param((20, 20), 0, id="none"),
    ],
)
def test_the_object_at_a_pixel(nested: Document, at: tuple[int, int], label: int) -> None:
    assert nested.image(IMAGE).object_at(CELLS, *at) == label


@pytest.mark.parametrize("overlap", ["keep", "overwrite", "replace"])
def test_overlap_is_a_matter_of_one_class(nested: Document, overlap: str) -> None:
    accept(nested, rectangle(5, 8, 10, 13), overlap)
    assert nested.image(IMAGE).area(1) == CELL.sum()
    expected = {"keep": {1, 2, 3}, "overwrite": {1, 2, 3}, "replace": {1, 3}}[overlap]
    assert set(nested.image(IMAGE).records) == expected
    check_invariants(nested)


def test_a_reopened_object_stays_in_its_class(nested: Document) -> None:
    nested.do(Reopen(CELLS, 1))
    assert accept(nested, rectangle(2, 2, 15, 19), label=1) == 1
    image = nested.image(IMAGE)
    assert (image.area(1), image.set_of(1), image.records[1].category) == (13 * 17, OBJECTS, "")
    check_invariants(nested)


def test_objects_of_several_classes_are_accepted_at_once(nested: Document) -> None:
    made = tuple(NewObject(Prompts(), mask, category=name) for mask, name in
                 ((rectangle(16, 2, 22, 9), "cell"), (rectangle(17, 3, 20, 6), "")))  # fmt: skip
    assert nested.do(AcceptObjects(CELLS, made)) == (3, 4)
    image = nested.image(IMAGE)
    assert [image.records[n].category for n in (3, 4)] == ["cell", "nucleus"]
    assert [image.set_of(n) for n in (3, 4)] == [label_set_of("cell"), NUCLEI]
    assert nested.undo() == "accept 2 objects"
    assert set(image.records) == {1, 2}
    check_invariants(nested)


def test_another_class_moves_an_object(nested: Document) -> None:
    before = snapshot(nested)
    nested.do(Categorize(IMAGE, (1,), "cell"))
    image = nested.image(IMAGE)
    assert image.label_sets == (OBJECTS, label_set_of("cell"), NUCLEI)
    assert not image.labels.any()
    check_invariants(nested)
    nested.undo()
    assert snapshot(nested) == before
    nested.redo()
    assert image.set_of(1) == label_set_of("cell")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        pytest.param(Categorize(IMAGE, (2,), ""), "of no class, 1, lies there", id="onto another"),
        pytest.param(Categorize(IMAGE, (1, 2), "cell"), "of cell, ., lies there", id="both"),
        pytest.param(
            MergeObjects(IMAGE, (1, 2)), "2 has the class nucleus, not no class", id="merge"
        ),
        pytest.param(
            ImportLabels(IMAGE, np.full(SHAPE, 2)), "2 has the class nucleus", id="import"
        ),
        pytest.param(UseCategory("a\nb"), "no name of a class", id="a name of two lines"),
        pytest.param(Categorize(IMAGE, (1,), "x" * 61), "at most 60", id="a long name"),
    ],
)
def test_what_would_mix_classes_is_refused(nested: Document, action: Action, message: str) -> None:
    before = snapshot(nested)
    with pytest.raises(LabelError, match=message):
        nested.do(action)
    assert snapshot(nested) == before


def test_a_brush_paints_in_the_layer_of_its_class(nested: Document) -> None:
    nested.do(painted(nested, IMAGE, rectangle(10, 6, 12, 11), 3, NUCLEI))
    image = nested.image(IMAGE)
    assert (image.records[3].category, image.set_of(3)) == ("nucleus", NUCLEI)
    assert image.area(1) == CELL.sum()
    with pytest.raises(LabelError, match="object 1 has no class, not the class nucleus"):
        nested.do(painted(nested, IMAGE, rectangle(1, 1, 2, 2), 1, NUCLEI))


def test_the_next_number_is_above_those_of_all_classes(document: Document) -> None:
    high, low = rectangle(2, 2, 5, 5) * 5, rectangle(2, 2, 5, 5) * 2
    document.do(ImportLabels(IMAGE, high, label_set=label_set_of("cell"), others={NUCLEI: low}))
    assert document.image(IMAGE).next_label == 6
    check_invariants(document)
    document.undo()
    assert document.image(IMAGE).next_label == 1


def test_what_is_painted_has_the_class_of_its_layer(document: Document) -> None:
    document.do(UseCategory("nucleus"))
    document.do(painted(document, IMAGE, rectangle(1, 1, 3, 3), 1))
    assert (document.records(IMAGE)[0].category, document.image(IMAGE).set_of(1)) == ("", OBJECTS)


def test_an_image_is_added_with_objects_of_several_classes() -> None:
    document = Document()
    labels = rectangle(2, 2, 9, 9).astype(np.int32)
    image = document.add_image("x", np.zeros(SHAPE), labels=labels, others={NUCLEI: labels * 2})
    assert {n: r.category for n, r in document.image(image).records.items()} == {
        1: "",
        2: "nucleus",
    }
    assert document.undo() is None
    check_invariants(document)


def test_objects_of_several_classes_are_deleted_at_once(nested: Document) -> None:
    before = snapshot(nested)
    nested.do(DeleteObjects(IMAGE, (1, 2)))
    assert nested.planes_with_objects() == ()
    check_invariants(nested)
    nested.undo()
    assert snapshot(nested) == before
    assert nested.planes_with_objects() == (PlaneKey(IMAGE),)


def test_label_sets_are_saved_and_replayed(nested: Document) -> None:
    nested.do(Categorize(IMAGE, (1,), "cell"))
    reopened = Document(nested.store)
    check_invariants(reopened)
    assert reopened.image(IMAGE).label_sets == nested.image(IMAGE).label_sets
    assert reopened.records(IMAGE) == nested.records(IMAGE)
    assert verify(nested.store)[1] == []
    check_invariants(replay(nested.store))
