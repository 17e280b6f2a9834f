"""Objects of an image stay as they were when a snapshot was taken, whatever is done since."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_peftsam.document import (
    DeleteObjects,
    Document,
    ImportLabels,
    MergeObjects,
    Paint,
    PlaneKey,
    label_set_of,
)
from napari_peftsam.types import Window
from tests.document._cases import IMAGE, SHAPE, VOLUME, accept, rectangle

WHOLE = Window(0, 0, *SHAPE)
HERE = np.flatnonzero(rectangle(0, 0, 6, 6))


def by_brush(document: Document) -> None:
    """Paint as napari does: into the shared array, and then as an action."""
    labels = document.image(IMAGE).labels
    old = labels.reshape(-1)[HERE].copy()
    labels.reshape(-1)[HERE] = 7
    document.do(Paint(IMAGE, HERE, 7, old=old))


def twice(document: Document) -> None:
    document.do(Paint(IMAGE, HERE, 7))
    document.do(Paint(IMAGE, HERE, 0))


def undone(document: Document) -> None:
    document.undo()
    document.undo()


def other_class(document: Document) -> None:
    document.do(Paint(IMAGE, HERE, 9, label_set=label_set_of("nucleus")))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(by_brush, id="a stroke of napari's brush"),
        pytest.param(twice, id="two strokes over the same pixels"),
        pytest.param(lambda d: d.do(DeleteObjects(IMAGE, (1,))), id="an object removed"),
        pytest.param(lambda d: d.do(MergeObjects(IMAGE, (1, 2))), id="objects merged"),
        pytest.param(undone, id="undone"),
        pytest.param(lambda d: d.do(ImportLabels(IMAGE, np.zeros(SHAPE, int))), id="imported"),
        pytest.param(other_class, id="painted in another class"),
    ],
)
def test_later_changes_are_not_in_a_snapshot(
    document: Document, change: Callable[[Document], object]
) -> None:
    for box in ((2, 2, 8, 8), (12, 12, 20, 20)):
        accept(document, rectangle(*box))
    image = document.image(IMAGE)
    before, taken = image.labels.copy(), image.snapshot()
    change(document)
    np.testing.assert_array_equal(taken.labels("", (), WHOLE), before)
    part = Window(4, 3, 10, 12)
    np.testing.assert_array_equal(taken.labels("", (), part), before[part.slices])
    rows, cols = taken.window(2).slices
    assert (before[rows, cols] == 2).sum() == 64


def test_planes_of_a_stack_are_told_apart(document: Document) -> None:
    image = document.image(VOLUME)
    accept(document, rectangle(2, 2, 8, 8), plane=PlaneKey(VOLUME, (1,)))
    before, taken = image.labels.copy(), image.snapshot()
    document.do(Paint(VOLUME, np.flatnonzero(np.ones(image.shape)), 5))
    for z in range(image.shape[0]):
        np.testing.assert_array_equal(taken.labels("", (z,), WHOLE), before[z])


def test_nothing_is_kept_for_a_snapshot_that_is_gone(document: Document) -> None:
    image = document.image(IMAGE)
    taken = image.snapshot()
    document.do(Paint(IMAGE, HERE, 7))
    assert len(image._snapshots) == 1
    del taken
    assert len(image._snapshots) == 0
