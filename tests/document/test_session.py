"""Images, prompts and candidates, as a session shows them."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.document import (
    AddPoint,
    ChooseCandidate,
    Discard,
    Document,
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
    SHAPE,
    STACK,
    answer,
    check_invariants,
    prediction,
    rectangle,
    snapshot,
)

LEFT, RIGHT = rectangle(2, 2, 10, 10), rectangle(2, 8, 10, 20)


def accept(session: Document, *masks: np.ndarray, plane: PlaneKey = CELLS) -> int:
    session.do(AddPoint(plane, Point(5, 5)))
    answer(session, *masks)
    return session.accept(model="tiny", adapter="v1")


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
    session = Document()
    session.add_image("a", np.zeros(shape, np.uint8), rgb=rgb)
    assert (session.images["a"].shape, session.images["a"].rgb) == (spatial, is_rgb)
    plane = PlaneKey("a", (0,) * (len(spatial) - 2))
    assert session.pixels(plane).shape[:2] == session.labels(plane).shape == spatial[-2:]
    assert session.images["a"].labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(np.zeros((3, 4)), "float64", id="float"),
        pytest.param(np.zeros((3, 4), bool), "bool", id="bool"),
        pytest.param(np.zeros((4, 4), int), "shape", id="shape"),
        pytest.param(np.full((3, 4), -1), "start at 0", id="negative"),
        pytest.param(np.broadcast_to(np.int32(0), (3, 4)), "read-only", id="read-only"),
    ],
)
def test_unusable_labels(labels: np.ndarray, message: str) -> None:
    session = Document()
    with pytest.raises(LabelError, match=message):
        session.add_image("a", np.zeros((3, 4)), labels=labels)
    assert not session.images


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
def test_unknown_plane(session: Document, plane: PlaneKey, message: str) -> None:
    for use in (session.labels, session.pixels, lambda p: session.do(AddPoint(p, Point(1, 1)))):
        with pytest.raises(ImageError, match=message):
            use(plane)


def test_labels_are_shared_and_their_objects_taken_over() -> None:
    labels = np.zeros((3, *SHAPE), np.uint16)
    labels[1:, 3:5, 4:9] = 7
    labels[2, 10, 10] = 2
    session = Document()
    session.add_image("a", np.zeros(labels.shape), labels=labels)
    assert np.shares_memory(session.labels(PlaneKey("a", (1,))), labels)
    assert [(r.label, r.plane.index, r.source) for r in session.records("a")] == [
        (2, (2,), "imported"),
        (7, (1,), "imported"),
    ]
    assert session.object_area("a", 7) == 20
    assert session.object_mask("a", 7).sum() == 10  # in its own plane
    assert accept(session, LEFT, plane=PlaneKey("a", (0,))) == 8
    assert labels.max() == 8
    check_invariants(session)


def test_a_small_label_type_that_is_full_is_refused() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[20, 20] = 255
    session = Document()
    session.add_image("cells", np.zeros(SHAPE), labels=labels)
    with pytest.raises(LabelError, match="convert the label array to int32"):
        accept(session, LEFT)
    assert session.current is not None
    assert session.steps == ("add point",)


def test_rename_follows_everywhere(session: Document) -> None:
    accept(session, LEFT)
    session.do(AddPoint(CELLS, Point(1, 1)))
    session.do(RenameImage("cells", "nuclei"))
    assert list(session.images) == ["nuclei", "stack"]
    assert session.records("nuclei")[0].plane == PlaneKey("nuclei")
    assert session.current is not None
    assert session.current.plane == PlaneKey("nuclei")
    while session.undo_label is not None:
        session.undo()
        check_invariants(session)
    while session.redo_label is not None:
        session.redo()
        check_invariants(session)
    assert session.records("nuclei")[0].label == 1
    with pytest.raises(ImageError, match="choose another name"):
        session.do(RenameImage("nuclei", "stack"))


def test_other_pixels_leave_prompts_objects_and_history_alone(session: Document) -> None:
    accept(session, LEFT)
    session.do(AddPoint(CELLS, Point(1, 1)))
    before = snapshot(session), session.steps
    session.replace_pixels("cells", np.ones(SHAPE))
    assert session.pixels(CELLS).all()
    assert (snapshot(session), session.steps) == before


@pytest.mark.parametrize(
    "shape", [pytest.param((12, 32), id="size"), pytest.param((2, *SHAPE), id="axes")]
)
def test_other_pixels_of_another_shape_are_refused(
    session: Document, shape: tuple[int, ...]
) -> None:
    accept(session, LEFT)
    with pytest.raises(ImageError, match="give pixels of that shape"):
        session.replace_pixels("cells", np.ones(shape))
    assert not session.pixels(CELLS).any()
    check_invariants(session)


def test_remove_takes_its_steps_along(session: Document) -> None:
    accept(session, LEFT, plane=STACK)
    accept(session, LEFT)
    session.do(AddPoint(STACK, Point(1, 1)))
    session.do(AddPoint(CELLS, Point(1, 1)))
    session.do(RemoveImage("cells"))
    assert session.current is None
    assert session.planes_with_objects() == (STACK,)
    while session.undo_label is not None:
        session.undo()
        check_invariants(session)
    assert session.current is None
    assert not session.images["stack"].labels.any()


# --- prompts and candidates -----------------------------------------------------------


def test_prompts_of_one_object(session: Document) -> None:
    session.do(SetBox(CELLS, Box(1, 1, 9, 9)))
    session.do(AddPoint(CELLS, Point(3, 3)))
    session.do(AddPoint(CELLS, Point(4, 4, positive=False)))
    assert session.current is not None
    assert session.current.prompts == Prompts(
        (Point(3, 3), Point(4, 4, positive=False)), Box(1, 1, 9, 9)
    )
    left = []
    while session.current is not None:
        session.do(RemoveLastPrompt())
        left.append(session.queue[0] if session.queue else None)
    assert left == [Prompts((Point(3, 3),), Box(1, 1, 9, 9)), Prompts((), Box(1, 1, 9, 9)), None]
    session.do(RemoveLastPrompt())  # nothing to remove: no step
    assert len(session.steps) == 6


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
def test_prompts_outside_change_nothing(session: Document, prompt) -> None:
    with pytest.raises(PromptError, match="outside"):
        prompt(session)
    assert session.current is None
    assert not (session.undo_label is not None)


def test_another_plane_starts_a_new_object(session: Document) -> None:
    session.do(QueuePrompts.boxes(CELLS, [Box(0, 0, 5, 5), Box(6, 6, 9, 9)]))
    session.do(AddPoint(STACK, Point(3, 3)))
    assert session.current is not None
    assert (session.current.plane, session.pending) == (STACK, ())
    session.undo()
    assert session.queue == (Prompts(box=Box(0, 0, 5, 5)), Prompts(box=Box(6, 6, 9, 9)))


def test_no_prompts_elsewhere_leave_the_current_object_alone(session: Document) -> None:
    session.do(AddPoint(CELLS, Point(3, 3)))
    session.do(SetPrompts(STACK, Prompts()))
    session.do(SetBox(STACK, None))
    assert session.current is not None
    assert session.current.plane == CELLS
    assert len(session.steps) == 1


def test_late_answers_are_ignored(session: Document) -> None:
    session.do(AddPoint(CELLS, Point(3, 3)))
    assert session.current is not None
    first = session.current.revision
    session.do(AddPoint(CELLS, Point(4, 4)))
    assert not session.set_candidates(prediction(LEFT), first)
    assert session.current.candidates is None
    session.undo()
    assert session.set_candidates(prediction(LEFT), first)  # its prompts are back
    session.do(Discard())
    assert not session.set_candidates(prediction(LEFT), first)


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param(np.zeros((1, 3, 3), bool), id="size"),
        pytest.param(np.zeros((0, *SHAPE), bool), id="none"),
    ],
)
def test_misfitting_candidates(session: Document, masks: np.ndarray) -> None:
    session.do(AddPoint(CELLS, Point(3, 3)))
    assert session.current is not None
    bad = prediction(LEFT)
    bad = type(bad)(masks, bad.scores[: len(masks)], bad.logits[: len(masks)])
    with pytest.raises(PromptError, match="predict them from this plane"):
        session.set_candidates(bad, session.current.revision)


def test_choosing(session: Document) -> None:
    session.cycle()  # nothing to choose from: nothing happens
    session.do(AddPoint(CELLS, Point(5, 5)))
    answer(session, LEFT, RIGHT, rectangle(0, 0, 1, 1))
    shown = []
    for step in (1, 1, 1, -1):
        session.cycle(step)
        assert session.current is not None
        shown.append(session.current.choice)
    assert shown == [1, 2, 0, 2]
    session.do(ChooseCandidate(1))
    assert session.current.score == pytest.approx(0.7)
    assert session.current.mask is not None
    rows, cols = session.current.candidates.window.slices
    assert (session.current.mask == RIGHT[rows, cols]).all()
    assert session.current.mask.sum() == RIGHT.sum()
    for index in (3, -1):
        with pytest.raises(PromptError, match="there are 3"):
            session.do(ChooseCandidate(index))


def test_a_further_point_refines_the_shown_candidate(session: Document) -> None:
    session.do(AddPoint(CELLS, Point(5, 5)))
    answer(session, LEFT, RIGHT)
    session.do(ChooseCandidate(1))
    assert session.current is not None
    logits = session.current.candidates.logits[1]
    session.do(AddPoint(CELLS, Point(6, 6)))
    assert session.current.candidates is None
    np.testing.assert_array_equal(session.current.previous.logits, logits)
    session.do(AddPoint(CELLS, Point(7, 7)))  # before the answer: still the last mask seen
    np.testing.assert_array_equal(session.current.previous.logits, logits)
    session.do(SetPrompts(CELLS, Prompts((Point(1, 1),))))  # a moved point starts afresh
    assert session.current.previous is None


def test_an_image_whose_labels_do_not_fit_is_refused_with_a_way_out() -> None:
    class Huge:
        shape, dtype = (10**7, 10**7), np.dtype(np.uint8)

    session = Document()
    with pytest.raises(ImageError, match=r"would take 400000 GB .*napari-peftsam segment"):
        session.add_image("huge", Huge(), rgb=False)
    assert not session.images
