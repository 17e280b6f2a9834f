"""Objects: accepted, painted, imported, merged and deleted."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AddPoint,
    ChooseCandidate,
    DeleteObjects,
    Discard,
    Document,
    ImportLabels,
    MergeObjects,
    PaintAtom,
    PlaneKey,
    QueuePrompts,
)
from napari_peftsam.errors import LabelError, PromptError
from napari_peftsam.types import Box, Point, Prompts
from tests.document._cases import (
    CELLS,
    SHAPE,
    STACK,
    answer,
    check_invariants,
    rectangle,
)

LEFT, RIGHT = rectangle(2, 2, 10, 10), rectangle(2, 8, 10, 20)


def accept(session: Document, *masks: np.ndarray, plane: PlaneKey = CELLS) -> int:
    session.do(AddPoint(plane, Point(5, 5)))
    answer(session, *masks)
    return session.accept(model="tiny", adapter="v1")


def test_accept_records_where_it_comes_from(session: Document) -> None:
    session.do(AddPoint(STACK, Point(5, 5)))
    answer(session, LEFT, RIGHT)
    session.do(ChooseCandidate(1))
    assert session.accept(model="builtin", adapter="v2") == 1
    assert session.current is None
    (record,) = session.records("stack")
    assert (record.plane, record.prompts) == (STACK, Prompts((Point(5, 5),)))
    assert (record.model, record.adapter, record.candidate) == ("builtin", "v2", 1)
    assert (record.score, record.corrected) == (pytest.approx(0.5), False)
    assert record.created == record.modified == "2025-01-01T00:00:00+00:00"
    assert session.images["stack"].labels[1][RIGHT].all()
    assert session.images["stack"].labels.sum() == RIGHT.sum()


@pytest.mark.parametrize(
    ("overlap", "areas"),
    [
        pytest.param("keep", {1: 64, 2: 80}, id="keep"),
        pytest.param("overwrite", {1: 48, 2: 96}, id="overwrite"),
    ],
)
def test_overlap(session: Document, overlap, areas: dict[int, int]) -> None:
    accept(session, LEFT)
    session.do(AddPoint(CELLS, Point(5, 12)))
    answer(session, RIGHT)
    session.do(Accept(overlap=overlap))
    assert {r.label: session.object_area("cells", r.label) for r in session.records("cells")} == (
        areas
    )
    check_invariants(session)


def test_an_object_overwritten_entirely_is_gone(session: Document) -> None:
    accept(session, LEFT)
    session.do(AddPoint(CELLS, Point(5, 5)))
    answer(session, rectangle(0, 0, 20, 20))
    assert session.do(Accept(overlap="overwrite")) == 2
    assert [r.label for r in session.records("cells")] == [2]
    session.undo()
    assert [r.label for r in session.records("cells")] == [1]


def test_nothing_to_accept(session: Document) -> None:
    with pytest.raises(PromptError, match="click on an object"):
        session.do(Accept())
    session.do(AddPoint(CELLS, Point(5, 5)))
    with pytest.raises(PromptError, match="wait for the prediction"):
        session.do(Accept())
    answer(session, rectangle(0, 0, 0, 0))
    with pytest.raises(PromptError, match="add a point"):
        session.do(Accept())
    answer(session, LEFT)
    session.do(Accept())
    session.do(AddPoint(CELLS, Point(5, 5)))
    answer(session, LEFT)
    with pytest.raises(PromptError, match="overwrite"):
        session.do(Accept())
    assert session.current is not None  # the prompts are not lost


def test_queued_boxes_one_by_one(session: Document) -> None:
    boxes = [Box(0, 0, 5, 5), Box(6, 6, 9, 9), Box(10, 10, 15, 15)]
    session.do(QueuePrompts.boxes(CELLS, boxes))
    made = []
    for box in boxes:
        assert session.current is not None
        assert session.current.prompts.box == box
        answer(session, rectangle(int(box.row0), int(box.col0), int(box.row1), int(box.col1)))
        made.append(session.do(Accept()))
    assert (made, session.current, session.pending) == ([1, 2, 3], None, ())
    session.undo()
    assert session.queue == (Prompts(box=boxes[2]),)


@pytest.mark.parametrize(
    ("pending", "left"), [pytest.param(False, 1, id="one"), pytest.param(True, 0, id="all")]
)
def test_discard(session: Document, pending: bool, left: int) -> None:
    session.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 5, 5), Box(6, 6, 9, 9)]))
    session.do(Discard(everything=pending))
    assert len(session.queue) == left


def test_queued_boxes_all_at_once(session: Document) -> None:
    boxes = [Box(0, 0, 5, 5), Box(6, 6, 9, 9), Box(10, 10, 15, 15)]
    session.do(QueuePrompts.boxes(CELLS, boxes))
    masks = [rectangle(0, 0, 5, 5), rectangle(1, 1, 4, 4), rectangle(10, 10, 15, 15)]
    objects = [(p, m, 0.8) for p, m in zip(session.queue, masks, strict=True)]
    assert session.accept_objects(CELLS, objects, model="tiny") == (1, 0, 2)
    assert session.current is None
    assert session.steps[-1] == "accept 3 objects"
    check_invariants(session)
    session.undo()
    assert not session.records("cells")
    assert len(session.queue) == 3
    with pytest.raises(PromptError, match="empty"):
        session.accept_objects(CELLS, [(Prompts(), rectangle(0, 0, 0, 0), None)])


def test_automatic_objects_leave_the_prompts_alone(session: Document) -> None:
    session.do(AddPoint(CELLS, Point(20, 20)))
    session.accept_objects(CELLS, [(Prompts(), LEFT, 0.8)], model="tiny")
    assert session.current is not None
    assert session.records("cells")[0].source == "automatic"


def test_delete_and_merge(session: Document) -> None:
    first, second = accept(session, LEFT), accept(session, RIGHT)
    third = accept(session, rectangle(15, 15, 18, 18))
    assert session.do(MergeObjects("cells", (second, third))) == second
    assert session.object_area("cells", second) == 80 + 9
    record = session.records("cells")[1]
    assert record.corrected
    assert record.score is None
    session.do(DeleteObjects("cells", (first,)))
    assert [r.label for r in session.records("cells")] == [second]
    assert accept(session, LEFT) == 4  # labels are not used twice
    check_invariants(session)
    with pytest.raises(LabelError, match=r"no object 9.*\(2, 4\)"):
        session.do(DeleteObjects("cells", (9,)))
    with pytest.raises(LabelError, match="two different"):
        session.do(MergeObjects("cells", (2, 2)))


def paint(session: Document, region, label: int, *, written: bool = True) -> None:
    labels = session.images["cells"].labels
    mask = np.zeros(SHAPE, bool)
    mask[region] = True
    where = np.nonzero(mask & (labels != label))
    old = labels[where].copy()
    if written:
        labels[where] = label
    session.record_paint("cells", where, old, label)


@pytest.mark.parametrize("written", [True, False], ids=["reported after", "reported before"])
def test_painting(session: Document, written: bool) -> None:
    accept(session, LEFT)
    accept(session, RIGHT)
    paint(session, np.s_[5:12, 5:12], 1, written=written)
    assert [r.corrected for r in session.records("cells")] == [True, True]
    paint(session, np.s_[20:22, 20:22], 9, written=written)
    new = session.records("cells")[-1]
    assert (new.label, new.model, new.source, new.corrected) == (9, "manual", "painted", False)
    paint(session, np.s_[:, :15], 0, written=written)
    assert [r.label for r in session.records("cells")] == [2, 9]
    check_invariants(session)
    assert session.undo() == "paint"
    assert [r.label for r in session.records("cells")] == [1, 2, 9]
    assert accept(session, rectangle(15, 0, 17, 3)) == 10


def test_a_stroke_that_crosses_itself(session: Document) -> None:
    labels = session.images["cells"].labels
    atoms = [
        PaintAtom((np.array([3, 3]), np.array([4, 5])), np.array([0, 0]), 1),
        PaintAtom.from_region(np.s_[3:4, 5:7], None, np.array([[1, 0]]), 2),
        PaintAtom.from_region(np.s_[3:4, 4:7], np.array([[True, False, True]]), [1, 2], 0),
    ]
    session.record_stroke("cells", atoms)
    assert labels[3, 4:7].tolist() == [0, 2, 0]
    assert [r.label for r in session.records("cells")] == [2]
    session.undo()
    assert not labels.any()


@pytest.mark.parametrize(
    ("atom", "message"),
    [
        pytest.param(PaintAtom((3,), 0, 1), "one index array per axis", id="axes"),
        pytest.param(PaintAtom((30, 3), 0, 1), "outside", id="outside"),
        pytest.param(PaintAtom((3, 3), 0, -1), "start at 0", id="negative"),
    ],
)
def test_unusable_strokes(session: Document, atom: PaintAtom, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        session.record_stroke("cells", [atom])
    assert not (session.undo_label is not None)


def test_import_labels(session: Document) -> None:
    accept(session, LEFT)
    accept(session, rectangle(15, 15, 18, 18))
    new = np.zeros(SHAPE, np.uint8)
    new[LEFT], new[20:22, 20:22] = 1, 6
    session.do(ImportLabels("cells", new))
    assert [(r.label, r.model) for r in session.records("cells")] == [(1, "tiny"), (6, "imported")]
    assert (session.images["cells"].labels == new).all()
    check_invariants(session)
    session.undo()
    assert [r.label for r in session.records("cells")] == [1, 2]


def test_listed_planes_have_objects(session: Document) -> None:
    for plane in (PlaneKey("stack", (2,)), CELLS, PlaneKey("stack", (0,))):
        accept(session, LEFT, plane=plane)
    assert session.planes_with_objects() == (
        CELLS,
        PlaneKey("stack", (0,)),
        PlaneKey("stack", (2,)),
    )
