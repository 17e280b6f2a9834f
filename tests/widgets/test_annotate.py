"""From a click to an object, and back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from napari_peftsam.document import ImportLabels
from tests.widgets._annotate_cases import Bench, blobs, settle, wait

Open = Callable[..., Bench]


def test_without_an_image_the_dock_says_how_to_get_one(bench: Open) -> None:
    b = bench()
    assert "Open an image" in b.view.next_step.text()
    b.viewer.add_image(blobs(), name="late")
    wait(lambda: b.layers.image is not None)
    assert b.view.next_step.text() == "Click on an object to segment it."
    assert b.layers.tools.tool == "point"


def test_a_click_becomes_a_mask_and_an_object(bench: Open) -> None:
    b = bench(blobs())
    b.click(20, 30)
    mask = b.answered()
    np.testing.assert_array_equal(b.prompts.mask.numbers.astype(bool), mask)
    assert b.view.candidate.text() == "1/3"
    b.view.accept.click()
    (record,) = b.document.records("image0")
    assert (record.source, record.model, record.adapter) == ("point", "tiny", "base")
    np.testing.assert_array_equal(b.layers.objects.data == record.label, mask)
    assert b.view.correct.count.text() == "Objects  1"
    assert b.view.table.selected_labels() == [record.label]
    assert not b.prompts.mask.numbers.any()
    assert len(b.prompts.points.data) == 0


@pytest.mark.parametrize(
    ("modifiers", "button", "key", "positive"),
    [
        pytest.param((), 1, None, True, id="left"),
        pytest.param(("Shift",), 1, None, False, id="shift"),
        pytest.param(("Control",), 1, None, True, id="control"),
        pytest.param((), 2, None, False, id="right button"),
        pytest.param((), 1, "N", False, id="sign flipped"),
        pytest.param(("Shift",), 1, "N", False, id="negative by both"),
    ],
)
def test_the_sign_of_a_click(
    bench: Open, modifiers: tuple[str, ...], button: int, key: str | None, positive: bool
) -> None:
    b = bench(blobs(), ready=False)
    if key:
        b.press(key)
    b.click(20, 30, *modifiers, button=button)
    assert [p.positive for p in b.document.current.prompts.points] == [positive]
    symbol = "ring" if positive else "x"
    assert [s.value for s in b.prompts.points.symbol] == [symbol]


def test_a_drag_moves_the_view_and_prompts_nothing(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.drag((10, 10), (20, 20))
    assert b.document.current is None


def test_a_click_outside_is_refused_with_a_hint(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.click(-3, 5)
    assert b.document.current is None
    assert "outside image0" in b.view.next_step.text()


def test_a_click_while_the_model_loads_is_kept_and_answered(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.click(20, 30)
    assert b.mask is None
    assert "Your prompt is kept" in b.view.next_step.text()
    assert b.prompts.points.border_width[0] > 0.2  # drawn as waiting
    b.answered()
    assert b.prompts.points.border_width[0] < 0.2


def test_the_newest_of_many_clicks_is_answered(bench: Open) -> None:
    b = bench(blobs())
    for col in (10, 20, 30, 40):
        b.click(20, col)
    b.answered()
    assert len(b.document.current.prompts.points) == 4


def test_accepting_too_early_says_so(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.press("Enter")
    assert "no mask to accept" in b.view.next_step.text()


def test_keys_for_candidates_discard_and_removal(bench: Open) -> None:
    b = bench(blobs())
    b.click(20, 30)
    b.answered()
    b.press("G")
    assert b.document.current.choice == 1
    b.press("Shift-G")
    assert b.document.current.choice == 0
    b.click(22, 33)
    b.press("Delete")
    assert len(b.document.current.prompts.points) == 1
    b.press("Escape")
    assert b.document.current is None
    b.press("Control-Z")
    assert b.document.current is not None


def test_boxes_are_queued_and_accepted_at_once(bench: Open) -> None:
    b = bench(blobs())
    b.press("W")
    assert b.layers.tools.tool == "box"
    for top, left in ((2, 2), (2, 32), (26, 2)):
        b.drag((top, left), (top + 18, left + 20))
    assert len(b.document.queue) == 3
    assert len(b.prompts.boxes.data) == 3
    assert b.view.accept_all.isEnabled()
    b.answered()
    b.press("Shift-Enter")
    wait(lambda: not b.document.queue)
    assert {r.source for r in b.document.records("image0")} == {"box"}
    b.press("Control-Z")
    assert b.document.records("image0") == ()
    assert len(b.document.queue) == 3


def test_queued_boxes_show_their_masks_before_they_are_accepted(bench: Open) -> None:
    b = bench(blobs())
    b.press("W")
    for top, left in ((2, 2), (2, 32), (26, 2)):
        b.drag((top, left), (top + 18, left + 20))
    wait(lambda: len(b.dock.prompting.following) == 2)
    layer = b.prompts.outlines.layer
    whole = np.zeros((48, 60), int)
    row, col = layer.translate.astype(int)
    whole[row : row + layer.data.shape[0], col : col + layer.data.shape[1]] = layer.data
    for number, made in enumerate(b.dock.prompting.following, start=1):
        top, left = made.offset
        inside = np.zeros((48, 60), bool)
        inside[top : top + made.mask.shape[0], left : left + made.mask.shape[1]] = made.mask
        rim = inside & ~ndimage.binary_erosion(inside, iterations=2)
        assert not (whole == number)[~rim].any()
        assert (whole[rim] > 0).all()
    b.press("Shift-Escape")
    assert not b.document.queue
    assert not layer.data.any()


def test_the_queue_of_another_image_is_not_accepted_with_this_ones_embedding(
    bench: Open,
) -> None:
    b = bench(blobs(), blobs(seed=1))
    b.press("W")
    for top in (2, 26):
        b.drag((top, 2), (top + 18, 22))
    b.answered()
    other = next(layer for layer in b.image_layers if layer is not b.layers.image)
    b.layers.select_image(other)
    wait(lambda: b.dock.prompting.state.kind == "ready")
    b.dock.prompting.accept_all()
    settle()
    assert "show that plane" in b.view.next_step.text()
    assert [len(b.document.records(name)) for name in b.document.images] == [0, 0]
    assert len(b.document.queue) == 2


def test_what_overlaps_stays_queued_and_can_replace_or_be_cut_out(bench: Open) -> None:
    b = bench(blobs())
    labels = np.zeros((48, 60), np.int32)
    labels[...] = 1
    b.document.do(ImportLabels("image0", labels))
    b.press("W")
    for top in (2, 26):
        b.drag((top, 2), (top + 18, 22))
    b.answered()
    b.press("Shift-Enter")
    wait(lambda: b.dock.prompting.state.kind == "ready")
    settle()
    assert len(b.document.queue) == 2
    assert "cover the whole mask" in b.view.next_step.text()
    b.answered()
    area = int(b.mask.sum())
    b.view.cut_out.click()
    areas = {
        r.label: b.document.image("image0").area(r.label) for r in b.document.records("image0")
    }
    assert areas == {1: 48 * 60 - area, 2: area}
    b.answered()
    b.press("Alt-Enter")
    assert len(b.document.records("image0")) == 2  # it took the place of one
    assert 3 in {r.label for r in b.document.records("image0")}


def test_each_object_begins_with_positive_points(bench: Open) -> None:
    b = bench(blobs())
    b.click(20, 30)
    b.press("N")
    b.click(22, 33)
    assert not b.layers.tools.positive
    b.answered()
    b.press("Enter")
    assert b.layers.tools.positive
    b.press("N")  # but who begins with a negative one may
    b.click(30, 40, "Control")
    assert [p.positive for p in b.document.current.prompts.points] == [False]
    b.press("Escape")
    assert b.layers.tools.positive


def test_a_prompt_in_another_image_is_not_accepted_there(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1))
    shown = b.layers.image
    b.click(20, 30)
    b.answered()
    other = next(layer for layer in b.image_layers if layer is not shown)
    b.layers.select_image(other)
    assert not b.view.accept.isEnabled()
    assert f"A prompt waits in {shown.name}" in b.view.next_step.text()
    b.press("Enter")
    assert "show that plane to accept them" in b.view.next_step.text()
    assert [len(b.document.records(name)) for name in b.document.images] == [0, 0]
    b.layers.select_image(shown)
    assert b.view.accept.isEnabled()
    b.layers.select_image(other)
    b.click(20, 30)
    assert f"asked for in {shown.name} gave way: undo brings" in b.view.next_step.text()


def test_undo_shows_where_it_acts(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1))
    first = b.layers.image
    b.segment(20, 30)
    other = next(layer for layer in b.image_layers if layer is not first)
    b.layers.select_image(other)
    b.press("Control-Z")
    assert b.layers.image is first
    assert b.view.next_step.text() == f"⚠ Undid in {first.name}: accept object 1"
    b.layers.select_image(other)
    b.press("Control-Shift-Z")
    assert b.layers.image is first


def test_the_tool_stays_over_images(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1))
    b.press("W")
    b.layers.select_image(next(i for i in b.image_layers if i is not b.layers.image))
    assert b.layers.tools.tool == "box"


def squares() -> np.ndarray:
    labels = np.zeros((48, 60), np.int32)
    labels[2:12, 2:12], labels[20:30, 20:30], labels[35:45, 40:50] = 1, 2, 3
    return labels


def test_a_click_on_an_object_selects_it(bench: Open) -> None:
    b = bench(blobs())
    b.document.do(ImportLabels("image0", squares()))
    b.click(5, 5)
    assert b.view.table.selected_labels() == [1]
    assert b.document.current is None
    outlines = b.prompts.outlines.layer
    rows, cols = np.nonzero(outlines.data)
    top, left = outlines.translate
    assert (rows.min() + top, cols.max() + left) == (2, 11)
    assert len(rows) == 10 * 10 - 6 * 6  # a rim of two pixels
    b.click(25, 25)
    assert b.view.table.selected_labels() == [2]
    b.click(40, 45, "Control", "Shift")
    assert b.view.table.selected_labels() == [2, 3]
    b.click(40, 45, "Control", "Shift")
    assert b.view.table.selected_labels() == [2]
    b.press("Delete")
    assert sorted(b.document.image("image0").records) == [1, 3]
    assert not outlines.data.any()


def test_a_click_inside_an_object_may_be_a_point(bench: Open) -> None:
    b = bench(blobs())
    b.document.do(ImportLabels("image0", squares()))
    b.click(5, 5, "Control")
    assert [p.positive for p in b.document.current.prompts.points] == [True]
    b.click(6, 6)  # an object is pending: it is refined
    b.click(7, 7, "Shift")
    b.click(8, 8, button=2)
    signs = [p.positive for p in b.document.current.prompts.points]
    assert signs == [True, True, False, False]


def test_delete_removes_the_selected_rows(bench: Open) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    b.view.table.select(b.document.records("image0")[0].label)
    b.press("Delete")
    assert b.document.records("image0") == ()
    assert label is not None


def test_masks_are_hidden_while_a_key_is_held(bench: Open) -> None:
    b = bench(blobs())
    b.document.do(ImportLabels("image0", squares()))
    hold = b.viewer.keymap[coerce_keybinding("J")](b.viewer)
    shown = [layer.name for layer in b.viewer.layers if layer.visible]
    next(hold)
    assert [layer.name for layer in b.viewer.layers if layer.visible] == ["image0"]
    next(hold, None)
    assert [layer.name for layer in b.viewer.layers if layer.visible] == shown


def test_a_row_has_the_colour_of_its_object(bench: Open) -> None:
    b = bench(blobs())
    b.document.do(ImportLabels("image0", squares()))
    table = b.view.table.objects
    colours = [table.data(table.index(row, 0), Qt.ItemDataRole.DecorationRole) for row in range(3)]
    expected = [b.layers.objects.get_color(label)[:3] for label in (3, 2, 1)]
    found = [colour.getRgbF()[:3] for colour in colours]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_no_button_moves(bench: Open) -> None:
    b = bench(blobs())
    places = []
    for act in (lambda: None, lambda: b.click(20, 30), lambda: b.press("Escape")):
        act()
        b.view.show_hint("a hint that is much longer than the dock is wide " * 3)
        settle()
        places.append(
            [x.y() for x in (b.view.point, b.view.accept, b.view.accept_all, b.view.undo)]
        )
    assert places[0] == places[1] == places[2]


def test_the_wheel_changes_no_choice(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1))
    before = b.layers.image
    place, none = QPointF(5, 5), QPoint()
    event = QWheelEvent(
        place, place, none, QPoint(0, -120), Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
    )  # fmt: skip
    QApplication.sendEvent(b.view.model, event)
    settle()
    assert b.layers.image is before


def test_choosing_the_same_model_again_changes_nothing(bench: Open) -> None:
    b = bench(blobs())
    engine = b.owner.workspace.engine
    b.view.model.activated.emit(b.view.model.currentIndex())
    settle()
    assert not b.owner.loading
    assert b.owner.workspace.engine is engine


def test_a_box_beyond_the_edge_is_cut_off_and_a_tiny_one_ignored(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.press("W")
    b.drag((10, 10), (10.5, 10.5))
    assert b.document.current is None
    assert len(b.prompts.boxes.data) == 0
    b.drag((30, 40), (90, 90))
    assert b.document.current.prompts.box.as_tuple() == (30.5, 40.5, 48.0, 60.0)


def test_merge_and_delete_from_the_table(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    labels = np.zeros((48, 60), np.int32)
    for label, row in enumerate((2, 12, 22), start=1):
        labels[row : row + 6, 5:15] = label
    b.document.do(ImportLabels("image0", labels))
    assert b.view.table.objects.rowCount() == 3
    b.view.table.selectAll()
    b.view.correct.merge.click()
    assert [r.label for r in b.document.records("image0")] == [1]
    b.view.table.select(1)
    b.view.correct.delete.click()
    assert b.document.records("image0") == ()
    b.view.undo.click()
    b.view.undo.click()
    assert len(b.document.records("image0")) == 3


def test_a_row_leads_to_its_object(bench: Open) -> None:
    b = bench(blobs((3, 48, 60)), ready=False)
    labels = np.zeros((3, 48, 60), np.int32)
    labels[2, 10:15, 20:31] = 7
    b.document.do(ImportLabels("image0", labels))
    settle()
    before = tuple(b.viewer.scene.camera.center)
    b.view.table.object_clicked.emit(7)
    assert b.viewer.dims.current_step[0] == 2
    assert b.layers.objects.selected_label == 7
    assert tuple(b.viewer.scene.camera.center) == before  # it is in sight
    b.layers.image.corner_pixels = np.array([[2, 30, 40], [2, 47, 59]])  # as napari draws it
    b.view.table.object_clicked.emit(7)
    assert tuple(b.viewer.scene.camera.center)[-2:] == (12, 25)


def test_another_model_answers_the_prompts_again(
    bench: Open, tmp_path: object, tiny_checkpoint: object
) -> None:
    import torch

    from napari_peftsam.models import build_tiny

    b = bench(blobs())
    kept = b.segment(20, 30)
    b.click(30, 40, "Control")
    before = b.document.current
    b.answered()
    other = tmp_path / "other.pt"
    torch.save(build_tiny(seed=5).sam.state_dict(), other)
    old = b.document.current.candidates
    b.owner.load_model(other)
    wait(lambda: b.document.current.candidates not in (None, old))
    assert b.document.current.prompts == before.prompts
    assert [r.label for r in b.document.records("image0")] == [kept]
    assert b.view.model.currentText() == "other.pt"


def test_undo_does_not_bring_back_a_mask_of_another_model(
    bench: Open, tmp_path: object, tiny_checkpoint: object
) -> None:
    import torch

    from napari_peftsam.models import build_tiny

    b = bench(blobs())
    b.click(20, 30)
    first = b.answered().copy()
    b.click(22, 33)
    b.answered()
    torch.save(build_tiny(seed=5).sam.state_dict(), tmp_path / "other.pt")
    b.owner.load_model(tmp_path / "other.pt")
    wait(lambda: b.document.current.made_by.model == "other")
    b.press("Control-Z")
    wait(lambda: b.document.current.made_by.model == "other")
    assert len(b.document.current.prompts.points) == 1
    assert not np.array_equal(b.answered(), first)
    b.press("Enter")
    assert b.document.records("image0")[-1].model == "other"


def test_a_broken_checkpoint_leaves_the_old_model(bench: Open, tmp_path: object) -> None:
    b = bench(blobs())
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"nothing")
    b.owner.load_model(broken)
    wait(lambda: not b.owner.loading)
    assert b.owner.error
    assert b.view.sources.model_status.text() == "⚠"
    b.click(20, 30)
    b.answered()


def test_an_image_that_cannot_be_embedded_says_why(bench: Open) -> None:
    b = bench(np.zeros((20, 20)), ready=False)
    wait(lambda: b.dock.prompting.state.kind == "failed")
    assert b.view.images.status.text() == "⚠"
    assert "constant" in b.view.next_step.text()


def test_embedding_can_be_stopped_and_resumed(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    wait(lambda: b.dock.prompting.state.kind == "embedding")
    b.view.images.cancel.click()
    assert b.dock.prompting.state.kind == "stopped"
    b.view.images.cancel.click()
    wait(lambda: b.dock.prompting.state.kind == "ready")


@pytest.mark.styled
def test_the_dock_fits_into_a_small_window(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    assert b.dock.minimumSizeHint().width() <= 320
    assert b.dock.minimumSizeHint().height() <= 560


@pytest.mark.styled
def test_the_dock_does_not_scroll_in_a_window_of_1280_x_800(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1), ready=False)
    column = b.view.project.parentWidget()
    before = column.minimumSizeHint().width()
    b.view.project.go_on.setText("Go on with a project of a very long name " * 3)
    b.view.project.go_on.show()
    settle()
    assert column.minimumSizeHint().width() == before
    assert column.heightForWidth(b.dock.maximumWidth()) <= 730


@pytest.mark.styled
def test_the_titles_of_the_table_fit(bench: Open) -> None:
    table = bench(blobs(), ready=False).view.table
    titles, model = table.horizontalHeader(), table.objects
    for planes, classes in product((False, True), repeat=2):
        table.show_columns(planes=planes, classes=classes)
        settle()
        shown = [i for i in range(model.columnCount()) if not table.isColumnHidden(i)]
        assert sum(titles.sectionSize(i) for i in shown) <= table.viewport().width()
        for column in shown:
            title = model.headerData(column, Qt.Orientation.Horizontal)
            assert titles.fontMetrics().horizontalAdvance(title) <= titles.sectionSize(column)


def test_a_thousand_objects_in_the_table(bench: Open) -> None:
    b = bench(blobs((200, 200)), ready=False)
    labels = np.zeros((200, 200), np.int32)
    labels[:198:6, :198:6] = np.arange(1, 33 * 33 + 1).reshape(33, 33)
    b.document.do(ImportLabels("image0", labels))
    settle()
    assert b.view.table.objects.rowCount() == 1089
    b.view.table.select(500)
    assert b.view.table.selected_labels() == [500]
