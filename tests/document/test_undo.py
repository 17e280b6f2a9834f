"""Undo restores everything exactly, redo as well, after any sequence of operations."""

from __future__ import annotations

from collections.abc import Callable

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
    PlaneKey,
    QueuePrompts,
    RemoveLastPrompt,
    SetBox,
    SetPrompts,
)
from napari_peftsam.errors import PeftSamError
from napari_peftsam.types import Box, Point, Prompts
from tests.document._cases import (
    CELLS,
    SHAPE,
    STACK,
    answer,
    check_invariants,
    make_session,
    prediction,
    rectangle,
    snapshot,
)

Operation = Callable[[Document, np.random.Generator], None]
PLANES = (CELLS, *(PlaneKey("stack", (z,)) for z in range(3)))


def a_mask(rng: np.random.Generator):
    row, col = int(rng.integers(0, 20)), int(rng.integers(0, 28))
    return rectangle(row, col, row + int(rng.integers(0, 9)), col + int(rng.integers(1, 9)))


def a_box(rng: np.random.Generator) -> Box:
    row, col = rng.uniform(0, 20, 2).tolist()
    return Box(row, col, row + 3, col + 4)


def a_plane(session: Document, rng: np.random.Generator) -> PlaneKey:
    if session.current is not None and rng.random() < 0.8:
        return session.current.plane
    return PLANES[rng.integers(len(PLANES))]


def a_point(rng: np.random.Generator) -> Point:
    row, col = rng.uniform(0, 23, 2).tolist()
    return Point(row, col, bool(rng.integers(2)))


def some_labels(session: Document, rng: np.random.Generator) -> tuple[str, list[int]]:
    name = ("cells", "stack")[rng.integers(2)]
    known = [r.label for r in session.records(name)] or [1]
    return name, rng.choice(known, min(3, len(known)), replace=False).tolist()


def do_paint(session: Document, rng: np.random.Generator) -> None:
    name, labels = some_labels(session, rng)
    array = session.images[name].labels
    n = int(rng.integers(1, 60))
    where = tuple(np.sort(rng.integers(0, s, n)) for s in array.shape)
    old = array[where].copy()
    new = int(rng.choice([0, *labels, session.images[name].next_label]))
    array[where] = new
    session.record_paint(name, where, old, new)


def do_import(session: Document, rng: np.random.Generator) -> None:
    name, labels = some_labels(session, rng)
    array = session.images[name].labels.copy()
    array[..., 3:9, 3:9] = rng.choice([0, *labels, 60])
    session.do(ImportLabels(name, array))


def do_accept_many(session: Document, rng: np.random.Generator) -> None:
    plane = a_plane(session, rng)
    prompts = session.queue if plane.image == "cells" else (Prompts(), Prompts())
    overlap = ("keep", "overwrite")[rng.integers(2)]
    session.accept_objects(plane, [(p, a_mask(rng), 0.5) for p in prompts], overlap=overlap)


OPERATIONS: dict[str, Operation] = {
    "point": lambda s, r: s.do(AddPoint(a_plane(s, r), a_point(r))),
    "box": lambda s, r: s.do(SetBox(a_plane(s, r), a_box(r) if r.random() < 0.8 else None)),
    "prompts": lambda s, r: s.do(SetPrompts(a_plane(s, r), Prompts((a_point(r),) * r.integers(3)))),
    "remove": lambda s, r: s.do(RemoveLastPrompt()),
    "discard": lambda s, r: s.do(Discard(everything=bool(r.integers(2)))),
    "queue": lambda s, r: s.do(
        QueuePrompts.boxes(a_plane(s, r), [a_box(r) for _ in range(r.integers(4))])
    ),
    "accept": lambda s, r: s.do(Accept(overlap=("keep", "overwrite")[r.integers(2)])) and None,
    "accept many": do_accept_many,
    "delete": lambda s, r: s.do(DeleteObjects((p := some_labels(s, r))[0], (p[1][0],))),
    "merge": lambda s, r: s.do(MergeObjects(*some_labels(s, r))) and None,
    "paint": do_paint,
    "import": do_import,
}


def revision(session: Document) -> int | None:
    return None if session.current is None else session.current.revision


def respond(session: Document, rng: np.random.Generator) -> None:
    """What happens between the user's steps: a prediction, a choice."""
    if session.current is not None and rng.random() < 0.9:
        found = prediction(*(a_mask(rng) for _ in range(3)))
        session.set_candidates(found, session.current.revision)
        session.cycle(int(rng.integers(3)))


@pytest.mark.parametrize("seed", range(8))
def test_any_sequence_is_undone_and_redone_exactly(seed: int) -> None:
    rng, session = np.random.default_rng(seed), make_session()
    names, before = list(OPERATIONS), [snapshot(session)]
    done = set()
    for _ in range(100):
        name = names[rng.integers(len(names))]
        now, steps, asked = snapshot(session), len(session.steps), revision(session)
        try:
            OPERATIONS[name](session, rng)
            done.add(name)
        except PeftSamError:  # e.g. nothing to accept: then nothing may have changed
            assert snapshot(session) == now
        if len(session.steps) > steps:
            before[-1] = now
            before.append(snapshot(session))
        else:
            assert snapshot(session) == now
        check_invariants(session)
        # Candidates come and go between steps; they belong to the step that asked for them.
        if revision(session) != asked:
            respond(session, rng)
        before[-1] = snapshot(session)
        if rng.random() < 0.15 and (session.undo_label is not None):  # there and back
            session.undo()
            assert snapshot(session) == before[-2]
            if rng.random() < 0.5:
                session.redo()
                assert snapshot(session) == before[-1]
            else:
                before.pop()
    assert len(done) > 8
    for state in reversed(before[:-1]):
        session.undo()
        assert snapshot(session) == state
        check_invariants(session)
    assert not (session.undo_label is not None)
    for state in before[1:]:
        session.redo()
        assert snapshot(session) == state
        check_invariants(session)
    assert len(session.steps) == len(before) - 1


def prepared() -> Document:
    session = make_session()
    for mask in (rectangle(2, 2, 6, 6), rectangle(2, 10, 6, 16)):
        session.do(AddPoint(CELLS, Point(3, 3)))
        answer(session, mask, rectangle(0, 0, 20, 20))
        session.do(Accept())
    session.do(QueuePrompts.boxes(CELLS, [Box(10, 10, 14, 14), Box(16, 16, 20, 20)]))
    answer(session, rectangle(10, 10, 14, 14), rectangle(10, 10, 13, 13))
    session.do(ChooseCandidate(1))
    return session


def erase(session: Document) -> None:
    labels = session.images["cells"].labels
    where = np.nonzero(labels == 1)
    labels[where] = 0
    session.record_paint("cells", where, np.ones(len(where[0]), int), 0)


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
            lambda s: s.accept_objects(CELLS, [(p, rectangle(9, 9, 12, 12), 0.5) for p in s.queue]),
            "accept 2 objects",
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
    ],
)
def test_every_step_has_a_name_and_goes_both_ways(
    operation: Callable[[Document], object], label: str
) -> None:
    session = prepared()
    before, steps = snapshot(session), len(session.steps)
    operation(session)
    after = snapshot(session)
    assert after != before
    assert (session.undo_label, len(session.steps)) == (label, steps + 1)
    assert (session.undo(), snapshot(session)) == (label, before)
    assert session.redo_label == label
    assert (session.redo(), snapshot(session)) == (label, after)


def test_a_new_step_forgets_what_was_undone(session: Document) -> None:
    session.do(AddPoint(CELLS, Point(1, 1)))
    session.undo()
    assert session.redo_label is not None
    session.do(AddPoint(CELLS, Point(2, 2)))
    assert not (session.redo_label is not None)
    assert session.redo() is None


def test_depth_is_bounded() -> None:
    session = Document(depth=3)
    session.add_image("cells", np.zeros(SHAPE))
    for i in range(5):
        session.do(AddPoint(CELLS, Point(i, i)))
    while session.undo():
        pass
    assert session.current is not None
    assert len(session.current.prompts.points) == 2


def test_candidates_come_back_with_undo_and_redo(session: Document) -> None:
    session.do(AddPoint(CELLS, Point(3, 3)))
    answer(session, rectangle(2, 2, 6, 6), rectangle(0, 0, 0, 0))
    session.do(AddPoint(CELLS, Point(4, 4)))
    answer(session, rectangle(2, 2, 9, 9))
    session.undo()
    assert session.current is not None
    assert session.current.mask is not None
    assert session.current.mask.sum() == 16
    session.redo()
    assert session.current.mask is not None
    assert session.current.mask.sum() == 49


def test_steps_in_a_large_image_keep_only_their_pixels() -> None:
    session = Document()
    session.add_image("cells", np.zeros((4096, 4096), np.uint8))
    mask = np.zeros((4096, 4096), bool)
    mask[100:120, 200:230] = True
    session.accept_objects(CELLS, [(Prompts(), mask, 0.9)])
    session.do(DeleteObjects("cells", (1,)))
    patches = [e for s in session.history._done for e in s.edits if hasattr(e, "where")]
    assert [p.where.nbytes for p in patches] == [600 * 4, 600 * 4]
    assert [(p.old, p.new) for p in patches] == [(0, 1), (1, 0)]


def test_labels_in_another_memory_order() -> None:
    """A caller's array may be any view; undo goes by position, not by memory."""
    labels = np.zeros((SHAPE[1], SHAPE[0], 2), np.int32)[..., 0].T
    assert not labels.flags.c_contiguous
    session = Document()
    session.add_image("cells", np.zeros(SHAPE), labels=labels)
    mask = rectangle(2, 3, 7, 9)
    session.accept_objects(CELLS, [(Prompts(), mask, 0.9)])
    assert ((labels == 1) == mask).all()
    session.do(ImportLabels("cells", np.full(SHAPE, 4)))
    session.undo()
    assert ((labels == 1) == mask).all()
    session.undo()
    assert not labels.any()
