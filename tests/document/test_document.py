"""Images, prompts and candidates, as a document shows them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from napari_peftsam.document import (
    AddImage,
    AddPoint,
    ChooseCandidate,
    DeleteObjects,
    Discard,
    Document,
    ImageId,
    ImageInfo,
    ImageSource,
    ImportLabels,
    LocateImage,
    MarkComplete,
    MergeObjects,
    ObjectPlane,
    PaintBackground,
    PlaneKey,
    QueuePrompts,
    RemoveImage,
    RemoveLastPrompt,
    RenameImage,
    SetBox,
    SetPrompts,
)
from napari_peftsam.errors import ImageError, LabelError, PromptError
from napari_peftsam.types import Box, Point, Prompts
from tests.document._cases import (
    CELLS,
    IMAGE,
    SHAPE,
    STACK,
    VOLUME,
    accept,
    answer,
    check_invariants,
    new_objects,
    painted,
    prediction,
    rectangle,
    snapshot,
)

LEFT, RIGHT = rectangle(2, 2, 10, 10), rectangle(2, 8, 10, 20)


# --- images ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rgb", "spatial", "is_rgb"),
    [
        pytest.param((24, 32), None, (24, 32), False, id="grey"),
        pytest.param((24, 32, 3), None, (24, 32), True, id="rgb"),
        pytest.param((24, 32, 4), None, (24, 32), True, id="rgba"),
        pytest.param((5, 24, 32), None, (5, 24, 32), False, id="stack"),
        pytest.param((5, 24, 32, 3), None, (5, 24, 32), True, id="rgb stack"),
        pytest.param((24, 32, 3), False, (24, 32, 3), False, id="narrow stack"),
    ],
)
def test_spatial_shape(
    shape: tuple[int, ...], rgb: bool | None, spatial: tuple[int, ...], is_rgb: bool
) -> None:
    document = Document()
    assert document.add_image("a", np.zeros(shape, np.uint8), rgb=rgb) == "a"
    assert (document.images["a"].shape, document.images["a"].rgb) == (spatial, is_rgb)
    plane = PlaneKey("a", (0,) * (len(spatial) - 2))
    assert document.pixels(plane).shape[:2] == document.labels(plane).shape == spatial[-2:]
    assert document.images["a"].labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(np.zeros((3, 4)), "float64", id="float"),
        pytest.param(np.zeros((3, 4), bool), "bool", id="bool"),
        pytest.param(np.zeros((4, 4), int), "shape", id="shape"),
        pytest.param(np.full((3, 4), -1), "must not be negative", id="negative"),
        pytest.param(np.broadcast_to(np.int32(0), (3, 4)), "read-only", id="read-only"),
    ],
)
def test_unusable_labels(labels: np.ndarray, message: str) -> None:
    document = Document()
    with pytest.raises(LabelError, match=message):
        document.add_image("a", np.zeros((3, 4)), labels=labels)
    assert not document.images


@pytest.mark.parametrize(
    ("plane", "message"),
    [
        pytest.param(PlaneKey("nuclei"), "no image 'nuclei'.*'cells', 'stack'", id="name"),
        pytest.param(PlaneKey("stack"), "1 indices", id="too few"),
        pytest.param(PlaneKey("cells", (0,)), "0 indices", id="too many"),
        pytest.param(PlaneKey("stack", (3,)), "below", id="beyond"),
        pytest.param(PlaneKey("stack", (-1,)), "below", id="negative"),
    ],
)
def test_unknown_plane(document: Document, plane: PlaneKey, message: str) -> None:
    for use in (document.labels, document.pixels, lambda p: document.do(AddPoint(p, Point(1, 1)))):
        with pytest.raises(ImageError, match=message):
            use(plane)


def test_labels_are_shared_and_their_objects_taken_over() -> None:
    labels = np.zeros((3, *SHAPE), np.uint16)
    labels[1:, 3:5, 4:9] = 7
    labels[2, 10, 10] = 2
    document = Document()
    document.add_image("a", np.zeros(labels.shape), labels=labels)
    assert np.shares_memory(document.labels(PlaneKey("a", (1,))), labels)
    assert [(r.label, r.index, r.source) for r in document.records("a")] == [
        (2, (2,), "imported"),
        (7, (1,), "imported"),
    ]
    assert document.records("a")[1].planes == (ObjectPlane((1,)), ObjectPlane((2,)))
    assert document.image("a").area(7) == 20
    assert np.count_nonzero(document.labels(PlaneKey("a", (1,))) == 7) == 10
    assert accept(document, LEFT, plane=PlaneKey("a", (0,))) == 8
    assert labels.max() == 8
    check_invariants(document)


def test_a_small_label_type_that_is_full_is_refused() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[20, 20] = 255
    document = Document()
    document.add_image("cells", np.zeros(SHAPE), labels=labels)
    with pytest.raises(LabelError, match="convert the label array to int32"):
        accept(document, LEFT)
    assert document.current is not None
    assert document.steps == ("add point",)


def test_renaming_changes_the_name_only(document: Document) -> None:
    accept(document, LEFT)
    document.do(AddPoint(CELLS, Point(1, 1)))
    before, steps = snapshot(document), document.steps
    document.do(RenameImage(IMAGE, "nuclei"))
    assert document.steps == steps
    assert [(i, image.name) for i, image in document.images.items()] == [
        ("cells", "nuclei"),
        ("stack", "stack"),
    ]
    assert document.find_image("nuclei") is document.image(IMAGE)
    assert document.find_image("cells") is None
    assert document.current is not None
    assert document.current.plane == CELLS
    while document.undo_label is not None:
        document.undo()
        check_invariants(document)
    while document.redo_label is not None:
        document.redo()
        check_invariants(document)
    assert document.image(IMAGE).name == "nuclei"
    document.do(RenameImage(IMAGE, "cells"))
    assert snapshot(document) == before
    with pytest.raises(ImageError, match="choose another name"):
        document.do(RenameImage(IMAGE, "stack"))


def test_ids_are_used_once(document: Document) -> None:
    with pytest.raises(ImageError, match="choose another name"):
        document.add_image("cells", np.zeros(SHAPE))
    document.do(RenameImage(IMAGE, "nuclei"))
    second = document.add_image("cells", np.zeros(SHAPE))
    document.do(RemoveImage(second))
    third = document.add_image("cells", np.zeros(SHAPE))
    assert list(document.images) == [IMAGE, VOLUME, third]
    assert len({IMAGE, second, third}) == 3
    with pytest.raises(ImageError, match="no image 'cells~2'"):
        document.image(second)


@pytest.mark.parametrize("used", [IMAGE, VOLUME])
def test_an_image_of_a_known_id_is_refused(document: Document, used: ImageId) -> None:
    accept(document, LEFT)
    document.do(RemoveImage(VOLUME))
    before, steps = snapshot(document), document.steps
    with pytest.raises(ImageError, match=f"{used}.*give it another id"):
        document.do(AddImage(used, ImageInfo("new", SHAPE)))
    assert (snapshot(document), document.steps) == (before, steps)


def test_ids_stay_in_every_later_action(document: Document) -> None:
    document.do(RenameImage(IMAGE, "nuclei"))
    accept(document, LEFT)
    accept(document, rectangle(15, 15, 18, 18))
    document.do(new_objects((Prompts(), rectangle(20, 20, 22, 22), 0.5)))
    document.do(MergeObjects(IMAGE, (1, 2)))
    document.do(DeleteObjects(IMAGE, (3,)))
    document.do(painted(document, IMAGE, rectangle(4, 20, 6, 22), 7))
    document.do(PaintBackground(IMAGE, np.arange(3)))
    document.do(MarkComplete(IMAGE))
    document.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 3, 3)]))
    document.do(ImportLabels(IMAGE, document.images[IMAGE].labels.copy() * 2))
    document.replace_pixels(IMAGE, np.ones(SHAPE))
    assert [r.label for r in document.records(IMAGE)] == [2, 14]
    assert document.planes_with_objects() == (CELLS,)
    assert document.pixels(CELLS).all()
    check_invariants(document)
    document.do(RemoveImage(IMAGE))
    document.undo()
    assert document.images[IMAGE].name == "nuclei"
    while document.undo():
        check_invariants(document)
    assert not document.images[IMAGE].labels.any()


def test_other_pixels_leave_prompts_objects_and_history_alone(document: Document) -> None:
    accept(document, LEFT)
    document.do(AddPoint(CELLS, Point(1, 1)))
    before = snapshot(document), document.steps
    document.replace_pixels("cells", np.ones(SHAPE))
    assert document.pixels(CELLS).all()
    assert (snapshot(document), document.steps) == before


@pytest.mark.parametrize(
    "shape", [pytest.param((12, 32), id="size"), pytest.param((2, *SHAPE), id="axes")]
)
def test_other_pixels_of_another_shape_are_refused(
    document: Document, shape: tuple[int, ...]
) -> None:
    accept(document, LEFT)
    with pytest.raises(ImageError, match="give pixels of that shape"):
        document.replace_pixels("cells", np.ones(shape))
    assert not document.pixels(CELLS).any()
    check_invariants(document)


def test_removing_an_image_is_undone_with_objects_and_prompts(document: Document) -> None:
    accept(document, LEFT, plane=STACK)
    accept(document, LEFT)
    document.do(AddPoint(STACK, Point(1, 1)))
    document.do(AddPoint(CELLS, Point(1, 1)))
    before, pixels = snapshot(document), document.pixels(CELLS)
    document.do(RemoveImage(IMAGE))
    assert document.current is None
    assert document.planes_with_objects() == (STACK,)
    with pytest.raises(ImageError, match="no image 'cells'"):
        document.do(AddPoint(CELLS, Point(1, 1)))
    assert document.undo() == "remove image cells"
    assert snapshot(document) == before
    assert document.planes_with_objects() == (CELLS, STACK)
    assert document.pixels(CELLS) is pixels or np.shares_memory(document.pixels(CELLS), pixels)
    document.redo()
    assert list(document.images) == [VOLUME]
    while document.undo_label is not None:
        document.undo()
        check_invariants(document)
    assert document.current is None
    assert not document.images[VOLUME].labels.any()
    assert not document.images[IMAGE].labels.any()


@pytest.mark.parametrize(
    "occupy",
    [
        pytest.param(lambda d: d.add_image("cells", np.zeros(SHAPE)), id="another image"),
        pytest.param(lambda d: d.do(RenameImage(VOLUME, "cells")), id="a renamed image"),
    ],
)
def test_an_image_comes_back_under_a_free_name(
    document: Document, occupy: Callable[[Document], object]
) -> None:
    document.do(RemoveImage(IMAGE))
    occupy(document)
    names = []
    document.events.image_added.connect(lambda image: names.append(document.image(image).name))
    document.undo()
    assert document.images[IMAGE].name == "cells~2"
    assert names == ["cells~2"]
    assert len({image.name for image in document.images.values()}) == len(document.images)
    document.redo()
    document.undo()
    assert document.images[IMAGE].name == "cells~2"


def test_undo_steps_over_images(document: Document) -> None:
    """Adding, renaming and replacing pixels are no steps: Ctrl-Z never closes an image."""
    accept(document, LEFT)
    new = document.add_image("new", np.zeros(SHAPE))
    document.do(RenameImage(new, "other"))
    document.replace_pixels(new, np.ones(SHAPE))
    document.do(LocateImage(new, ImageSource("other.tif")))
    assert document.steps == ("add point", "accept object 1")
    assert document.undo() == "accept object 1"
    assert (document.undo(), document.undo()) == ("add point", None)
    assert list(document.images) == [IMAGE, VOLUME, new]
    assert document.image(new).name == "other"
    assert document.image(new).info.source == ImageSource("other.tif")
    assert document.pixels(PlaneKey(new)).all()
    assert (document.redo(), document.redo(), document.redo()) == (
        "add point",
        "accept object 1",
        None,
    )


# --- prompts and candidates -----------------------------------------------------------


def test_prompts_of_one_object(document: Document) -> None:
    document.do(SetBox(CELLS, Box(1, 1, 9, 9)))
    document.do(AddPoint(CELLS, Point(3, 3)))
    document.do(AddPoint(CELLS, Point(4, 4, positive=False)))
    assert document.current is not None
    assert document.current.prompts == Prompts(
        (Point(3, 3), Point(4, 4, positive=False)), Box(1, 1, 9, 9)
    )
    left = []
    while document.current is not None:
        document.do(RemoveLastPrompt())
        left.append(document.queue[0] if document.queue else None)
    assert left == [Prompts((Point(3, 3),), Box(1, 1, 9, 9)), Prompts((), Box(1, 1, 9, 9)), None]
    document.do(RemoveLastPrompt())  # nothing to remove: no step
    assert len(document.steps) == 6


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param(lambda s: s.do(AddPoint(CELLS, Point(24, 3))), id="point"),
        pytest.param(lambda s: s.do(SetBox(CELLS, Box(30, 1, 40, 9))), id="box"),
        pytest.param(lambda s: s.do(SetPrompts(CELLS, Prompts((Point(-3, 3),)))), id="prompts"),
        pytest.param(
            lambda s: s.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 2, 2), Box(0, 40, 2, 42)])), id="q"
        ),
    ],
)
def test_prompts_outside_change_nothing(document: Document, prompt) -> None:
    with pytest.raises(PromptError, match="outside"):
        prompt(document)
    assert document.current is None
    assert document.undo_label is None


def test_another_plane_starts_a_new_object(document: Document) -> None:
    document.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 5, 5), Box(6, 6, 9, 9)]))
    document.do(AddPoint(STACK, Point(3, 3)))
    assert document.current is not None
    assert (document.current.plane, document.queue[1:]) == (STACK, ())
    document.undo()
    assert document.queue == (Prompts(box=Box(0, 0, 5, 5)), Prompts(box=Box(6, 6, 9, 9)))


def test_no_prompts_elsewhere_leave_the_current_object_alone(document: Document) -> None:
    document.do(AddPoint(CELLS, Point(3, 3)))
    document.do(SetPrompts(STACK, Prompts()))
    document.do(SetBox(STACK, None))
    assert document.current is not None
    assert document.current.plane == CELLS
    assert len(document.steps) == 1


def test_late_answers_are_ignored(document: Document) -> None:
    document.do(AddPoint(CELLS, Point(3, 3)))
    assert document.current is not None
    first = document.current.revision
    document.do(AddPoint(CELLS, Point(4, 4)))
    assert not document.set_candidates(prediction(LEFT), first)
    assert document.current.candidates is None
    document.undo()
    assert document.set_candidates(prediction(LEFT), first)  # its prompts are back
    document.do(Discard())
    assert not document.set_candidates(prediction(LEFT), first)


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param(np.zeros((1, 3, 3), bool), id="size"),
        pytest.param(np.zeros((0, *SHAPE), bool), id="none"),
    ],
)
def test_misfitting_candidates(document: Document, masks: np.ndarray) -> None:
    document.do(AddPoint(CELLS, Point(3, 3)))
    assert document.current is not None
    bad = prediction(LEFT)
    bad = type(bad)(masks, bad.scores[: len(masks)], bad.logits[: len(masks)])
    with pytest.raises(PromptError, match="predict them from this plane"):
        document.set_candidates(bad, document.current.revision)


def test_choosing(document: Document) -> None:
    document.cycle()  # nothing to choose from: nothing happens
    document.do(AddPoint(CELLS, Point(5, 5)))
    answer(document, LEFT, RIGHT, rectangle(0, 0, 1, 1))
    shown = []
    for step in (1, 1, 1, -1):
        document.cycle(step)
        assert document.current is not None
        shown.append(document.current.choice)
    assert shown == [1, 2, 0, 2]
    document.do(ChooseCandidate(1))
    assert document.current.score == pytest.approx(0.7)
    assert document.current.mask is not None
    rows, cols = document.current.candidates.window.slices
    assert (document.current.mask == RIGHT[rows, cols]).all()
    assert document.current.mask.sum() == RIGHT.sum()
    for index in (3, -1):
        with pytest.raises(PromptError, match="there are 3"):
            document.do(ChooseCandidate(index))


def test_a_further_point_refines_the_shown_candidate(document: Document) -> None:
    document.do(AddPoint(CELLS, Point(5, 5)))
    answer(document, LEFT, RIGHT)
    document.do(ChooseCandidate(1))
    assert document.current is not None
    logits = document.current.candidates.logits[1]
    document.do(AddPoint(CELLS, Point(6, 6)))
    assert document.current.candidates is None
    np.testing.assert_array_equal(document.current.mask_prompt.logits, logits)
    document.do(AddPoint(CELLS, Point(7, 7)))  # before the answer: still the last mask seen
    np.testing.assert_array_equal(document.current.mask_prompt.logits, logits)
    document.do(SetPrompts(CELLS, Prompts((Point(1, 1),))))  # a moved point starts afresh
    assert document.current.mask_prompt is None


def test_an_image_whose_labels_do_not_fit_is_refused_with_a_way_out() -> None:
    class Huge:
        shape, dtype = (10**7, 10**7), np.dtype(np.uint8)

    document = Document()
    with pytest.raises(ImageError, match=r"would take 400000 GB .*napari-peftsam segment"):
        document.add_image("huge", Huge(), rgb=False)
    assert not document.images
