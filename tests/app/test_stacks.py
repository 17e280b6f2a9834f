"""Objects of a stack go on in the next plane."""

from __future__ import annotations

import numpy as np
import pytest

import napari_peftsam as ps
from napari_peftsam.app.runner import run
from napari_peftsam.app.stacks import continue_objects, continued_labels
from napari_peftsam.document import ImageId, PlaneKey
from napari_peftsam.errors import LabelError
from tests.training._world import make_plane

STACK = ImageId("stack")
FIRST, SECOND = PlaneKey(STACK, (0,)), PlaneKey(STACK, (1,))


@pytest.fixture
def stack(app: ps.App) -> ps.App:
    """Three equal planes, of which the first is annotated."""
    plane = make_plane("discs")
    labels = np.zeros((3, *plane.labels.shape), np.int32)
    labels[0] = plane.labels
    app.document.add_image(STACK, np.stack([plane.pixels] * 3), labels=labels)
    return app


def test_objects_go_on_with_their_numbers(stack: ps.App) -> None:
    document = stack.document
    labels = continued_labels(document.image(STACK), FIRST, SECOND)
    assert list(labels) == sorted(document.image(STACK).records)
    found = run(continue_objects(stack.workspace, FIRST, SECOND, labels))
    assert len(found.objects) + found.ended == len(labels)
    for made in found.objects:
        assert made.label in labels
        assert made.prompts.box is not None
        assert len(made.prompts.points) == 1
        assert made.model == "tiny"
    document.do(ps.AcceptObjects(SECOND, found.objects))
    before, after = document.labels(FIRST), document.labels(SECOND)
    for made in found.objects:
        shared = (before == made.label) & (after == made.label)
        assert shared.any()
        assert [p.index for p in document.image(STACK).records[made.label].planes] == [(0,), (1,)]


def test_chosen_objects_go_on_alone(stack: ps.App) -> None:
    image = stack.document.image(STACK)
    assert continued_labels(image, FIRST, SECOND, [2, 99]) == (2,)


def test_what_is_there_already_is_left_alone(stack: ps.App) -> None:
    image = stack.document.image(STACK)
    where = np.flatnonzero(image.labels[0] == 2) + image.labels[0].size
    stack.document.do(ps.Paint(STACK, where, 2))
    assert 2 not in continued_labels(image, FIRST, SECOND)
    with pytest.raises(LabelError, match="no object of plane 0 is missing in plane 1"):
        continued_labels(image, FIRST, SECOND, [2])


def test_an_empty_plane_has_nothing_to_continue(stack: ps.App) -> None:
    with pytest.raises(LabelError, match="annotate one there first"):
        continued_labels(stack.document.image(STACK), SECOND, FIRST)
