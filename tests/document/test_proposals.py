"""Proposals: a label set of their own, until each is accepted, corrected or rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AcceptProposals,
    Action,
    AddPoint,
    DeleteObjects,
    Document,
    NewProposal,
    ObjectRecord,
    Paint,
    PlaneKey,
    RejectProposals,
    SetPrompts,
    Suggest,
    Undo,
    UseCategory,
    compare,
    create_project,
    open_project,
    replay,
    summary,
)
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.errors import ImageError, LabelError, PromptError
from napari_peftsam.types import BoolArray, Box, Point, Prompts, Window
from tests.document._cases import (
    CELLS,
    IMAGE,
    STACK,
    accept,
    answer,
    check_invariants,
    make_document,
    new_objects,
    rectangle,
    snapshot,
)

A, B, C = (2, 2, 8, 8), (2, 12, 8, 18), (12, 2, 20, 8)


def proposal(row0: int, col0: int, row1: int, col1: int, score: float = 0.75) -> NewProposal:
    """Return a proposal of a rectangle."""
    box = Box(float(row0), float(col0), float(row1), float(col1))
    mask = np.ones((row1 - row0, col1 - col0), np.bool_)
    return NewProposal(Prompts(box=box), mask, (row0, col0), score, (0.5, score), "tiny", "v1")


def suggest(document: Document, *places: tuple[int, ...], plane: PlaneKey = CELLS) -> int:
    found: int = document.do(Suggest(plane, tuple(proposal(*place) for place in places)))
    return found


def shown(document: Document, plane: PlaneKey = CELLS) -> dict[int, int]:
    """Return the pixels of every open proposal of a plane."""
    labels = document.labels(plane, PROPOSALS)
    numbers, counts = np.unique(labels[labels > 0], return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    image = document.image(plane.image)
    assert found == {n: image.proposal_area(n) for n in image.open_proposals(plane)}
    return found


def judged(document: Document) -> dict[int, float]:
    known = document.image(IMAGE).proposals.items()
    return {number: round(each.iou, 3) for number, each in known if each.iou is not None}


def pixels(document: Document, label: int = 1) -> BoolArray:
    mask: BoolArray = document.labels(CELLS) == label
    return mask


# --- a run --------------------------------------------------------------------------


def test_proposals_are_no_objects(document: Document) -> None:
    assert suggest(document, A, B) == 2
    assert shown(document) == {1: 36, 2: 36}
    assert document.undo_label == "suggest 2 objects"
    assert not document.labels(CELLS).any()
    assert document.records(IMAGE) == ()
    assert document.image(IMAGE).label_sets == ("",)
    assert document.image(IMAGE).object_at(CELLS, 4, 4) == 0
    record = document.image(IMAGE).proposals[1]
    assert (record.score, record.model, record.features) == (0.75, "tiny", (0.5, 0.75))


@pytest.mark.parametrize(
    ("place", "areas"),
    [
        pytest.param((2, 5, 8, 11), [], id="half is an object's"),
        pytest.param((2, 6, 8, 12), [24], id="a third is an object's"),
        pytest.param((3, 3, 7, 7), [], id="an object covers it"),
        pytest.param((20, 28, 30, 40), [16], id="a part lies outside"),
        pytest.param((30, 28, 40, 40), [], id="it lies outside"),
    ],
)
def test_objects_keep_their_pixels(
    document: Document, place: tuple[int, ...], areas: list[int]
) -> None:
    accept(document, rectangle(*A))
    before = document.labels(CELLS).copy()
    assert suggest(document, place) == len(areas)
    assert list(shown(document).values()) == areas
    np.testing.assert_array_equal(document.labels(CELLS), before)


def test_the_first_of_two_that_overlap_keeps_the_pixels(document: Document) -> None:
    suggest(document, A, (2, 6, 8, 12))
    assert shown(document) == {1: 36, 2: 24}


@pytest.mark.parametrize(
    ("part", "left"),
    [
        pytest.param(None, {3: 36}, id="all of the plane"),
        pytest.param(Window(0, 10, 24, 22), {1: 36, 3: 36}, id="a part"),
    ],
)
def test_a_run_replaces_the_one_before(
    document: Document, part: Window | None, left: dict[int, int]
) -> None:
    suggest(document, A, B)
    document.do(Suggest(CELLS, (proposal(2, 13, 8, 19),), part))
    assert shown(document) == left


def test_planes_of_a_stack_have_their_own(document: Document) -> None:
    other = PlaneKey(STACK.image, (2,))
    suggest(document, A, plane=STACK)
    suggest(document, B, plane=other)
    assert shown(document, STACK) == {1: 36}
    assert shown(document, other) == {2: 36}
    with pytest.raises(ImageError, match="no plane"):
        suggest(document, A, plane=PlaneKey(STACK.image))


def test_objects_of_another_class_may_lie_there(document: Document) -> None:
    accept(document, rectangle(*A))
    document.do(UseCategory("nucleus"))
    assert suggest(document, (3, 3, 6, 6)) == 1
    (label,) = document.do(AcceptProposals(CELLS, (1,)))
    assert document.image(IMAGE).records[label].category == "nucleus"
    assert pixels(document).sum() == 36


# --- judgements ---------------------------------------------------------------------


def accepted(document: Document) -> None:
    assert document.do(AcceptProposals(CELLS, (2, 1))) == (1, 2)
    record = document.image(IMAGE).records[2]
    assert (record.score, record.model, record.adapter) == (0.75, "tiny", "v1")
    assert record.prompts.box == Box(*map(float, A))
    assert record.source == "automatic"
    assert ObjectRecord.from_dict(record.to_dict()) == record
    np.testing.assert_array_equal(pixels(document, 2), rectangle(*A))


def nothing_here(document: Document) -> None:
    document.do(RejectProposals(CELLS, (1,)))
    background = document.image(IMAGE).background
    assert background is not None
    np.testing.assert_array_equal(background > 0, rectangle(*A))


def wrong_outline(document: Document) -> None:
    document.do(RejectProposals(CELLS, (1, 2), "wrong outline"))
    assert document.image(IMAGE).background is None


def corrected(document: Document) -> None:
    """Open a proposal, and accept another mask than it had."""
    document.do(SetPrompts(CELLS, document.image(IMAGE).proposals[1].prompts))
    assert set(shown(document)) == {1, 2, 3}
    answer(document, rectangle(2, 2, 8, 11))
    document.do(Accept())
    assert document.image(IMAGE).records[1].source == "box"


def split(document: Document) -> None:
    halves = (rectangle(2, 2, 8, 5), rectangle(2, 5, 8, 7))
    document.do(new_objects(*((Prompts(), half, 0.5) for half in halves)))


def beside(document: Document) -> None:
    accept(document, rectangle(2, 7, 8, 13))


def deleted(document: Document) -> None:
    document.do(AcceptProposals(CELLS, (1, 2)))
    document.do(DeleteObjects(IMAGE, (1,)))


JUDGEMENTS = [
    pytest.param(accepted, {1: 1.0, 2: 1.0}, id="accepted"),
    pytest.param(nothing_here, {1: 0.0}, id="nothing here"),
    pytest.param(wrong_outline, {1: 0.0, 2: 0.0}, id="wrong outline"),
    pytest.param(corrected, {1: 0.667}, id="corrected"),
    pytest.param(split, {1: 0.5}, id="two objects in its place"),
    pytest.param(beside, {}, id="an object touches it"),
    pytest.param(deleted, {1: 0.0, 2: 1.0}, id="accepted and deleted"),
]


@pytest.mark.parametrize(("judge", "ious"), JUDGEMENTS)
def test_judgements_are_kept(
    document: Document, judge: Callable[[Document], None], ious: dict[int, float]
) -> None:
    suggest(document, A, B, C)
    judge(document)
    assert judged(document) == ious
    assert set(shown(document)) == {1, 2, 3} - set(ious)
    check_invariants(document)


def state(document: Document) -> Any:
    image = document.image(IMAGE)
    labels = document.labels(CELLS, PROPOSALS).tobytes()
    return snapshot(document), dict(image.proposals), labels


@pytest.mark.parametrize(("judge", "ious"), JUDGEMENTS)
def test_judgements_are_undone_and_done_again(
    document: Document, judge: Callable[[Document], None], ious: dict[int, float]
) -> None:
    del ious
    suggest(document, A, B, C)
    before, steps = state(document), len(document.steps)
    judge(document)
    after = state(document)
    number = len(document.steps) - steps
    for _ in range(number):
        document.undo()
    assert state(document)[1:] == before[1:]
    for _ in range(number):
        document.redo()
    assert state(document)[1:] == after[1:]
    check_invariants(document)


@pytest.mark.parametrize(("judge", "ious"), JUDGEMENTS)
def test_proposals_are_saved_and_replayed(
    tmp_path: Path, judge: Callable[[Document], None], ious: dict[int, float]
) -> None:
    path = tmp_path / "cells.peftsam"
    document = make_document(create_project(path))
    suggest(document, A, B, C)
    judge(document)
    document.do(Undo())
    document.redo()
    kept = state(document)
    assert compare(replay(document.store), document.store) == []
    assert summary(document.store)["proposals"] == 3 - len(ious)
    document.store.close()
    again = Document(open_project(path))
    assert state(again)[1:] == kept[1:]
    assert judged(again) == ious
    assert compare(replay(again.store), again.store) == []
    again.store.close()


def test_an_accepted_one_takes_no_pixel_of_others(document: Document) -> None:
    suggest(document, A, B)
    accept(document, rectangle(1, 7, 9, 12))
    (label,) = document.do(AcceptProposals(CELLS, (1,)))
    assert pixels(document, label).sum() == 30
    assert pixels(document).sum() == 40


def test_one_that_is_covered_by_now_cannot_be_accepted(document: Document) -> None:
    suggest(document, A, B)
    where = np.flatnonzero(rectangle(*A))
    document.do(Paint(IMAGE, where, 1))
    with pytest.raises(PromptError, match="cover the whole mask"):
        document.do(AcceptProposals(CELLS, (1,)))
    assert document.do(AcceptProposals(CELLS, (1, 2))) == (0, 2)
    assert shown(document) == {}
    assert judged(document) == {2: 1.0}


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(AcceptProposals(CELLS, (1, 9)), id="accept"),
        pytest.param(RejectProposals(CELLS, (9,)), id="reject"),
        pytest.param(RejectProposals(CELLS, (3,)), id="judged already"),
    ],
)
def test_what_is_not_there_is_not_judged(document: Document, action: Action) -> None:
    suggest(document, A, B, C)
    document.do(RejectProposals(CELLS, (3,)))
    with pytest.raises(LabelError, match="has no proposal"):
        document.do(action)
    assert shown(document) == {1: 36, 2: 36}


def test_listeners_hear_of_proposals(document: Document) -> None:
    heard = []
    document.events.connect(lambda info: heard.append(info.signal.name))
    suggest(document, A)
    assert heard == ["proposals_changed", "history_changed", "saved"]
    heard.clear()
    document.do(RejectProposals(CELLS, (1,)))
    assert heard == ["background_changed", "proposals_changed", "history_changed", "saved"]


def test_a_click_beside_changes_none(document: Document) -> None:
    suggest(document, A)
    document.do(SetPrompts(CELLS, Prompts((Point(20.0, 20.0),))))
    assert shown(document) == {1: 36}


# --- corrections --------------------------------------------------------------------


def test_a_correction_takes_the_place_of_the_prompts_of_a_proposal() -> None:
    """Its box is as wrong as its mask; the mask that is shown is refined."""
    document = make_document()
    suggest(document, A)
    [given] = [each.prompts for each in document.image(CELLS.image).proposals.values()]
    document.do(SetPrompts(CELLS, given))
    answer(document, rectangle(*A))
    shown = document.pending.revision
    document.do(AddPoint(CELLS, Point(9, 5)))
    assert document.queue[0] == Prompts((Point(9, 5),))
    assert document.pending.refines == (shown, 0)
    document.do(AddPoint(CELLS, Point(3, 5, positive=False)))
    assert document.queue[0] == Prompts((Point(9, 5), Point(3, 5, positive=False)))
    document.do(Undo())
    document.do(Undo())
    assert document.queue[0] == given


def test_prompts_of_a_person_stay() -> None:
    document = make_document()
    suggest(document, A)
    document.do(SetPrompts(CELLS, Prompts(box=Box(1, 1, 9, 9))))
    document.do(AddPoint(CELLS, Point(9, 5)))
    assert document.queue[0] == Prompts((Point(9, 5),), Box(1, 1, 9, 9))
