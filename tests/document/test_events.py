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
    IMAGE,
    SHAPE,
    STACK,
    answer,
    check_invariants,
    new_objects,
    painted,
    rectangle,
    snapshot,
)

REGION = (slice(2, 6), slice(2, 6))
HISTORY, SAVED = ("history_changed",), ("saved",)
PROMPTS, CANDIDATES, OBJECTS = ("prompts_changed", CELLS), ("candidates_changed",), (
    "objects_changed", "cells",
)  # fmt: skip
LABELS = ("labels_changed", "cells", REGION)


def listen(document: Document) -> list[tuple[Any, ...]]:
    heard: list[tuple[Any, ...]] = []

    def hear(info: Any) -> None:
        check_invariants(document)
        heard.append((info.signal.name, *info.args))

    document.events.connect(hear)
    return heard


def with_candidates(document: Document) -> None:
    document.do(AddPoint(CELLS, Point(3, 3)))
    answer(document, rectangle(2, 2, 6, 6), rectangle(2, 2, 4, 4))


def with_object(document: Document) -> None:
    with_candidates(document)
    document.do(Accept())


def erase(document: Document) -> None:
    document.do(painted(document, IMAGE, np.ones(SHAPE, bool), 0))


def with_erased(document: Document) -> None:
    with_object(document)
    erase(document)


@pytest.mark.parametrize(
    ("prepare", "operation", "expected"),
    [
        pytest.param(
            None,
            lambda s: s.add_image("new", np.zeros((4, 4))),
            [("image_added", "new"), SAVED],
            id="add image",
        ),
        pytest.param(
            None,
            lambda s: s.do(RenameImage("cells", "nuclei")),
            [("image_renamed", "cells", "nuclei"), SAVED],
            id="rename",
        ),
        pytest.param(
            with_candidates,
            lambda s: s.replace_pixels("cells", np.ones(SHAPE)),
            [("pixels_changed", "cells"), SAVED],
            id="other pixels",
        ),
        pytest.param(
            with_candidates,
            lambda s: s.do(RemoveImage("cells")),
            [CANDIDATES, ("image_removed", "cells"), HISTORY, SAVED],
            id="remove image",
        ),
        pytest.param(
            None, lambda s: s.do(AddPoint(CELLS, Point(1, 1))), [PROMPTS, HISTORY, SAVED], id="pt"
        ),
        pytest.param(None, lambda s: s.undo(), [], id="nothing to undo"),
        pytest.param(
            with_candidates,
            lambda s: s.do(AddPoint(STACK, Point(1, 1))),
            [PROMPTS, ("prompts_changed", STACK), CANDIDATES, HISTORY, SAVED],
            id="other plane",
        ),
        pytest.param(
            with_candidates,
            lambda s: s.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 3, 3)])),
            [PROMPTS, HISTORY, SAVED],
            id="queue",
        ),
        pytest.param(
            lambda s: s.do(AddPoint(CELLS, Point(3, 3))),
            lambda s: answer(s, rectangle(2, 2, 6, 6)),
            [CANDIDATES],
            id="answer",
        ),
        pytest.param(
            with_candidates, lambda s: s.cycle(), [("choice_changed",), SAVED], id="choose"
        ),
        pytest.param(
            with_candidates,
            lambda s: s.do(Accept()),
            [LABELS, OBJECTS, PROMPTS, CANDIDATES, HISTORY, SAVED],
            id="accept",
        ),
        pytest.param(
            with_object,
            lambda s: s.undo(),
            [LABELS, OBJECTS, PROMPTS, CANDIDATES, HISTORY, SAVED],
            id="undo accept",
        ),
        pytest.param(
            None,
            lambda s: s.do(
                new_objects(
                    (Prompts(), rectangle(2, 2, 3, 3), 0.5), (Prompts(), rectangle(5, 5, 6, 6), 0.5)
                )
            ),
            [LABELS, OBJECTS, HISTORY, SAVED],
            id="accept many",
        ),
        pytest.param(
            with_object,
            lambda s: s.do(DeleteObjects("cells", (1,))),
            [LABELS, OBJECTS, HISTORY, SAVED],
            id="delete",
        ),
        pytest.param(
            with_object,
            erase,
            [("labels_painted", "cells", REGION), OBJECTS, HISTORY, SAVED],
            id="paint",
        ),
        pytest.param(
            with_erased,
            lambda s: s.undo(),
            [LABELS, OBJECTS, HISTORY, SAVED],
            id="undo paint",
        ),
    ],
)
def test_what_is_heard(
    document: Document,
    prepare: Callable[[Document], None] | None,
    operation: Callable[[Document], object],
    expected: list[tuple[Any, ...]],
) -> None:
    if prepare is not None:
        prepare(document)
    if operation is erase:
        heard: list[tuple[Any, ...]] = []
        document.events.connect(lambda info: heard.append((info.signal.name, *info.args)))
    else:
        heard = listen(document)
    operation(document)
    assert heard == expected


def test_a_failed_step_is_not_heard_and_changes_nothing(document: Document) -> None:
    with_object(document)
    before, heard = snapshot(document), listen(document)
    good, misfit = rectangle(10, 10, 12, 12), np.ones((3, 3), bool)
    with pytest.raises(Exception, match="predict it from this image"):
        document.do(new_objects((Prompts(), good, 0.5), (Prompts(), misfit, 0.5)))
    assert (heard, snapshot(document)) == ([], before)


def test_a_listener_may_answer_at_once(document: Document) -> None:
    """The way a predictor is attached: prompts change, candidates follow."""

    def predict(plane: object) -> None:
        if document.current is not None and document.current.candidates is None:
            answer(document, rectangle(2, 2, 6, 6))

    document.events.prompts_changed.connect(predict)
    document.do(QueuePrompts.boxes(CELLS, [Box(2, 2, 6, 6), Box(8, 8, 12, 12)]))
    document.do(Accept())
    assert document.current is not None
    assert document.current.mask is not None
