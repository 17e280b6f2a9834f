"""Objects that lie in several planes of a stack, and the fields of their records."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AddPoint,
    DeleteObjects,
    Document,
    ImportLabels,
    MergeObjects,
    ObjectPlane,
    ObjectRecord,
    PlaneKey,
    SetBox,
)
from napari_peftsam.document.records import label_set_of
from napari_peftsam.errors import ImageError
from napari_peftsam.types import Box, Point, Prompts
from tests.document._cases import (
    SHAPE,
    VOLUME,
    accept,
    answer,
    check_invariants,
    painted,
    rectangle,
    snapshot,
)

PLANES = tuple(PlaneKey(VOLUME, (z,)) for z in range(3))
CLICK = Prompts((Point(5, 5),))


def in_planes(*planes: tuple[int, int, int], label: int = 1) -> np.ndarray:
    """Return labels of the stack with a 4 x 4 square of an object at (z, row, col) each."""
    labels = np.zeros((3, *SHAPE), np.int32)
    for z, row, col in planes:
        labels[z, row : row + 4, col : col + 4] = label
    return labels


THROUGH = in_planes((0, 2, 2), (1, 3, 3), (2, 4, 4))


def test_labels_in_three_planes_give_three_planes(document: Document) -> None:
    document.do(ImportLabels(VOLUME, THROUGH))
    (record,) = document.records(VOLUME)
    assert record.planes == (ObjectPlane((0,)), ObjectPlane((1,)), ObjectPlane((2,)))
    assert (record.index, record.source) == ((0,), "imported")
    assert document.planes_with_objects() == PLANES
    assert document.image(VOLUME).area(1) == 48
    assert np.count_nonzero(document.labels(PLANES[0]) == 1) == 16
    check_invariants(document)
    document.undo()
    assert document.planes_with_objects() == ()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int64])
def test_labels_of_an_added_image_do_so_too(document: Document, kind: type) -> None:
    image = document.add_image("more", np.zeros(THROUGH.shape), labels=THROUGH.astype(kind))
    assert document.planes_with_objects() == tuple(PlaneKey(image, (z,)) for z in range(3))
    check_invariants(document)


def test_planes_with_two_leading_axes(document: Document) -> None:
    labels = np.zeros((2, 3, *SHAPE), np.int32)
    labels[0, 2, 1, 1] = labels[1, 0, 1, 1] = 1
    image = document.add_image("t-z", np.zeros(labels.shape), labels=labels)
    assert [p.index for p in document.records(image)[0].planes] == [(0, 2), (1, 0)]
    assert [p.index for p in document.planes_with_objects()] == [(0, 2), (1, 0)]


def test_painting_in_another_plane_makes_the_object_lie_there(document: Document) -> None:
    square = rectangle(2, 2, 6, 6)
    label = accept(document, square, plane=PLANES[1])
    made = document.records(VOLUME)[0]
    assert made.planes == (ObjectPlane((1,), CLICK),)
    inside = np.zeros((3, *SHAPE), bool)
    inside[0] = inside[2] = square
    document.do(painted(document, VOLUME, inside, label))
    (record,) = document.records(VOLUME)
    # The plane it was made in stays the first; the others have no prompts.
    assert record.planes == (ObjectPlane((1,), CLICK), ObjectPlane((0,)), ObjectPlane((2,)))
    assert (record.index, record.prompts, record.corrected) == ((1,), CLICK, True)
    assert record.prompts_in((1,)) == CLICK
    assert record.prompts_in((0,)) == record.prompts_in((7,)) == Prompts()
    assert record.source == "point"
    assert document.planes_with_objects() == PLANES
    check_invariants(document)
    document.undo()
    assert document.records(VOLUME) == (made,)


def test_an_object_leaves_a_plane_with_its_last_pixel_there(document: Document) -> None:
    label = accept(document, rectangle(2, 2, 6, 6), plane=PLANES[1])
    more = np.zeros((3, *SHAPE), bool)
    more[2, 2:6, 2:6] = True
    document.do(painted(document, VOLUME, more, label))
    before = snapshot(document)
    erased = np.zeros((3, *SHAPE), bool)
    erased[1] = True
    document.do(painted(document, VOLUME, erased, 0))
    (record,) = document.records(VOLUME)
    assert record.planes == (ObjectPlane((2,)),)
    assert (record.index, record.prompts, record.source) == ((2,), Prompts(), "automatic")
    assert document.planes_with_objects() == (PLANES[2],)
    assert np.count_nonzero(document.labels(PLANES[2]) == label) == 16
    document.undo()
    assert snapshot(document) == before
    assert document.records(VOLUME)[0].prompts_in((1,)) == CLICK


def test_deleting_takes_all_planes(document: Document) -> None:
    document.do(ImportLabels(VOLUME, THROUGH))
    before = snapshot(document)
    document.do(DeleteObjects(VOLUME, (1,)))
    assert not document.images[VOLUME].labels.any()
    assert document.planes_with_objects() == ()
    document.undo()
    assert snapshot(document) == before


def test_accepting_over_a_part_of_an_object(document: Document) -> None:
    document.do(ImportLabels(VOLUME, THROUGH))
    document.do(AddPoint(PLANES[0], Point(5, 5)))
    answer(document, rectangle(0, 0, 12, 12))
    document.do(Accept(overlap="overwrite"))
    first, second = document.records(VOLUME)
    assert [p.index for p in first.planes] == [(1,), (2,)]
    assert [p.index for p in second.planes] == [(0,)]
    assert document.image(VOLUME).area(1) == 32
    check_invariants(document)


def test_merging_objects_of_several_planes(document: Document) -> None:
    labels = in_planes((0, 2, 2), (1, 2, 2)) + in_planes((1, 10, 10), (2, 10, 10), label=2)
    boxes = Prompts(box=Box(2, 2, 6, 6)), Prompts(box=Box(10, 10, 14, 14))
    points = Prompts((Point(3, 3), Point(12, 12, positive=False)))
    records = (
        ObjectRecord(
            1, (ObjectPlane((1,), boxes[0]), ObjectPlane((0,), points)), score=0.5, category="a"
        ),
        ObjectRecord(2, (ObjectPlane((2,), points), ObjectPlane((1,), boxes[1])), category="b"),
    )
    document.do(ImportLabels(VOLUME, labels, records))
    assert document.records(VOLUME) == records
    before = snapshot(document)
    assert document.do(MergeObjects(VOLUME, (1, 2))) == 1
    (record,) = document.records(VOLUME)
    assert record.planes == (
        ObjectPlane((1,), Prompts(box=Box(2, 2, 14, 14))),  # the union of both boxes
        ObjectPlane((0,), points),
        ObjectPlane((2,), points),
    )
    assert (record.category, record.score, record.corrected) == ("a", None, True)
    assert document.image(VOLUME).area(1) == 64
    np.testing.assert_array_equal(document.images[VOLUME].labels, (labels > 0).astype(int))
    check_invariants(document)
    document.undo()
    assert snapshot(document) == before


def test_prompts_of_a_merged_object_where_one_has_no_box(document: Document) -> None:
    for prompts, square in (
        (Prompts((Point(3, 3), Point(9, 9, positive=False))), rectangle(2, 2, 6, 6)),
        (Prompts(box=Box(8, 8, 12, 12)), rectangle(8, 8, 12, 12)),
    ):
        if prompts.box is not None:
            document.do(SetBox(PLANES[1], prompts.box))
        for point in prompts.points:
            document.do(AddPoint(PLANES[1], point))
        answer(document, square)
        document.do(Accept())
    document.do(MergeObjects(VOLUME, (1, 2)))
    # A box of one says nothing of both, and a negative point of one may lie in the other.
    assert document.records(VOLUME)[0].prompts == Prompts((Point(3, 3),))


def test_records_keep_class_and_label_set(document: Document) -> None:
    nuclei = label_set_of("nucleus")
    record = ObjectRecord(
        4, (ObjectPlane((1,), CLICK),), "builtin", category="nucleus", label_set=nuclei
    )
    document.do(ImportLabels(VOLUME, in_planes((1, 2, 2), label=4), (record,), nuclei))
    assert document.records(VOLUME) == (record,)
    inside = np.zeros((3, *SHAPE), bool)
    inside[1, 0, 0] = True
    document.do(painted(document, VOLUME, inside, 4, nuclei))
    after = document.records(VOLUME)[0]
    assert replace(after, corrected=False, modified="") == record
    assert Document(document.store).records(VOLUME) == (after,)
    # An import without records keeps them where the pixels stay.
    present = document.images[VOLUME].array(nuclei).copy()
    document.do(ImportLabels(VOLUME, present, label_set=nuclei))
    assert document.records(VOLUME) == (after,)


def test_given_records_lie_where_the_pixels_are(document: Document) -> None:
    """A record says more planes, or fewer, than its label has pixels in."""
    record = ObjectRecord(1, (ObjectPlane((2,), CLICK), ObjectPlane((0,))), "builtin")
    document.do(ImportLabels(VOLUME, in_planes((1, 2, 2), (2, 2, 2)), (record,)))
    assert document.records(VOLUME)[0].planes == (ObjectPlane((2,), CLICK), ObjectPlane((1,)))
    with pytest.raises(ImageError, match="no plane"):
        document.do(ImportLabels(VOLUME, THROUGH, (replace(record, planes=(ObjectPlane((3,)),)),)))
    check_invariants(document)


def test_the_table_of_objects_has_every_plane(document: Document) -> None:
    document.do(ImportLabels(VOLUME, THROUGH))
    row = document.records(VOLUME)[0].to_dict()
    assert [plane["index"] for plane in row["planes"]] == [[0], [1], [2]]
    assert row["planes"][0]["prompts"] == {"points": [], "box": None}
