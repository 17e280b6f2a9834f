"""Objects are reopened, drawn, cut, split, grown, renumbered and continued with mouse and keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_peftsam.document import (
    AcceptObjects,
    Categorize,
    ImportLabels,
    NewObject,
    PlaneKey,
    UseCategory,
)
from napari_peftsam.types import Box, Point, Prompts
from napari_peftsam.widgets._objects_table import FILTERS
from tests.widgets._annotate_cases import SHAPE, Bench, blobs, settle, wait

Open = Callable[..., Bench]

ROWS, COLS = np.mgrid[: SHAPE[0], : SHAPE[1]]


def disc(row: float, col: float, radius: float) -> np.ndarray:
    return (ROWS - row) ** 2 + (COLS - col) ** 2 <= radius**2


def put(b: Bench, *masks: np.ndarray) -> None:
    """Import masks as objects 1, 2, … of the annotated image."""
    labels = np.zeros(b.layers.objects.data.shape, np.int32)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    b.document.do(ImportLabels(b.layers.image_id, labels))


# --- reopening ----------------------------------------------------------------------


def test_a_double_click_reopens_an_object(bench: Open) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    row, col = np.argwhere(b.document.labels(b.layers.plane) == label)[0]
    before = b.document.records(b.layers.image_id)
    b.double_click(row, col)
    assert b.document.current.reopens == label
    assert b.document.current.prompts == before[0].prompts
    b.answered()
    assert f"Object {label} is open" in b.view.next_step.text()
    b.press("Escape")
    assert b.document.records(b.layers.image_id) == before
    b.double_click(row, col)
    b.click(22, 33)
    b.answered()
    b.press("Enter")
    [record] = b.document.records(b.layers.image_id)
    assert record.label == label
    assert len(record.prompts.points) == 2


def test_what_was_painted_is_reopened_from_its_mask(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 30, 6))
    b.double_click(20, 30)
    assert b.document.current.prompts == Prompts(box=Box(14, 24, 27, 37))
    b.answered()


def test_a_double_click_while_prompting_reopens_nothing(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 30, 6))
    b.click(40, 10)
    b.answered()
    b.double_click(20, 30)
    assert b.document.current.reopens == 0


@pytest.mark.parametrize("tool", ["Q", "W"])
def test_a_click_selects_with_every_tool(bench: Open, tool: str) -> None:
    b = bench(blobs())
    put(b, disc(20, 30, 6))
    b.press(tool)
    b.click(20, 30)
    assert b.view.table.selected_labels() == [1]
    assert b.document.current is None


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("Shift-U", "Select two objects or more first"),
        *((key, "Select an object first") for key in ("Shift-X", "Shift-E", "Shift-C", "Delete")),
        ("G", "There is no candidate yet"),
    ],
)
def test_a_key_that_has_nothing_to_work_on_says_what_is_missing(
    bench: Open, key: str, words: str
) -> None:
    b = bench(blobs())
    put(b, disc(20, 30, 6))
    b.view.show_hint("An older warning")
    before = b.document.labels(b.layers.plane).copy()
    b.press(key)
    assert words in b.view.next_step.text()
    np.testing.assert_array_equal(b.document.labels(b.layers.plane), before)


def test_enter_accepts_while_the_objects_are_the_active_layer(bench: Open) -> None:
    b = bench(blobs())
    b.click(20, 30)
    b.answered()
    b.viewer.layers.selection.active = b.layers.objects
    b.press("Enter")
    assert len(b.document.records(b.layers.image_id)) == 1
    b.layers.objects.mode = "polygon"  # where it closes the polygon
    settle()
    assert "Enter" not in {str(key) for key in b.layers.objects.keymap}
    b.layers.objects.mode = "pan_zoom"
    settle()
    assert "Enter" in {str(key) for key in b.layers.objects.keymap}


# --- freehand -----------------------------------------------------------------------

CIRCLE = [(20 + 8 * np.sin(a), 30 + 8 * np.cos(a)) for a in np.linspace(0, 6, 20)]


def test_a_lasso_asks_for_an_object(bench: Open) -> None:
    b = bench(blobs())
    b.press("Shift-W")
    assert b.view.lasso.isChecked()
    b.draw(CIRCLE)
    b.draw([(row + 10, col - 15) for row, col in CIRCLE])
    first, second = b.document.queue
    assert first.box.as_tuple() == pytest.approx((12, 22, 29, 39), abs=1)
    assert second.box is not None
    assert len(b.prompts.boxes.data) == 2  # the lines are gone
    assert b.view.lasso.isChecked()  # the tool stays


def test_scribbles_ask_for_objects_and_deny_places(bench: Open) -> None:
    b = bench(blobs())
    b.press("Shift-Q")
    b.draw([(20, 20), (20, 30)])
    b.draw([(30, 20), (30, 30)], button=2)
    b.draw([(40, 20), (40, 30)])
    first, second = b.document.queue
    assert {p.positive for p in first.points} == {True, False}
    assert {p.row for p in second.points} == {40}
    assert not len(b.prompts.boxes.data)


def test_a_click_with_the_lasso_adds_nothing(bench: Open) -> None:
    b = bench(blobs())
    b.press("Shift-W")
    b.click(20, 30)
    assert b.document.current is None


def test_a_line_cuts_an_object(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 20, 8) | disc(20, 32, 7))
    b.view.correct.cut.click()
    b.draw([(2, 26), (40, 26)])
    assert sorted(b.document.image(b.layers.image_id).records) == [1, 2]
    assert b.document.undo_label == "split 1"
    b.draw([(2, 50), (40, 50)])
    assert "no object under the line" in b.view.next_step.text()


def choose(b: Bench, text: str) -> None:
    """Choose an entry of the menu with more corrections."""
    [action] = [a for a in b.view.correct.menu.actions() if a.text() == text]
    action.trigger()
    settle()


def test_areas_are_declared_done_and_taken_back(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 30, 4))
    choose(b, "Area done: rectangle")
    b.draw([(10, 20), (20, 30), (30, 40)])
    assert b.document.undo_label == "mark complete"
    shown = b.prompts.background.numbers
    assert shown[12, 22]
    assert not shown[20, 30]  # an object
    assert not shown[40, 50]
    b.click(12, 22, button=2)
    assert b.document.undo_label == "mark incomplete"
    assert not b.prompts.background.numbers.any()
    choose(b, "Area done: lasso")
    b.draw(CIRCLE)
    assert b.prompts.background.numbers[14, 30]


def test_the_background_is_painted_and_wiped(bench: Open) -> None:
    b = bench(blobs())
    choose(b, "Background brush")
    b.draw([(10, 20), (10, 30)])
    assert b.prompts.background.numbers[10, 25]
    assert not b.prompts.background.numbers[40, 40]
    b.click(10, 25, button=2)
    assert not b.prompts.background.numbers[10, 25]
    assert b.document.current is None
    b.press("Control-Z")
    assert b.prompts.background.numbers[10, 25]


def test_done_images_show_what_is_background(bench: Open) -> None:
    b = bench(blobs())
    b.view.images.complete.click()
    assert b.prompts.background.numbers.all()
    label = b.segment(20, 30)
    row, col = np.argwhere(b.document.labels(b.layers.plane) == label)[0]
    assert not b.prompts.background.numbers[row, col]


# --- the selected objects -----------------------------------------------------------


def test_buttons_and_keys_correct_the_selected_objects(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 20, 8) | disc(20, 32, 7))
    assert not b.view.correct.split.isEnabled()
    b.click(20, 20)
    b.view.correct.split.click()
    assert b.document.undo_label == "split 1"
    b.click(20, 20)
    area = b.document.image(b.layers.image_id).area(1)
    b.press("Shift-E")
    assert b.document.image(b.layers.image_id).area(1) > area
    b.press("Shift-C")
    assert b.document.undo_label == "shrink objects"
    b.click(20, 34, "Shift", "Control")
    assert b.view.table.selected_labels() == [1, 2]
    b.press("Shift-U")
    assert b.document.undo_label == "merge objects 1, 2"


def test_a_click_on_each_part_splits(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    put(b, disc(20, 20, 8) | disc(20, 32, 7), disc(40, 10, 5))
    b.press("Shift-K")
    b.click(20, 34)
    assert b.view.table.selected_labels() == [1]
    assert "other part of object 1" in b.view.next_step.text()
    b.click(40, 10)  # another object: its first click
    b.press("Shift-K")  # forgets it
    b.click(40, 12)
    b.click(20, 34)
    b.click(20, 16)
    assert b.document.undo_label == "split 1"
    plane = b.document.labels(b.layers.plane)
    assert sorted({int(plane[20, 16]), int(plane[20, 34]), int(plane[40, 10])}) == [1, 2, 3]
    b.press("Control-Z")
    assert sorted(b.document.image(b.layers.image_id).records) == [1, 2]
    assert b.document.current is None


def test_how_smooth_masks_are_is_asked_for(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    asked = []
    b.dock.corrections.ask_number = lambda *given: asked.append(given[3:]) or 2
    [action] = [a for a in b.view.correct.menu.actions() if a.text() == "Smooth masks…"]
    action.trigger()
    b.view.clean.click()
    assert b.dock.prompting.cleaning == (False, 2)
    action.trigger()
    assert asked == [(0, 0), (2, 0)]


def test_what_cannot_be_split_says_why(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 20, 8))
    b.click(20, 20)
    b.press("Shift-X")
    assert "narrow nowhere" in b.view.next_step.text()


def test_an_object_is_renumbered(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 20, 8), disc(20, 40, 5))
    b.dock.corrections.ask_number = lambda *_: 7
    b.click(20, 40)
    b.dock.corrections.relabel()
    assert sorted(b.document.image(b.layers.image_id).records) == [1, 7]
    assert b.view.table.selected_labels() == [7]


def test_naparis_brushes_have_a_button_each(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 20, 8))
    brushes = b.view.correct.brushes
    for mode in ("paint", "erase", "fill", "polygon"):
        brushes[mode].click()
        assert b.viewer.layers.selection.active is b.layers.objects
        assert b.layers.objects.mode == mode
        assert [name for name, each in brushes.items() if each.isChecked()] == [mode]
        b.press("Q")
        assert not any(each.isChecked() for each in brushes.values())


def test_the_brush_paints_the_selected_object_or_a_new_one(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(20, 20, 8), disc(20, 40, 5))
    b.view.table.select(2)
    b.view.correct.brushes["paint"].click()
    assert b.layers.objects.selected_label == 2
    b.view.table.clearSelection()
    b.view.correct.brushes["polygon"].click()
    assert b.layers.objects.selected_label == 3
    b.layers.objects.paint_polygon([(40, 5), (40, 10), (45, 10), (45, 5)], 3)
    settle()
    assert 3 in b.document.image(b.layers.image_id).records
    assert b.layers.objects.selected_label == 4  # the next outline is another object


# --- the table ----------------------------------------------------------------------


@pytest.fixture
def listed(bench: Open) -> Bench:
    """Return a viewer with objects of scores 0.9, 0.3 and 0.6, and areas 49, 197 and 29."""
    b = bench(blobs(), ready=False)
    masks = [(disc(20, 10, 4), 0.9), (disc(20, 26, 8), 0.3), (disc(20, 42, 3), 0.6)]
    made = tuple(NewObject(Prompts((Point(20, 10),)), m, s, model="tiny") for m, s in masks)
    b.document.do(AcceptObjects(b.layers.plane, made))
    return b


def labels(b: Bench) -> list[int]:
    rows = range(b.view.table.objects.rowCount())
    return [b.view.table.objects.label(row) for row in rows]


SORTED = (
    ("id", Qt.SortOrder.AscendingOrder, [1, 2, 3]),
    ("area", Qt.SortOrder.AscendingOrder, [3, 1, 2]),
    ("score", Qt.SortOrder.AscendingOrder, [2, 3, 1]),
    ("score", Qt.SortOrder.DescendingOrder, [1, 3, 2]),
)


def test_the_table_is_sorted_by_a_column(listed: Bench) -> None:
    table, model = listed.view.table, listed.view.table.objects
    titles = [model.headerData(i, Qt.Orientation.Horizontal) for i in range(model.columnCount())]
    assert labels(listed) == [3, 2, 1]  # the newest first
    for column, order, expected in SORTED:
        table.sortByColumn(titles.index(column), order)
        assert labels(listed) == expected
        table.select(3)
        assert table.selected_labels() == [3]
        table.clearSelection()


def test_the_table_lists_what_is_doubtful(listed: Bench) -> None:
    def choose(name: str) -> None:
        listed.view.correct.filter.setCurrentIndex(FILTERS.index(name))
        listed.view.correct.filter.activated.emit(FILTERS.index(name))

    choose("low score")
    assert labels(listed) == [3, 2]
    assert listed.view.correct.count.text() == "Objects  2 of 3"
    listed.click(20, 42)
    choose("not looked at")
    assert labels(listed) == [2, 1]
    choose("corrected")
    assert labels(listed) == []
    choose("all")
    assert labels(listed) == [3, 2, 1]


def test_delete_removes_the_selected_rows(listed: Bench) -> None:
    listed.view.table.select(2)
    listed.view.table.select(3, add=True)
    listed.press("Delete")
    assert labels(listed) == [1]


def test_objects_have_classes(listed: Bench) -> None:
    assert listed.view.table.isColumnHidden(listed.view.table.objects.CLASS)
    listed.dock.corrections.ask_text = lambda *_: "debris"
    combo = listed.view.correct.category
    assert [combo.itemText(i) for i in range(combo.count())] == ["no class", "New class…"]
    combo.setCurrentIndex(1)
    combo.activated.emit(1)
    assert combo.currentText() == "debris"
    assert listed.document.category == "debris"
    listed.view.table.select(2)
    listed.dock.corrections.categorize(None)
    assert listed.document.image(listed.layers.image_id).records[2].category == "debris"
    assert not listed.view.table.isColumnHidden(listed.view.table.objects.CLASS)
    [classes] = [a.menu() for a in listed.view.correct.menu.actions() if a.menu() is not None]
    classes.aboutToShow.emit()
    assert [action.text() for action in classes.actions()] == ["no class", "debris", "New class…"]
    classes.actions()[0].trigger()
    assert listed.document.image(listed.layers.image_id).records[2].category == ""


def test_a_nucleus_in_a_cell(bench: Open) -> None:
    """Each class has a layer of its own: accepted, picked, painted and undone there."""
    b = bench(blobs())
    put(b, disc(24, 32, 14))
    cells = b.layers.objects
    b.document.do(UseCategory("nucleus"))
    nuclei = b.layers.objects
    assert [layer.name for layer in b.layers.object_layers] == [
        "objects (image0)",
        "nucleus (image0)",
    ]
    assert nuclei.locked
    b.click(24, 32)  # no object of this class is in the way
    b.answered()
    b.press("Enter")
    [nucleus] = b.document.image(b.layers.image_id).records.keys() - {1}
    assert (nuclei.data == nucleus).any()
    assert (cells.data == 1).sum() == disc(24, 32, 14).sum()
    b.document.do(UseCategory(""))
    inside = tuple(np.argwhere(nuclei.data == nucleus)[0])
    for at, label in ((inside, nucleus), ((24, 32 - 13), 1)):
        b.click(*map(float, at))
        assert b.view.table.selected_labels() == [label]
    b.view.table.select(nucleus)
    b.dock.corrections.choose_brush("paint")
    assert b.viewer.layers.selection.active is nuclei
    nuclei.paint((24, 32), nucleus)
    assert (cells.data == 1).sum() == disc(24, 32, 14).sum()
    b.document.undo()
    b.document.undo()
    assert not nuclei.data.any()


def test_layers_of_classes_go_and_come_with_their_image(bench: Open) -> None:
    b = bench(blobs(), blobs())
    put(b, disc(24, 32, 14))
    b.document.do(Categorize(b.layers.image_id, (1,), "nucleus"))
    own = b.layers.object_layers
    first = b.layers.image
    assert len(own) == 2
    assert set(own) <= set(b.viewer.layers)
    b.layers.select_image(next(each for each in b.image_layers if each is not first))
    assert not any(layer.visible for layer in own)
    wait(lambda: not set(own) & set(b.viewer.layers))  # they leave one by one
    b.layers.select_image(first)
    assert b.layers.object_layers == own
    assert set(own) <= set(b.viewer.layers)
    assert all(layer.visible for layer in own)


def test_the_brush_goes_on_in_the_class_that_is_chosen(bench: Open) -> None:
    b = bench(blobs())
    b.dock.corrections.ask_text = lambda *_: "nucleus"
    b.dock.corrections.choose_brush("paint")
    combo = b.view.correct.category
    combo.activated.emit(combo.count() - 1)  # New class…
    active = b.viewer.layers.selection.active
    assert (active, active.mode) == (b.layers.object_layers[1], "paint")


def test_a_removed_image_comes_back_with_all_classes(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(24, 32, 14), disc(50, 20, 3))
    b.document.do(Categorize(b.layers.image_id, (2,), "nucleus"))
    [layer] = b.image_layers
    b.viewer.layers.remove(layer)
    settle()
    b.viewer.add_layer(layer)
    b.layers.select_image(layer)
    records = b.document.records(b.layers.image_id)
    assert [record.category for record in records] == ["", "nucleus"]
    assert len(b.layers.object_layers) == 2


def test_objects_as_contours(bench: Open) -> None:
    b = bench(blobs())
    put(b, disc(24, 32, 14))
    b.press("Shift-J")
    b.document.do(Categorize(b.layers.image_id, (1,), "cell"))
    assert [layer.contour > 0 for layer in b.layers.object_layers] == [True, True]
    b.press("Shift-J")
    assert [layer.contour for layer in b.layers.object_layers] == [0, 0]


def test_colours_of_objects_are_bright_and_differ(bench: Open) -> None:
    b = bench(blobs())
    colours = np.array([b.layers.objects.get_color(n) for n in range(1, 40)])[:, :3]
    assert (colours.max(axis=1) == 1).all()  # no dark ones
    assert (np.abs(np.diff(colours, axis=0)).sum(axis=1) > 0.5).all()


# --- stacks -------------------------------------------------------------------------


def test_objects_go_on_from_the_plane_that_was_shown_before(bench: Open) -> None:
    b = bench(np.stack([blobs()] * 3))
    b.viewer.dims.set_point(0, 2)
    label = b.segment(20, 30)
    assert not b.view.table.isColumnHidden(b.view.table.objects.PLANE)
    b.viewer.dims.set_point(0, 1)
    b.press("Shift-S")
    wait(lambda: not b.owner.projects.progress)
    image = b.document.image(b.layers.image_id)
    planes = [plane.index for plane in image.records[label].planes]
    assert planes in ([(2,), (1,)], [(2,)])  # a random model may find nothing
    assert not b.document.labels(PlaneKey(image.id, (0,))).any()


def test_what_is_no_stack_has_no_plane_before(bench: Open) -> None:
    b = bench(blobs())
    b.press("Shift-S")
    assert "no stack" in b.view.next_step.text()
    assert b.view.table.isColumnHidden(b.view.table.objects.PLANE)
