"""Suggestions in the viewer: with its keys, its mouse, its buttons and its layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_peftsam.document import (
    AcceptProposals,
    NewProposal,
    PlaneKey,
    RejectProposals,
    RemoveImage,
    Suggest,
)
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.types import Box, Point, Prompts, Window
from tests.app.test_review import MIDDLES, discs, first_feature
from tests.widgets._annotate_cases import Bench, settle, wait
from tests.widgets.test_real_events import Canvas

Make = Callable[..., napari.Viewer]


def opened(viewer: napari.Viewer, *images: np.ndarray) -> Bench:
    b = Bench(viewer, "builtin", images or [discs()[0]])
    b.dock.reviewing.run.base = first_feature()
    return b


@pytest.fixture
def b(make_napari_viewer: Make) -> Bench:
    return opened(make_napari_viewer())


def suggested(b: Bench) -> None:
    """Press U, and wait for the proposals."""
    b.press("U")
    wait(lambda: not b.dock.reviewing.run.is_running)
    b.dock.reviewing.review.eager = 1.0
    settle()
    assert len(b.dock.reviewing.review.visible) >= len(MIDDLES)


def at(b: Bench, row: int, col: int) -> int:
    return int(b.document.labels(b.layers.plane, PROPOSALS)[row, col])


def drawn(b: Bench) -> set[int]:
    """Return the proposals whose pixels are in the layer."""
    settle()
    layer = b.prompts.proposals.layer
    if layer is None:
        return set()
    row, col = (round(float(each)) for each in layer.translate[-2:])
    shown = np.asarray(layer.data) > 0
    labels = b.document.labels(b.layers.plane, PROPOSALS)
    part = labels[row : row + shown.shape[0], col : col + shown.shape[1]]
    return set(np.unique(part[shown]).tolist()) - {0}


def test_one_key_suggests_and_one_accepts_all(b: Bench) -> None:
    assert b.view.review.judging.isHidden()
    suggested(b)
    assert "proposals" in b.viewer.layers
    assert b.viewer.layers["proposals"].locked
    assert drawn(b) == set(b.dock.reviewing.review.visible)
    assert not b.view.review.judging.isHidden()
    assert f"of {len(b.dock.reviewing.review.expected)}" in b.view.review.text.text()
    number = len(b.dock.reviewing.review.visible)
    b.press("Shift-Enter")
    assert len(b.document.records(b.layers.image_id)) == number
    assert drawn(b) == set()
    b.press("Control-Z")
    assert len(drawn(b)) == number
    assert b.document.records(b.layers.image_id) == ()


def test_the_slider_shows_fewer(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0], ready=False)
    mask = np.ones((9, 9), np.bool_)
    scores = (0.9, 0.6, 0.3)
    made = [NewProposal(Prompts(), mask, (9, 20 * n), score) for n, score in enumerate(scores)]
    b.document.do(Suggest(b.layers.plane, tuple(made)))
    for eager, shown in ((100, 3), (71, 3), (69, 2), (11, 1), (9, 0)):
        b.view.review.eager.setValue(eager)
        assert drawn(b) == set(range(1, shown + 1))
        assert b.view.review.text.text().startswith(f"{shown} of 3")
        assert b.view.review.accept_above.isEnabled() == bool(shown)


def test_proposals_are_judged_by_key(b: Bench) -> None:
    suggested(b)
    review = b.dock.reviewing.review
    b.press(".")
    first = review.current
    assert "white outline: ↵ an object, ⇧N nothing" in b.view.next_step.text()
    b.view.accept.click()
    assert len(b.document.records(b.layers.image_id)) == 1
    second = review.current
    assert second not in {0, first}
    b.press("Shift-N")
    assert b.document.image(b.layers.image_id).background.any()
    third = review.current
    b.press("Shift-O")
    known = b.document.image(b.layers.image_id).proposals
    assert [known[n].iou for n in (second, third)] == [0.0, 0.0]
    assert known[first].iou == 1.0
    assert "3 judged" in b.view.review.text.toolTip()
    assert drawn(b) == review.expected.keys()


def test_a_click_opens_a_proposal(b: Bench) -> None:
    suggested(b)
    row, col = MIDDLES[0]
    number = at(b, row, col)
    b.click(row, col)
    assert b.document.queue == (b.document.image(b.layers.image_id).proposals[number].prompts,)
    assert b.answered()[row - b.document.current.offset[0], col - b.document.current.offset[1]]
    b.press("Enter")
    assert number not in b.dock.reviewing.review.expected
    assert b.document.labels(b.layers.plane)[row, col] == 1


def test_a_click_with_control_is_a_point(b: Bench) -> None:
    suggested(b)
    b.click(*MIDDLES[0], "Control")
    (prompts,) = b.document.queue
    assert len(prompts.points) == 1
    assert prompts.box is None


def test_a_click_beside_says_why(b: Bench) -> None:
    suggested(b)
    b.click(80, 80)
    assert "Not suggested" in b.view.next_step.text()
    assert len(b.document.queue) == 1


def test_a_part_is_drawn(b: Bench) -> None:
    [part] = [a for a in b.view.review.menu.actions() if a.text() == "In a part…"]
    part.trigger()
    assert b.layers.tools.tool == "suggest"
    assert "part of the image" in b.view.next_step.text()
    b.draw([(5, 5), (40, 40), (80, 80)])
    wait(lambda: not b.dock.reviewing.run.is_running)
    assert at(b, *MIDDLES[0])
    assert not at(b, *MIDDLES[-1])
    assert b.layers.tools.tool == "point"


def test_the_whole_queue(make_napari_viewer: Make) -> None:
    b = opened(make_napari_viewer(), discs()[0], discs()[0][:, ::-1].copy())
    [everywhere] = [a for a in b.view.review.menu.actions() if a.text() == "In all images"]
    everywhere.trigger()
    assert "image 1 of 2" in b.view.review.suggest.text()
    wait(lambda: not b.dock.reviewing.run.is_running)
    assert all(image.proposals for image in b.document.images.values())
    b.press("PageUp")
    assert len(b.dock.reviewing.review.expected) >= len(MIDDLES)


def test_the_key_stops_a_run(b: Bench) -> None:
    b.press("U")
    assert b.dock.reviewing.run.is_running
    assert "Stop" in b.view.review.suggest.text()
    b.press("U")
    assert not b.dock.reviewing.run.is_running
    assert "Stopped" in b.view.next_step.text()
    assert "Suggest" in b.view.review.suggest.text()


def test_another_model_ends_a_run(b: Bench) -> None:
    b.press("U")
    b.owner.load_model("builtin")
    wait(lambda: not b.dock.reviewing.run.is_running)
    wait(lambda: not b.owner.loading)
    suggested(b)


def test_proposals_are_there_after_another_image(make_napari_viewer: Make) -> None:
    b = opened(make_napari_viewer(), discs()[0], discs()[0][:, ::-1].copy())
    suggested(b)
    here = drawn(b)
    b.press("PageUp")
    assert drawn(b) == set()
    assert b.view.review.judging.isHidden()
    b.press("PageDown")
    assert drawn(b) == here


def test_options_are_those_of_the_menu(b: Bench) -> None:
    reviewing = b.dock.reviewing
    reviewing.ask_number = lambda *_: 300
    for action in b.view.review.menu.actions():
        if action.isCheckable() or action.text() == "Largest object…":
            action.trigger()
    options = reviewing.run.options
    assert (options.fast, options.whole, options.largest) == (True, True, 300)


def test_a_model_without_a_head_says_what_to_do(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0])
    b.dock.reviewing.run.base = first_feature()
    b.press("U")
    wait(lambda: "coarse grid" in b.view.next_step.text())
    assert not b.dock.reviewing.run.is_running


def test_what_scripts_do_is_shown(b: Bench) -> None:
    suggested(b)
    number = at(b, *MIDDLES[0])
    b.document.do(RejectProposals(b.layers.plane, (number,)))
    assert number not in drawn(b)


def test_real_keys_and_clicks(make_napari_viewer: Make) -> None:
    b = opened(make_napari_viewer(show=True))
    b.viewer.reset_view()
    settle()
    canvas = Canvas(b)
    QTest.keyClick(canvas.widget, Qt.Key.Key_U)
    wait(lambda: b.dock.reviewing.review.expected)
    QTest.keyClick(canvas.widget, Qt.Key.Key_Period)
    settle()
    assert b.dock.reviewing.review.current
    QTest.keyClick(canvas.widget, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)
    settle()
    assert b.document.undo_label == "reject proposal"
    b.press("Control-Z")
    canvas.click(*MIDDLES[0])
    assert b.document.current is not None
    assert b.document.current.prompts.box is not None


# --- counting -----------------------------------------------------------------------


def counted(b: Bench) -> str:
    settle()
    return b.view.review.counted.text()


def test_objects_are_counted_with_the_same_keys(b: Bench, tmp_path: Path) -> None:
    suggested(b)
    b.view.review.eager.setValue(30)
    number = len(b.document.image(b.layers.image_id).proposals)
    b.view.review.count.click()
    assert counted(b) == f"1 of {number + 5}: Is it an object?"
    while b.dock.reviewing.counting.item.number:
        assert b.dock.reviewing.review.current == b.dock.reviewing.counting.item.number
        b.press("Enter")
    assert len(b.document.records(b.layers.image_id)) == number
    assert counted(b).startswith(f"{number + 1} of {number + 5}: How many have no outline")
    assert not b.view.review.seen.isHidden()
    frame = b.dock.reviewing.counting.item.window
    assert b.viewer.layers["frames"].data.shape == frame.shape
    b.press("Shift-N")
    b.press("Enter")
    b.press("Control-Z")
    assert counted(b).startswith(f"{number + 2} of")
    QTest.keyClick(b.view.review.seen, Qt.Key.Key_2)
    QTest.keyClick(b.view.review.seen, Qt.Key.Key_Return)
    assert [each.seen for each in b.document.audit.tiles] == [0, 2, None, None, None]
    for _ in range(3):
        b.press("Shift-N")
    assert counted(b).startswith("about ")
    assert b.dock.reviewing.review.eager == 0.3
    assert b.view.review.seen.isHidden()
    b.dock.reviewing.ask_folder = lambda *_: tmp_path
    b.view.review.save.click()
    assert (tmp_path / "count.json").exists()


def test_a_count_is_stopped_and_goes_on(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0], discs()[0], ready=False)
    mask = np.ones((9, 9), np.bool_)
    made = [NewProposal(Prompts(), mask, (9, 20 * n), 0.9) for n in range(3)]
    b.document.do(Suggest(b.layers.plane, tuple(made)))
    first = b.layers.image_id
    [everywhere] = [a for a in b.view.review.menu.actions() if a.text() == "Count in all images"]
    everywhere.trigger()
    assert counted(b).startswith("1 of 8")
    b.press("Enter")
    assert counted(b).startswith("2 of 8")
    b.view.review.count.click()
    assert counted(b) == ""
    everywhere.trigger()
    assert counted(b).startswith("2 of 8")
    while b.layers.image_id == first:
        b.press("Enter")
    assert b.layers.plane == b.dock.reviewing.counting.item.plane
    assert b.document.audit.tiles[0].seen in {None, 0}


def begun(b: Bench, scores: tuple[float, ...] = (0.9, 0.6, 0.1)) -> None:
    """Begin to count squares that were proposed in a row, far from each other."""
    mask = np.ones((9, 9), np.bool_)
    made = [
        NewProposal(Prompts((Point(13.0, 34.0 + 40 * n),), Box(9, 30 + 40 * n, 18, 39 + 40 * n)),
                    mask, (9, 30 + 40 * n), score)
        for n, score in enumerate(scores)
    ]  # fmt: skip
    b.document.do(Suggest(b.layers.plane, tuple(made)))
    b.view.review.count.click()


def finished(b: Bench) -> str:
    """Count, and return the number in words."""
    begun(b)
    while b.dock.reviewing.counting.is_on:
        b.press("Enter")
    assert b.view.review.save.isVisibleTo(b.view.review.counting)
    return counted(b)


@pytest.mark.parametrize("eager", [0, 50, 100])
def test_the_slider_does_not_hide_what_is_counted(bench: Callable[..., Bench], eager: int) -> None:
    b = bench(discs()[0], ready=False)
    begun(b)
    review, counting = b.dock.reviewing.review, b.dock.reviewing.counting
    assert not b.view.review.eager.isEnabled()
    for left in (3, 2, 1):
        b.view.review.eager.setValue(eager)
        assert review.current == counting.item.number
        assert drawn(b) == review.expected.keys()
        assert len(review.expected) == left
        b.press("Enter")
    assert b.dock.reviewing.is_at_tile
    b.view.review.count.click()
    assert b.view.review.eager.isEnabled()
    assert review.eager == eager / 100


def test_only_what_the_slider_shows_is_current_after_a_count(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0], ready=False)
    begun(b)
    b.view.review.eager.setValue(0)
    b.view.review.count.click()
    assert b.dock.reviewing.review.current == 0
    assert drawn(b) == set()


def test_objects_with_another_outline_are_framed_in_their_tile(
    bench: Callable[..., Bench],
) -> None:
    b = bench(discs()[0], ready=False)
    begun(b, (0.9,) * 5)
    boxes = [Window(9, 30 + 40 * n, 9, 9) for n in range(5)]
    framed = set[bool]()
    while (item := b.dock.reviewing.counting.item) is not None:
        b.press("Shift-O" if item.number else "Shift-N")
        if not b.dock.reviewing.is_at_tile:
            continue
        settle()
        layer, tile = b.viewer.layers["frames"], b.dock.reviewing.counting.item.window
        row, col = (round(float(each)) for each in layer.translate[-2:])
        whole = np.zeros((160, 240), np.uint8)
        whole[row : row + layer.data.shape[0], col : col + layer.data.shape[1]] = layer.data
        inside = [each for each in boxes if each & tile]
        framed.add(bool(inside))
        for box in inside:
            part = whole[box.slices]
            assert part[[0, -1]].all()
            assert part[:, [0, -1]].all()
            assert not part[3:-3, 3:-3].any()
        for box in boxes:
            assert box in inside or not whole[box.slices].any()
    assert framed == {True, False}
    assert b.dock.reviewing.counting.count.known == 5


def test_a_running_count_refuses_what_would_end_it(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0])
    begun(b)
    for key in ("Shift-Enter", "U"):
        b.view.show_hint("")
        b.press(key)
        assert "Finish the count first" in b.view.next_step.text()
        assert counted(b).startswith("1 of 8")
        assert not b.dock.reviewing.run.is_running
        assert len(b.dock.reviewing.review.expected) == 3


def test_a_number_stays_until_what_was_counted_changes(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0], ready=False)
    told = finished(b)
    b.document.do(
        Suggest(b.layers.plane, (NewProposal(Prompts(), np.ones((3, 3), bool), (90, 90), 0.8),))
    )
    assert counted(b) == f"Out of date: {told}"
    assert f"{told} is out of date" in b.view.next_step.text()
    assert b.view.review.save.isHidden()
    b.press("Control-Z")
    assert counted(b) == told
    assert not b.view.review.save.isHidden()


def test_another_count_can_be_undone(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0], ready=False)
    told = finished(b)
    b.view.review.count.click()
    assert f"undo brings back {told}" in b.view.next_step.text()
    assert counted(b).startswith("1 of 5")
    b.press("Control-Z")
    assert counted(b) == told
    assert not b.dock.reviewing.counting.is_on


@pytest.mark.parametrize("is_running", [True, False], ids=["running", "finished"])
def test_another_project_has_no_count(bench: Callable[..., Bench], is_running: bool) -> None:
    b = bench(discs()[0], ready=False)
    if is_running:
        begun(b)
    else:
        finished(b)
    b.owner.projects.close()
    settle()
    assert not b.dock.reviewing.counting.is_on
    assert counted(b) == ""
    assert b.view.review.count.text() == "#"


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda plane: AcceptProposals(plane, (1, 2, 3)), id="accepted unseen"),
        pytest.param(lambda plane: RemoveImage(plane.image), id="image removed"),
    ],
)
def test_a_count_that_ends_says_so(
    bench: Callable[..., Bench], end: Callable[[PlaneKey], object]
) -> None:
    b = bench(discs()[0], discs()[0], ready=False)
    begun(b)
    b.document.do(end(b.layers.plane))
    assert "The count is out of date" in b.view.next_step.text()
    assert not b.dock.reviewing.counting.is_on
    assert counted(b) == ""


def test_nothing_is_counted_before_something_is_suggested(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0], ready=False)
    b.view.review.count.click()
    assert "Suggest the rest first" in b.view.next_step.text()
    assert b.document.audit is None
    assert counted(b) == ""


@pytest.mark.styled
def test_a_question_is_not_cut_off(bench: Callable[..., Bench]) -> None:
    b = bench(discs()[0], ready=False)
    begun(b, (0.9,))
    b.press("Enter")
    settle()
    label = b.view.review.counted
    assert label.wordWrap()
    assert label.heightForWidth(label.width()) <= label.height()
    assert b.view.review.save.text().isascii() or "…" in b.view.review.save.text()
