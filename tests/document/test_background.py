"""Background is declared by strokes and by complete regions; objects are left as they are."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.document import (
    CompleteRegion,
    Document,
    ImageId,
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
    VOLUME,
    accept,
    check_invariants,
    new_objects,
    rectangle,
    snapshot,
)

PLANES = [PlaneKey(VOLUME, (z,)) for z in range(3)]
TRIANGLE = ((0.5, 0.5), (9.5, 0.5), (9.5, 9.5))


REGIONS = [
    pytest.param(CompleteRegion(), id="image"),
    pytest.param(CompleteRegion(()), id="plane"),
    pytest.param(CompleteRegion(box=Box(2, 3, 7, 11)), id="rectangle"),
    pytest.param(CompleteRegion((), Box(-5, 20, 4, 99)), id="beyond the edge"),
    pytest.param(CompleteRegion(outline=TRIANGLE), id="lasso"),
]


def painted(document: Document, plane: PlaneKey = CELLS) -> BoolArray:
    """Return the pixels of a plane that strokes declare to be background."""
    background = document.image(plane.image).background
    return np.zeros(SHAPE, bool) if background is None else background[plane.index] == 1


def complete(document: Document, image: ImageId = IMAGE) -> tuple[CompleteRegion, ...]:
    return document.image(image).info.complete


@pytest.mark.parametrize("region", REGIONS)
def test_complete_regions_are_declared_and_revoked(
    document: Document, region: CompleteRegion
) -> None:
    accept(document, rectangle(4, 4, 8, 8))
    labels = document.labels(CELLS).copy()
    assert complete(document) == ()
    document.do(MarkComplete(IMAGE, region))
    assert complete(document) == (region,)
    document.do(MarkComplete(IMAGE, region))  # it is already: no step
    assert document.undo_label == "mark complete"
    assert len(document.steps) == 3
    document.do(MarkComplete(IMAGE, region, is_complete=False))
    assert complete(document) == ()
    assert document.undo() == "mark incomplete"
    assert complete(document) == (region,)
    document.undo()
    assert complete(document) == ()
    np.testing.assert_array_equal(document.labels(CELLS), labels)


def test_regions_add_up_in_the_order_of_their_declaration(document: Document) -> None:
    regions = CompleteRegion((1,)), CompleteRegion(box=Box(0, 0, 2, 2))
    for region in regions:
        document.do(MarkComplete(VOLUME, region))
    assert complete(document, VOLUME) == regions
    assert complete(document) == ()
    document.do(MarkComplete(VOLUME, regions[0], is_complete=False))
    assert complete(document, VOLUME) == regions[1:]


def test_a_region_in_no_plane_is_refused(document: Document) -> None:
    for index in ((3,), (), (0, 0)):
        with pytest.raises(ImageError, match="no plane"):
            document.do(MarkComplete(VOLUME, CompleteRegion(index)))
    assert document.undo_label is None


def test_strokes_declare_pixels(document: Document) -> None:
    before = snapshot(document)
    where = np.flatnonzero(rectangle(2, 2, 6, 6))
    document.do(PaintBackground(IMAGE, where))
    np.testing.assert_array_equal(painted(document), rectangle(2, 2, 6, 6))
    assert not document.labels(CELLS).any()
    document.do(PaintBackground(IMAGE, where[:4]))  # they are already: no step
    assert document.steps == ("paint background",)
    document.do(PaintBackground(IMAGE, where[:4], is_background=False))
    np.testing.assert_array_equal(painted(document), rectangle(3, 2, 6, 6))
    document.undo()
    np.testing.assert_array_equal(painted(document), rectangle(2, 2, 6, 6))
    document.undo()
    assert snapshot(document) == before
    document.redo()
    np.testing.assert_array_equal(painted(document), rectangle(2, 2, 6, 6))


def test_strokes_lie_in_their_plane(document: Document) -> None:
    size = SHAPE[0] * SHAPE[1]
    document.do(PaintBackground(VOLUME, np.arange(2 * size, 2 * size + 5)))
    assert [painted(document, p).sum() for p in PLANES] == [0, 0, 5]


def test_objects_and_declarations_do_not_touch_one_another(document: Document) -> None:
    cell, around = rectangle(4, 4, 8, 8), rectangle(0, 0, 10, 10)
    document.do(PaintBackground(IMAGE, np.flatnonzero(around)))
    document.do(MarkComplete(IMAGE))
    document.do(new_objects((Prompts(), cell, 0.5)))
    assert (document.labels(CELLS)[cell] == 1).all()
    document.do(ImportLabels(IMAGE, np.full(SHAPE, 3)))
    np.testing.assert_array_equal(painted(document), around)
    document.undo()
    document.undo()
    np.testing.assert_array_equal(painted(document), around)
    assert complete(document) == (CompleteRegion(),)
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
    assert not painted(document).any()


def test_removing_an_image_takes_its_declarations_along(document: Document) -> None:
    document.do(PaintBackground(VOLUME, np.arange(3)))
    document.do(MarkComplete(VOLUME, CompleteRegion((1,))))
    document.do(MarkComplete(IMAGE))
    before = snapshot(document)
    document.do(RemoveImage(VOLUME))
    document.undo()
    assert snapshot(document) == before
    assert complete(document, VOLUME) == (CompleteRegion((1,)),)
    assert painted(document, PLANES[0]).sum() == 3


def test_declarations_are_saved(document: Document) -> None:
    document.do(PaintBackground(IMAGE, np.flatnonzero(rectangle(2, 2, 6, 6))))
    document.do(MarkComplete(VOLUME, CompleteRegion((1,), outline=TRIANGLE)))
    reopened = Document(document.store)
    np.testing.assert_array_equal(painted(reopened), painted(document))
    assert complete(reopened, VOLUME) == (CompleteRegion((1,), outline=TRIANGLE),)
    reopened.do(PaintBackground(IMAGE, np.flatnonzero(rectangle(2, 2, 3, 3)), is_background=False))
    assert painted(reopened).sum() == 15
    reopened.undo()
    reopened.undo()
    reopened.undo()
    assert not painted(reopened).any()
    assert complete(reopened, VOLUME) == ()
