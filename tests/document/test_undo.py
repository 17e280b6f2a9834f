"""Undo restores everything exactly, redo as well; test_any_sequence.py does so at length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AddPoint,
    ChooseCandidate,
    CompleteRegion,
    DeleteObjects,
    Discard,
    Document,
    ImportLabels,
    MarkComplete,
    MergeObjects,
    PaintBackground,
    QueuePrompts,
    RemoveImage,
    RemoveLastPrompt,
    SetBox,
    SetPrompts,
    SetQueue,
)
from napari_peftsam.types import Box, Point, Prompts
from tests.document._cases import (
    CELLS,
    IMAGE,
    SHAPE,
    STACK,
    VOLUME,
    answer,
    make_document,
    new_objects,
    painted,
    rectangle,
    snapshot,
)

WHOLE = CompleteRegion()


def prepared() -> Document:
    document = make_document()
    for mask in (rectangle(2, 2, 6, 6), rectangle(2, 10, 6, 16)):
        document.do(AddPoint(CELLS, Point(3, 3)))
        answer(document, mask, rectangle(0, 0, 20, 20))
        document.do(Accept())
    document.do(QueuePrompts.boxes(CELLS, [Box(10, 10, 14, 14), Box(16, 16, 20, 20)]))
    answer(document, rectangle(10, 10, 14, 14), rectangle(10, 10, 13, 13))
    document.do(ChooseCandidate(1))
    document.do(MarkComplete(VOLUME, WHOLE))
    return document


def erase(document: Document) -> None:
    document.do(painted(document, IMAGE, document.images[IMAGE].labels == 1, 0))


@pytest.mark.parametrize(
    ("operation", "label"),
    [
        pytest.param(lambda s: s.do(AddPoint(CELLS, Point(1, 1))), "add point", id="point"),
        pytest.param(lambda s: s.do(AddPoint(STACK, Point(1, 1))), "add point", id="other plane"),
        pytest.param(lambda s: s.do(SetBox(CELLS, Box(0, 0, 2, 2))), "set box", id="box"),
        pytest.param(
            lambda s: s.do(SetPrompts(CELLS, Prompts((Point(0, 0),)))), "change prompts", id="moved"
        ),
        pytest.param(lambda s: s.do(RemoveLastPrompt()), "remove last prompt", id="remove"),
        pytest.param(lambda s: s.do(Discard()), "discard", id="discard"),
        pytest.param(
            lambda s: s.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 1, 1)])), "queue 1 box", id="queue"
        ),
        pytest.param(lambda s: s.do(Accept()), "accept object 3", id="accept"),
        pytest.param(
            lambda s: s.do(new_objects(*((p, rectangle(9, 9, 12, 12), 0.5) for p in s.queue))),
            "accept 1 object",
            id="accept many",
        ),
        pytest.param(lambda s: s.do(DeleteObjects("cells", (2,))), "delete object 2", id="delete"),
        pytest.param(
            lambda s: s.do(MergeObjects("cells", (2, 1))), "merge objects 2, 1", id="merge"
        ),
        pytest.param(erase, "paint", id="paint"),
        pytest.param(
            lambda s: s.do(ImportLabels("cells", np.full(SHAPE, 5))), "import labels", id="import"
        ),
        pytest.param(
            lambda s: s.do(SetQueue(CELLS, s.queue[1:])), "change prompts", id="set queue"
        ),
        pytest.param(
            lambda s: s.do(PaintBackground(IMAGE, np.arange(9))),
            "paint background",
            id="background",
        ),
        pytest.param(lambda s: s.do(MarkComplete(IMAGE)), "mark complete", id="complete"),
        pytest.param(
            lambda s: s.do(MarkComplete(VOLUME, WHOLE, is_complete=False)),
            "mark incomplete",
            id="incomplete",
        ),
        pytest.param(lambda s: s.do(RemoveImage(IMAGE)), "remove image cells", id="remove image"),
    ],
)
def test_every_step_has_a_name_and_goes_both_ways(
    operation: Callable[[Document], object], label: str
) -> None:
    document = prepared()
    before, steps = snapshot(document), len(document.steps)
    operation(document)
    after = snapshot(document)
    assert after != before
    assert (document.undo_label, len(document.steps)) == (label, steps + 1)
    assert (document.undo(), snapshot(document)) == (label, before)
    assert document.redo_label == label
    assert (document.redo(), snapshot(document)) == (label, after)
    read = Document(document.store)  # the last step is in memory above, and here in the file alone
    for move, expected in ((read.undo, before), (read.redo, after)):
        assert (move(), snapshot(read) | {"current": None}) == (label, expected | {"current": None})


def test_a_new_step_forgets_what_was_undone(document: Document) -> None:
    document.do(AddPoint(CELLS, Point(1, 1)))
    document.undo()
    assert document.redo_label is not None
    document.do(AddPoint(CELLS, Point(2, 2)))
    assert document.redo_label is None
    assert document.redo() is None


def test_candidates_come_back_with_undo_and_redo(document: Document) -> None:
    document.do(AddPoint(CELLS, Point(3, 3)))
    answer(document, rectangle(2, 2, 6, 6), rectangle(0, 0, 0, 0))
    document.do(AddPoint(CELLS, Point(4, 4)))
    answer(document, rectangle(2, 2, 9, 9))
    document.undo()
    assert document.current is not None
    assert document.current.mask is not None
    assert document.current.mask.sum() == 16
    document.redo()
    assert document.current.mask is not None
    assert document.current.mask.sum() == 49


def test_a_step_in_a_large_image_keeps_only_its_pixels() -> None:
    document = Document()
    document.add_image("cells", np.zeros((4096, 4096), np.uint8))
    mask = np.zeros((4096, 4096), bool)
    mask[100:120, 200:230] = True
    for action, is_there in (
        (new_objects((Prompts(), mask, 0.9)), True),
        (DeleteObjects(IMAGE, (1,)), False),
    ):
        document.do(action)
        step = document.store.last_step()
        assert step is not None
        after = document.labels(CELLS).copy()
        np.testing.assert_array_equal(after, mask * is_there)
        document.undo()
        np.testing.assert_array_equal(document.labels(CELLS), mask * (not is_there))
        document.redo()
        np.testing.assert_array_equal(document.labels(CELLS), after)
        # 20 runs of a row each, compressed; the pixels alone would be 600 * 4 bytes.
        assert len(step.changes) + len(step.pixels) < 600
    assert sum(len(a.data) + len(a.payload) for a in document.store.actions()) < 4000


def test_labels_in_another_memory_order() -> None:
    """A caller's array may be any view; undo goes by position, not by memory."""
    labels = np.zeros((SHAPE[1], SHAPE[0], 2), np.int32)[..., 0].T
    assert not labels.flags.c_contiguous
    document = Document()
    document.add_image("cells", np.zeros(SHAPE), labels=labels)
    mask = rectangle(2, 3, 7, 9)
    document.do(new_objects((Prompts(), mask, 0.9)))
    assert ((labels == 1) == mask).all()
    document.do(ImportLabels("cells", np.full(SHAPE, 4)))
    document.undo()
    assert ((labels == 1) == mask).all()
    document.undo()
    assert not labels.any()


def test_the_shown_candidate_survives_reopening_and_undo(document: Document) -> None:
    """The project keeps which candidate was shown last for the prompts of every step."""
    masks = rectangle(2, 2, 6, 6), rectangle(2, 2, 9, 9), rectangle(0, 0, 3, 3)
    document.do(AddPoint(CELLS, Point(3, 3)))
    answer(document, *masks)
    document.do(ChooseCandidate(2))
    document.do(AddPoint(CELLS, Point(4, 4)))
    answer(document, *masks)
    document.do(ChooseCandidate(1))
    reopened = Document(document.store)
    shown = []
    for move in (reopened.undo, reopened.redo):
        move()
        assert reopened.current is not None
        answer(reopened, *masks)
        shown.append(reopened.current.choice)
    assert shown == [2, 1]
    answer(reopened, *masks)  # of another model, say: its best is shown
    assert reopened.current is not None
    assert reopened.current.choice == 0
