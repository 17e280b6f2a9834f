"""Editing the whole queue at once, and deleting several objects in one step."""

from __future__ import annotations

import pytest

from napari_peftsam.document import Document, PlaneKey, QueuePrompts
from napari_peftsam.errors import LabelError, PromptError
from napari_peftsam.types import Box, Prompts
from tests.document._cases import SHAPE, check_invariants

A, B, C = (Prompts(box=Box(i, i, i + 3, i + 3)) for i in (0, 3, 6))


def queued(session: Document) -> PlaneKey:
    plane = PlaneKey(next(iter(session.images)))
    session.do(QueuePrompts(plane, (A, B, C)))
    return plane


@pytest.fixture
def fresh() -> Document:
    import numpy as np

    session = Document()
    session.add_image("cells", np.zeros(SHAPE))
    return session


@pytest.mark.parametrize(
    ("prompts", "kept"),
    [
        pytest.param([A, C], True, id="one of the others removed"),
        pytest.param([B, C], False, id="the first removed"),
        pytest.param([Prompts(), B, C], False, id="the first emptied"),
        pytest.param([C, A, B], False, id="another order"),
        pytest.param([], False, id="all removed"),
    ],
)
def test_set_queue_keeps_the_first_if_it_stays(
    fresh: Document, prompts: list[Prompts], kept: bool
) -> None:
    plane = queued(fresh)
    before = fresh.current
    fresh.set_queue(plane, prompts)
    assert fresh.queue == tuple(p for p in prompts if p)
    assert (fresh.current is before) == kept
    fresh.undo()
    assert fresh.queue == (A, B, C)


def test_an_unchanged_queue_is_no_step(fresh: Document) -> None:
    plane = queued(fresh)
    steps = len(fresh.steps)
    fresh.set_queue(plane, [A, B, C])
    assert len(fresh.steps) == steps


def test_prompts_outside_are_refused(fresh: Document) -> None:
    plane = queued(fresh)
    with pytest.raises(PromptError):
        fresh.set_queue(plane, [A, Prompts(box=Box(900, 900, 910, 910))])
    assert fresh.queue == (A, B, C)


def test_objects_are_deleted_in_one_step(fresh: Document) -> None:
    labels = fresh.labels(PlaneKey("cells")).copy()
    labels[0:2, 0:2], labels[3:5, 3:5], labels[6:8, 6:8] = 1, 2, 3
    fresh.set_labels("cells", labels)
    fresh.delete_objects("cells", [1, 3, 3])
    assert [r.label for r in fresh.records("cells")] == [2]
    assert fresh.history.undo_label == "delete 2 objects"
    check_invariants(fresh)
    fresh.undo()
    assert len(fresh.records("cells")) == 3
    with pytest.raises(LabelError):
        fresh.delete_objects("cells", [1, 9])
    assert len(fresh.records("cells")) == 3
