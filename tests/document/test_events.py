"""What listeners hear, and that the state is consistent when they do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AddPoint,
    DeleteObjects,
    Document,
    QueuePrompts,
    RemoveImage,
    RenameImage,
)
from napari_peftsam.types import Box, Point, Prompts
from tests.document._cases import (
    CELLS,
    SHAPE,
    STACK,
    answer,
    check_invariants,
    rectangle,
    snapshot,
)

REGION = (slice(2, 6), slice(2, 6))
HISTORY = ("history_changed",)
PROMPTS, CANDIDATES, OBJECTS = ("prompts_changed", CELLS), ("candidates_changed",), (
    "objects_changed", "cells",
)  # fmt: skip
LABELS = ("labels_changed", "cells", REGION)


def listen(session: Document) -> list[tuple[Any, ...]]:
    heard: list[tuple[Any, ...]] = []

    def hear(info: Any) -> None:
        check_invariants(session)
        heard.append((info.signal.name, *info.args))

    session.events.connect(hear)
    return heard


def with_candidates(session: Document) -> None:
    session.do(AddPoint(CELLS, Point(3, 3)))
    answer(session, rectangle(2, 2, 6, 6), rectangle(2, 2, 4, 4))


def with_object(session: Document) -> None:
    with_candidates(session)
    session.do(Accept())


def erase(session: Document) -> None:
    labels = session.images["cells"].labels
    where = np.nonzero(labels)
    labels[where] = 0
    session.record_paint("cells", where, np.ones(len(where[0]), int), 0)


def erase_and_listen_to_undo(session: Document) -> None:
    with_object(session)
    erase(session)


@pytest.mark.parametrize(
    ("prepare", "operation", "expected"),
    [
        pytest.param(
            None,
            lambda s: s.add_image("new", np.zeros((4, 4))),
            [("image_added", "new")],
            id="add image",
        ),
        pytest.param(
            None,
            lambda s: s.do(RenameImage("cells", "nuclei")),
            [("image_renamed", "cells", "nuclei")],
            id="rename",
        ),
        pytest.param(
            with_candidates,
            lambda s: s.replace_pixels("cells", np.ones(SHAPE)),
            [("pixels_changed", "cells")],
            id="other pixels",
        ),
        pytest.param(
            with_candidates,
            lambda s: s.do(RemoveImage("cells")),
            [CANDIDATES, HISTORY, ("image_removed", "cells")],
            id="remove image",
        ),
        pytest.param(
            None, lambda s: s.do(AddPoint(CELLS, Point(1, 1))), [PROMPTS, HISTORY], id="pt"
        ),
        pytest.param(None, lambda s: s.undo(), [], id="nothing to undo"),
        pytest.param(
            with_candidates,
            lambda s: s.do(AddPoint(STACK, Point(1, 1))),
            [PROMPTS, ("prompts_changed", STACK), CANDIDATES, HISTORY],
            id="other plane",
        ),
        pytest.param(
            with_candidates,
            lambda s: s.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 3, 3)])),
            [PROMPTS, HISTORY],
            id="queue",
        ),
        pytest.param(
            lambda s: s.do(AddPoint(CELLS, Point(3, 3))),
            lambda s: answer(s, rectangle(2, 2, 6, 6)),
            [CANDIDATES],
            id="answer",
        ),
        pytest.param(with_candidates, lambda s: s.cycle(), [("choice_changed",)], id="choose"),
        pytest.param(
            with_candidates,
            lambda s: s.do(Accept()),
            [LABELS, OBJECTS, PROMPTS, CANDIDATES, HISTORY],
            id="accept",
        ),
        pytest.param(
            with_object,
            lambda s: s.undo(),
            [LABELS, OBJECTS, PROMPTS, CANDIDATES, HISTORY],
            id="undo accept",
        ),
        pytest.param(
            None,
            lambda s: s.accept_objects(
                CELLS,
                [(Prompts(), rectangle(2, 2, 3, 3), 0.5), (Prompts(), rectangle(5, 5, 6, 6), 0.5)],
            ),
            [LABELS, OBJECTS, HISTORY],
            id="accept many",
        ),
        pytest.param(
            with_object,
            lambda s: s.do(DeleteObjects("cells", (1,))),
            [LABELS, OBJECTS, HISTORY],
            id="delete",
        ),
        pytest.param(
            with_object,
            erase,
            [("labels_painted", "cells", REGION), OBJECTS, HISTORY],
            id="paint",
        ),
        pytest.param(
            erase_and_listen_to_undo,
            lambda s: s.undo(),
            [LABELS, OBJECTS, HISTORY],
            id="undo paint",
        ),
    ],
)
def test_what_is_heard(
    session: Document,
    prepare: Callable[[Document], None] | None,
    operation: Callable[[Document], object],
    expected: list[tuple[Any, ...]],
) -> None:
    if prepare is not None:
        prepare(session)
    if operation is erase:
        heard: list[tuple[Any, ...]] = []
        session.events.connect(lambda info: heard.append((info.signal.name, *info.args)))
    else:
        heard = listen(session)
    operation(session)
    assert heard == expected


def test_a_failed_step_is_not_heard_and_changes_nothing(session: Document) -> None:
    with_object(session)
    before, heard = snapshot(session), listen(session)
    good, misfit = rectangle(10, 10, 12, 12), np.ones((3, 3), bool)
    with pytest.raises(Exception, match="predict it from this image"):
        session.accept_objects(CELLS, [(Prompts(), good, 0.5), (Prompts(), misfit, 0.5)])
    assert (heard, snapshot(session)) == ([], before)


def test_a_listener_may_answer_at_once(session: Document) -> None:
    """The way a predictor is attached: prompts change, candidates follow."""

    def predict(plane: object) -> None:
        if session.current is not None and session.current.candidates is None:
            answer(session, rectangle(2, 2, 6, 6))

    session.events.prompts_changed.connect(predict)
    session.do(QueuePrompts.boxes(CELLS, [Box(2, 2, 6, 6), Box(8, 8, 12, 12)]))
    session.do(Accept())
    assert session.current is not None
    assert session.current.mask is not None
