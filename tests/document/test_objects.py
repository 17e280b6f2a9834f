"""Objects: accepted, painted, imported, merged and deleted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AcceptObjects,
    AddPoint,
    Categorize,
    ChooseCandidate,
    DeleteObjects,
    Discard,
    Document,
    ImportLabels,
    MergeObjects,
    ModelVersion,
    NewObject,
    ObjectPlane,
    ObjectRecord,
    Paint,
    PaintAtom,
    PlaneKey,
    QueuePrompts,
    Reopen,
    UseCategory,
    paint,
)
from napari_peftsam.errors import LabelError, PromptError
from napari_peftsam.types import Box, Point, Prompts
from tests.document._cases import (
    CELLS,
    IMAGE,
    SHAPE,
    STACK,
    accept,
    answer,
    check_invariants,
    new_objects,
    painted,
    rectangle,
)

LEFT, RIGHT = rectangle(2, 2, 10, 10), rectangle(2, 8, 10, 20)


def test_accept_records_where_it_comes_from(document: Document) -> None:
    document.do(AddPoint(STACK, Point(5, 5)))
    answer(document, LEFT, RIGHT, made_by=ModelVersion("builtin", "v2"))
    document.do(ChooseCandidate(1))
    assert document.do(Accept()) == 1
    assert document.current is None
    (record,) = document.records("stack")
    assert record.planes == (ObjectPlane(STACK.index, Prompts((Point(5, 5),))),)
    assert (record.index, record.prompts) == (STACK.index, Prompts((Point(5, 5),)))
    assert (record.category, record.label_set) == ("", "")
    assert (record.model, record.adapter, record.candidate) == ("builtin", "v2", 1)
    assert (record.score, record.corrected) == (pytest.approx(0.5), False)
    assert record.created == record.modified == "2025-01-01T00:00:04+00:00"
    assert document.images["stack"].labels[1][RIGHT].all()
    assert document.images["stack"].labels.sum() == RIGHT.sum()


@pytest.mark.parametrize(
    ("overlap", "areas"),
    [
        pytest.param("keep", {1: 64, 2: 80}, id="keep"),
        pytest.param("overwrite", {1: 48, 2: 96}, id="overwrite"),
        pytest.param("replace", {1: 64, 2: 80}, id="replace, but it shares a quarter only"),
    ],
)
def test_overlap(document: Document, overlap, areas: dict[int, int]) -> None:
    accept(document, LEFT)
    document.do(AddPoint(CELLS, Point(5, 12)))
    answer(document, RIGHT)
    document.do(Accept(overlap=overlap))
    assert {r.label: document.image("cells").area(r.label) for r in document.records("cells")} == (
        areas
    )
    check_invariants(document)


def test_an_object_overwritten_entirely_is_gone(document: Document) -> None:
    accept(document, LEFT)
    document.do(AddPoint(CELLS, Point(5, 5)))
    answer(document, rectangle(0, 0, 20, 20))
    assert document.do(Accept(overlap="overwrite")) == 2
    assert [r.label for r in document.records("cells")] == [2]
    document.undo()
    assert [r.label for r in document.records("cells")] == [1]


@pytest.mark.parametrize(
    "new", [rectangle(0, 0, 20, 20), rectangle(2, 2, 5, 5)], ids=["around it", "within it"]
)
def test_an_object_is_replaced(document: Document, new) -> None:
    accept(document, LEFT)
    accept(document, rectangle(20, 25, 24, 28))
    document.do(AddPoint(CELLS, Point(3, 3)))
    answer(document, new)
    assert document.do(Accept(overlap="replace")) == 3
    np.testing.assert_array_equal(document.labels(CELLS) == 3, new)
    assert [r.label for r in document.records("cells")] == [2, 3]
    check_invariants(document)
    document.undo()
    assert [r.label for r in document.records("cells")] == [1, 2]


def test_nothing_to_accept(document: Document) -> None:
    with pytest.raises(PromptError, match="click on an object"):
        document.do(Accept())
    document.do(AddPoint(CELLS, Point(5, 5)))
    with pytest.raises(PromptError, match="wait for the prediction"):
        document.do(Accept())
    answer(document, rectangle(0, 0, 0, 0))
    with pytest.raises(PromptError, match="add a point"):
        document.do(Accept())
    answer(document, LEFT)
    document.do(Accept())
    document.do(AddPoint(CELLS, Point(5, 5)))
    answer(document, LEFT)
    with pytest.raises(PromptError, match="replace them, cut it out of them"):
        document.do(Accept())
    assert document.current is not None  # the prompts are not lost


def test_queued_boxes_one_by_one(document: Document) -> None:
    boxes = [Box(0, 0, 5, 5), Box(6, 6, 9, 9), Box(10, 10, 15, 15)]
    document.do(QueuePrompts.boxes(CELLS, boxes))
    made = []
    for box in boxes:
        assert document.current is not None
        assert document.current.prompts.box == box
        answer(document, rectangle(int(box.row0), int(box.col0), int(box.row1), int(box.col1)))
        made.append(document.do(Accept()))
    assert (made, document.current, document.queue) == ([1, 2, 3], None, ())
    document.undo()
    assert document.queue == (Prompts(box=boxes[2]),)


@pytest.mark.parametrize(
    ("everything", "left"), [pytest.param(False, 1, id="one"), pytest.param(True, 0, id="all")]
)
def test_discard(document: Document, everything: bool, left: int) -> None:
    document.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 5, 5), Box(6, 6, 9, 9)]))
    document.do(Discard(everything=everything))
    assert len(document.queue) == left


def test_queued_boxes_all_at_once(document: Document) -> None:
    boxes = [Box(0, 0, 5, 5), Box(6, 6, 9, 9), Box(10, 10, 15, 15)]
    document.do(QueuePrompts.boxes(CELLS, boxes))
    masks = [rectangle(0, 0, 5, 5), rectangle(1, 1, 4, 4), rectangle(10, 10, 15, 15)]
    objects = [(p, m, 0.8) for p, m in zip(document.queue, masks, strict=True)]
    assert document.do(new_objects(*objects, model="tiny")) == (1, 0, 2)
    assert document.queue == (Prompts(box=boxes[1]),)  # nothing is dropped
    assert document.steps[-1] == "accept 2 objects"
    check_invariants(document)
    document.undo()
    assert not document.records("cells")
    assert len(document.queue) == 3
    with pytest.raises(PromptError, match="empty"):
        document.do(new_objects((Prompts(), rectangle(0, 0, 0, 0), None)))


def test_automatic_objects_leave_the_prompts_alone(document: Document) -> None:
    document.do(AddPoint(CELLS, Point(20, 20)))
    document.do(new_objects((Prompts(), LEFT, 0.8), model="tiny"))
    assert document.current is not None
    assert document.records("cells")[0].source == "automatic"


def test_delete_and_merge(document: Document) -> None:
    first, second = accept(document, LEFT), accept(document, RIGHT)
    third = accept(document, rectangle(15, 15, 18, 18))
    assert document.do(MergeObjects("cells", (second, third))) == second
    assert document.image("cells").area(second) == 80 + 9
    record = document.records("cells")[1]
    assert record.corrected
    assert record.score is None
    document.do(DeleteObjects("cells", (first,)))
    assert [r.label for r in document.records("cells")] == [second]
    assert accept(document, LEFT) == 4  # labels are not used twice
    check_invariants(document)
    with pytest.raises(LabelError, match=r"no object 9.*\(2, 4\)"):
        document.do(DeleteObjects("cells", (9,)))
    with pytest.raises(LabelError, match="two different"):
        document.do(MergeObjects("cells", (2, 2)))


def brush(document: Document, region: tuple[slice, ...], label: int, written: bool) -> None:
    """Paint a region, into the shared array first or through the document only."""
    inside = np.zeros(SHAPE, bool)
    inside[region] = True
    if written:
        document.do(painted(document, IMAGE, inside, label))
    else:
        document.do(Paint(IMAGE, np.flatnonzero(inside), label))


@pytest.mark.parametrize("written", [True, False], ids=["written before", "not written"])
def test_painting(document: Document, written: bool) -> None:
    accept(document, LEFT)
    accept(document, RIGHT)
    brush(document, np.s_[5:12, 5:12], 1, written)
    assert [r.corrected for r in document.records("cells")] == [True, True]
    brush(document, np.s_[20:22, 20:22], 9, written)
    new = document.records("cells")[-1]
    assert (new.label, new.model, new.source, new.corrected) == (9, "manual", "painted", False)
    brush(document, np.s_[:, :15], 0, written)
    assert [r.label for r in document.records("cells")] == [2, 9]
    check_invariants(document)
    assert document.undo() == "paint"
    assert [r.label for r in document.records("cells")] == [1, 2, 9]
    assert accept(document, rectangle(15, 0, 17, 3)) == 10


def test_a_stroke_that_crosses_itself(document: Document) -> None:
    labels = document.images["cells"].labels
    atoms = [
        PaintAtom((np.array([3, 3]), np.array([4, 5])), np.array([0, 0]), 1),
        PaintAtom.from_region(np.s_[3:4, 5:7], None, np.array([[1, 0]]), 2),
        PaintAtom.from_region(np.s_[3:4, 4:7], np.array([[True, False, True]]), [1, 2], 0),
    ]
    document.do(paint(document.images[IMAGE], atoms))
    assert labels[3, 4:7].tolist() == [0, 2, 0]
    assert [r.label for r in document.records("cells")] == [2]
    document.undo()
    assert not labels.any()


@pytest.mark.parametrize(
    ("atom", "message"),
    [
        pytest.param(PaintAtom((3,), 0, 1), "one index array per axis", id="axes"),
        pytest.param(PaintAtom((30, 3), 0, 1), "outside", id="outside"),
        pytest.param(PaintAtom((3, 3), 0, -1), "start at 0", id="negative"),
    ],
)
def test_unusable_strokes(document: Document, atom: PaintAtom, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        paint(document.images[IMAGE], [atom])
    assert document.undo_label is None


def test_import_labels(document: Document) -> None:
    accept(document, LEFT)
    accept(document, rectangle(15, 15, 18, 18))
    new = np.zeros(SHAPE, np.uint8)
    new[LEFT], new[20:22, 20:22] = 1, 6
    document.do(ImportLabels("cells", new))
    assert [(r.label, r.model) for r in document.records("cells")] == [(1, "tiny"), (6, "imported")]
    assert (document.images["cells"].labels == new).all()
    check_invariants(document)
    document.undo()
    assert [r.label for r in document.records("cells")] == [1, 2]


def test_listed_planes_have_objects(document: Document) -> None:
    for plane in (PlaneKey("stack", (2,)), CELLS, PlaneKey("stack", (0,))):
        accept(document, LEFT, plane=plane)
    assert document.planes_with_objects() == (
        CELLS,
        PlaneKey("stack", (0,)),
        PlaneKey("stack", (2,)),
    )


# --- reopened -----------------------------------------------------------------------


def test_an_object_is_reopened_with_its_prompts(document: Document) -> None:
    label = accept(document, LEFT)
    document.do(Reopen(CELLS, label))
    current = document.current
    assert current is not None
    assert (current.prompts, current.reopens) == (Prompts((Point(5, 5),)), label)
    assert document.undo_label == "reopen object 1"
    document.do(AddPoint(CELLS, Point(3, 12)))
    answer(document, RIGHT, made_by=ModelVersion("builtin", "v2"))
    before = document.records(IMAGE)[0]
    assert document.do(Accept()) == label
    assert document.undo_label == "change object 1"
    (record,) = document.records(IMAGE)
    assert np.array_equal(document.labels(CELLS) == label, RIGHT)  # it may take its own pixels
    assert record.prompts == Prompts((Point(5, 5), Point(3, 12)))
    assert (record.adapter, record.created) == ("v2", before.created)
    assert document.images[IMAGE].next_label == label + 1
    document.undo()
    assert np.array_equal(document.labels(CELLS) == label, LEFT)
    assert document.records(IMAGE) == (before,)


def test_discarding_leaves_a_reopened_object_as_it_was(document: Document) -> None:
    label = accept(document, LEFT)
    before = document.records(IMAGE)
    document.do(Reopen(CELLS, label))
    document.do(Discard())
    assert document.current is None
    assert document.records(IMAGE) == before
    assert np.array_equal(document.labels(CELLS) == label, LEFT)


def test_what_has_no_prompts_is_reopened_with_the_box_around_it(document: Document) -> None:
    document.do(Paint(IMAGE, np.flatnonzero(LEFT), 7))
    document.do(Reopen(CELLS, 7))
    assert document.current is not None
    assert document.current.prompts == Prompts(box=Box(2, 2, 10, 10))


def test_a_reopened_object_takes_no_pixel_of_others(document: Document) -> None:
    first, second = accept(document, LEFT), accept(document, rectangle(2, 12, 10, 20))
    document.do(Reopen(CELLS, first))
    answer(document, rectangle(2, 2, 10, 20))
    document.do(Accept())
    assert np.array_equal(document.labels(CELLS) == first, rectangle(2, 2, 10, 12))
    assert np.array_equal(document.labels(CELLS) == second, rectangle(2, 12, 10, 20))
    check_invariants(document)


def test_prompts_of_others_follow_a_reopened_object(document: Document) -> None:
    label = accept(document, LEFT)
    document.do(QueuePrompts.boxes(CELLS, [Box(1, 1, 4, 4)]))
    document.do(Reopen(CELLS, label))
    assert document.queue == (Prompts((Point(5, 5),)), Prompts(box=Box(1, 1, 4, 4)))
    answer(document, LEFT)
    document.do(Accept())
    assert document.current is not None
    assert document.current.reopens == 0  # the next one is new
    assert document.queue == (Prompts(box=Box(1, 1, 4, 4)),)


def test_what_is_deleted_while_it_is_open_is_a_new_object(document: Document) -> None:
    label = accept(document, LEFT)
    document.do(Reopen(CELLS, label))
    answer(document, RIGHT)
    document.do(DeleteObjects(IMAGE, (label,)))
    assert document.do(Accept()) == label + 1
    check_invariants(document)


def test_an_object_goes_on_in_another_plane_with_its_number(document: Document) -> None:
    label = accept(document, LEFT, plane=STACK)
    following = PlaneKey(STACK.image, (2,))
    made = NewObject(Prompts((Point(6, 6),)), RIGHT, 0.8, label=label)
    assert document.do(AcceptObjects(following, (made,))) == (label,)
    (record,) = document.records(STACK.image)
    assert record.planes == (
        ObjectPlane((1,), Prompts((Point(5, 5),))),
        ObjectPlane((2,), Prompts((Point(6, 6),))),
    )
    assert np.array_equal(document.labels(STACK) == label, LEFT)
    assert np.array_equal(document.labels(following) == label, RIGHT)


def test_an_object_that_is_not_in_the_plane_is_not_reopened(document: Document) -> None:
    label = accept(document, LEFT, plane=STACK)
    with pytest.raises(LabelError, match="no pixels in this plane"):
        document.do(Reopen(PlaneKey(STACK.image, (0,)), label))
    with pytest.raises(LabelError, match="no object 5"):
        document.do(Reopen(STACK, 5))


# --- classes ------------------------------------------------------------------------


def test_new_objects_have_the_class_in_use(document: Document) -> None:
    first = accept(document, rectangle(1, 1, 4, 4))
    document.do(UseCategory(" nucleus "))
    second = accept(document, rectangle(1, 10, 4, 14))
    stroke = np.flatnonzero(rectangle(10, 1, 14, 4))
    document.do(Paint(IMAGE, stroke, 9, label_set=document.label_set))
    found = {record.label: record.category for record in document.records(IMAGE)}
    assert found == {first: "", second: "nucleus", 9: "nucleus"}
    assert (document.category, document.categories) == ("nucleus", ("nucleus",))


def test_the_class_of_objects_is_changed_and_undone(document: Document) -> None:
    labels = [accept(document, rectangle(1, col, 4, col + 4)) for col in (1, 10, 20)]
    document.do(Categorize(IMAGE, tuple(labels[:2]), "cell"))
    assert document.undo_label == "class of 2 objects"
    assert [record.category for record in document.records(IMAGE)] == ["cell", "cell", ""]
    assert document.categories == ("cell",)
    document.undo()
    assert document.categories == ()
    with pytest.raises(LabelError, match="no object 99"):
        document.do(Categorize(IMAGE, (99,), "cell"))


def test_a_changed_object_keeps_its_class(document: Document) -> None:
    label = accept(document, LEFT)
    document.do(Categorize(IMAGE, (label,), "cell"))
    document.do(UseCategory("nucleus"))
    document.do(Reopen(CELLS, label))
    answer(document, RIGHT)
    document.do(Accept())
    assert document.records(IMAGE)[0].category == "cell"


def test_classes_go_with_the_provenance(document: Document) -> None:
    label = accept(document, LEFT)
    document.do(Categorize(IMAGE, (label,), "cell"))
    (record,) = document.records(IMAGE)
    read = ObjectRecord.from_dict(record.to_dict())
    assert replace(read, label_set=record.label_set) == record  # of the project's own storage
