"""A real napari Labels layer paints into the array that a session shares with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels

from napari_peftsam.document import Document, PaintAtom
from tests.document._cases import SHAPE, check_invariants


def atoms_of(item: list[Any]) -> list[PaintAtom]:
    """Translate what ``Labels.events.paint`` reports in napari 0.9."""
    return [
        PaintAtom.from_region(a.slice_key, a.mask, a.old_values, a.new_value)
        if hasattr(a, "slice_key")
        else PaintAtom(*a)
        for a in item
    ]


def drag(layer: Labels) -> None:
    with layer.block_history():
        for col in range(4, 12, 2):
            layer.paint((8, col), 3)


@pytest.mark.parametrize(
    "paint",
    [
        pytest.param(lambda layer: layer.paint((8, 8), 3), id="one dab"),
        pytest.param(drag, id="drag"),
        pytest.param(lambda layer: layer.fill((8, 8), 3), id="fill"),
        pytest.param(lambda layer: layer.paint((8, 8), 0), id="erase"),
        pytest.param(
            lambda layer: layer.data_setitem((np.array([3, 4]), np.array([5, 5])), 3), id="setitem"
        ),
        pytest.param(
            lambda layer: layer.paint_polygon([(2, 2), (2, 9), (9, 9), (9, 2)], 3), id="polygon"
        ),
    ],
)
def test_every_tool_is_one_undoable_step(paint: Callable[[Labels], None]) -> None:
    session, labels = Document(), np.zeros(SHAPE, np.int32)
    labels[6:12, 6:12] = 1
    before = labels.copy()
    session.add_image("cells", np.zeros(SHAPE), labels=labels)
    layer = Labels(labels)
    assert np.shares_memory(layer.data, labels)
    layer.events.paint.connect(lambda e: session.record_stroke("cells", atoms_of(e.value)))
    paint(layer)
    check_invariants(session)
    after = labels.copy()
    assert (after != before).any()
    assert session.steps == ("paint",)
    session.undo()
    np.testing.assert_array_equal(labels, before)
    check_invariants(session)
    session.redo()
    np.testing.assert_array_equal(labels, after)
    check_invariants(session)
