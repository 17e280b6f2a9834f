"""Pixels have three states: object, declared background, unknown."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.document import (
    CompleteRegion,
    Document,
    ImportLabels,
    MarkComplete,
    PaintBackground,
    PlaneKey,
    RemoveImage,
)
from napari_peftsam.errors import ImageError, LabelError
from napari_peftsam.types import BoolArray, Box, Prompts
from tests.document._cases import (
    CELLS,
    IMAGE,
    SHAPE,
    STACK,
    VOLUME,
    accept,
    check_invariants,
    new_objects,
    rectangle,
    snapshot,
)

PLANES = [PlaneKey(VOLUME, (z,)) for z in range(3)]
# A right triangle: the pixel centres with col < row, in rows 2 to 9.
TRIANGLE = ((0.5, 0.5), (9.5, 0.5), (9.5, 9.5))


def declared(document: Document, plane: PlaneKey = CELLS) -> BoolArray:
    return document.image(plane.image).declared_background(plane)


def triangle() -> BoolArray:
    rows, cols = np.indices(SHAPE)
    return (rows >= 2) & (rows <= 9) & (cols >= 1) & (cols < rows)


@pytest.mark.parametrize(
    ("region", "inside"),
    [
        pytest.param(CompleteRegion(), np.ones(SHAPE, bool), id="image"),
        pytest.param(CompleteRegion(()), np.ones(SHAPE, bool), id="plane"),
        pytest.param(CompleteRegion(box=Box(2, 3, 7, 11)), rectangle(2, 3, 7, 11), id="rectangle"),
        pytest.param(
            CompleteRegion((), Box(-5, 20, 4, 99)), rectangle(0, 20, 4, 32), id="beyond the edge"
        ),
        pytest.param(CompleteRegion(outline=TRIANGLE), triangle(), id="lasso"),
    ],
)
def test_complete_regions_declare_what_is_no_object(
    document: Document, region: CompleteRegion, inside: BoolArray
) -> None:
    accept(document, rectangle(4, 4, 8, 8))
    assert not declared(document).any()
    document.do(MarkComplete(IMAGE, region))
    is_object = document.labels(CELLS) > 0
    np.testing.assert_array_equal(declared(document), inside & ~is_object)
    assert document.image(IMAGE).info.complete == (region,)
    document.do(MarkComplete(IMAGE, region))  # it is already: no step
    assert document.undo_label == "mark complete"
    assert len(document.steps) == 3
    document.do(MarkComplete(IMAGE, region, is_complete=False))
    assert not declared(document).any()
    assert document.undo() == "mark incomplete"
    np.testing.assert_array_equal(declared(document), inside & ~is_object)
    document.undo()
    assert not declared(document).any()


def test_a_region_of_one_plane_says_nothing_of_the_others(document: Document) -> None:
    document.do(MarkComplete(VOLUME, CompleteRegion((1,))))
    assert [declared(document, p).all() for p in PLANES] == [False, True, False]
    assert not any(declared(document, p).any() for p in (PLANES[0], PLANES[2], CELLS))
    document.do(MarkComplete(VOLUME, CompleteRegion(box=Box(0, 0, 2, 2))))
    assert [declared(document, p).sum() for p in PLANES] == [4, SHAPE[0] * SHAPE[1], 4]


def test_a_region_in_no_plane_is_refused(document: Document) -> None:
    for index in ((3,), (), (0, 0)):
        with pytest.raises(ImageError, match="no plane"):
            document.do(MarkComplete(VOLUME, CompleteRegion(index)))
    assert document.undo_label is None


def test_strokes_declare_pixels(document: Document) -> None:
    before = snapshot(document)
    where = np.flatnonzero(rectangle(2, 2, 6, 6))
    document.do(PaintBackground(IMAGE, where))
    np.testing.assert_array_equal(declared(document), rectangle(2, 2, 6, 6))
    assert not document.labels(CELLS).any()
    document.do(PaintBackground(IMAGE, where[:4]))  # they are already: no step
    assert document.steps == ("paint background",)
    document.do(PaintBackground(IMAGE, where[:4], is_background=False))
    np.testing.assert_array_equal(declared(document), rectangle(3, 2, 6, 6))
    document.undo()
    np.testing.assert_array_equal(declared(document), rectangle(2, 2, 6, 6))
    document.undo()
    assert snapshot(document) == before
    document.redo()
    np.testing.assert_array_equal(declared(document), rectangle(2, 2, 6, 6))


def test_strokes_lie_in_their_plane(document: Document) -> None:
    size = SHAPE[0] * SHAPE[1]
    document.do(PaintBackground(VOLUME, np.arange(2 * size, 2 * size + 5)))
    assert [declared(document, p).sum() for p in PLANES] == [0, 0, 5]


def test_objects_are_never_background(document: Document) -> None:
    cell = rectangle(4, 4, 8, 8)
    document.do(PaintBackground(IMAGE, np.flatnonzero(rectangle(0, 0, 10, 10))))
    document.do(MarkComplete(IMAGE))
    document.do(new_objects((Prompts(), cell, 0.5)))
    assert (document.labels(CELLS)[cell] == 1).all()
    np.testing.assert_array_equal(declared(document), ~cell)
    document.do(ImportLabels(IMAGE, np.full(SHAPE, 3)))
    assert not declared(document).any()
    document.undo()
    document.undo()  # the declarations are still there
    assert declared(document).all()
    check_invariants(document)


def test_background_is_another_label_set_than_the_objects(document: Document) -> None:
    """Strokes neither take pixels from objects nor count as their label 1."""
    accept(document, rectangle(4, 4, 8, 8))
    labels = document.labels(CELLS).copy()
    document.do(PaintBackground(IMAGE, np.arange(SHAPE[0] * SHAPE[1])))
    np.testing.assert_array_equal(document.labels(CELLS), labels)
    assert document.image(IMAGE).area(1) == 16
    assert not document.records(IMAGE)[0].corrected
    check_invariants(document)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        pytest.param([-1, 3], "outside", id="before"),
        pytest.param([3, SHAPE[0] * SHAPE[1]], "outside", id="beyond"),
        pytest.param([5, 3], "out of order", id="order"),
        pytest.param([3, 3], "repeat", id="repeats"),
    ],
)
def test_unusable_strokes(document: Document, where: list[int], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        document.do(PaintBackground(IMAGE, np.array(where)))
    assert document.undo_label is None
    assert not declared(document).any()


def test_removing_an_image_takes_its_declarations_along(document: Document) -> None:
    document.do(PaintBackground(VOLUME, np.arange(3)))
    document.do(MarkComplete(VOLUME, CompleteRegion((1,))))
    document.do(MarkComplete(IMAGE))
    before = snapshot(document)
    document.do(RemoveImage(VOLUME))
    document.undo()
    assert snapshot(document) == before
    assert declared(document, STACK).all()
    assert declared(document, PLANES[0]).sum() == 3


def test_declarations_are_saved(document: Document) -> None:
    document.do(PaintBackground(IMAGE, np.flatnonzero(rectangle(2, 2, 6, 6))))
    document.do(MarkComplete(VOLUME, CompleteRegion((1,), outline=TRIANGLE)))
    reopened = Document(document.store)
    for plane in (CELLS, *PLANES):
        np.testing.assert_array_equal(declared(reopened, plane), declared(document, plane))
    reopened.do(PaintBackground(IMAGE, np.flatnonzero(rectangle(2, 2, 3, 3)), is_background=False))
    assert declared(reopened).sum() == 15
    reopened.undo()
    reopened.undo()
    reopened.undo()
    assert not any(declared(reopened, plane).any() for plane in (CELLS, *PLANES))
