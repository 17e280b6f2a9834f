"""napari's layers and the session stay in step, whatever the user does to the layers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AcceptObjects,
    DeleteObjects,
    Discard,
    ImportLabels,
    NewObject,
    PlaneKey,
    QueuePrompts,
)
from napari_peftsam.embeddings import EncodeStarted
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import Box, Point, Prompts
from tests.segmentation._slides import Slide
from tests.widgets._annotate_cases import PATIENCE, Bench, blobs, settle, wait

Open = Callable[..., Bench]
ONE = Prompts((Point(4, 4),))


def test_the_objects_layer_shares_its_array_with_the_session(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    objects = b.layers.objects
    assert objects.data is b.document.image("image0").labels
    b.segment(20, 30)
    assert b.layers.objects.data is b.document.image("image0").labels


@pytest.mark.parametrize("how", ["another thread", "before its turn"])
def test_what_is_drawn_follows_the_objects(bench: Open, how: str) -> None:
    b = bench(blobs(), ready=False)
    image, layer = b.document.image("image0"), b.layers.objects
    plane, mask = PlaneKey(image.id), np.ones((9, 9), bool)
    b.document.do(AcceptObjects(plane, (NewObject(ONE, mask, None, (5, 5)),)))
    wait(lambda: layer._data_view.max() > 0)
    delete = partial(b.document.do, DeleteObjects(image.id, tuple(image.records)))
    if how == "another thread":
        worker = threading.Thread(target=delete)
        worker.start()
        worker.join()
    else:
        delete()
        b.viewer.layers.remove(b.image_layers[0])
    wait(lambda: layer._data_view.max() == 0)


@pytest.mark.parametrize(
    ("data", "options", "index"),
    [
        pytest.param(blobs(), {}, (), id="grey"),
        pytest.param(blobs((48, 60, 3)).astype(np.uint8), {"rgb": True}, (), id="rgb"),
        pytest.param(blobs((4, 48, 60)), {}, (1,), id="stack"),
        pytest.param(blobs((4, 48, 60, 3)).astype(np.uint8), {"rgb": True}, (1,), id="rgb stack"),
        pytest.param(blobs(), {"scale": (2, 0.5), "translate": (5, -7)}, (), id="scaled"),
        pytest.param(blobs((4, 48, 60)), {"scale": (3, 0.2, 0.2)}, (1,), id="scaled stack"),
        pytest.param(blobs(), {"rotate": 30, "shear": [0.1]}, (), id="turned"),
        pytest.param([blobs(), blobs()[::2, ::2]], {"multiscale": True}, (), id="multiscale"),
    ],
)
def test_a_click_lands_on_the_pixel_under_the_mouse(
    bench: Open, data: Any, options: dict[str, Any], index: tuple[int, ...]
) -> None:
    b = bench(data, ready=False, **options)
    image = b.image_layers[0]
    if index:
        b.viewer.dims.set_point(0, index[0] * image.scale[0])
    world = image.data_to_world((*index, 20, 30))
    b.click(*world[-2:])
    assert b.document.current.plane == PlaneKey("image0", index)
    point = b.document.current.prompts.points[0]
    assert (point.row, point.col) == pytest.approx((20, 30), abs=1e-4)
    marker = b.prompts.points.data_to_world(b.prompts.points.data[0])
    assert marker == pytest.approx(world[-2:], abs=1e-3)


def test_prompts_show_in_their_own_slice_only(bench: Open) -> None:
    b = bench(blobs((3, 48, 60)))
    b.click(20, 30)
    b.answered()
    here = b.viewer.dims.current_step[0]
    b.viewer.dims.set_point(0, here + 1)
    assert len(b.prompts.points.data) == 0
    assert not b.prompts.mask.numbers.any()
    assert f"A prompt waits in plane {here} of image0" in b.view.next_step.text()
    b.press("Enter")
    assert f"The prompts are in plane {here} of image0" in b.view.next_step.text()
    b.viewer.dims.set_point(0, here)
    assert len(b.prompts.points.data) == 1
    assert b.prompts.mask.numbers.any()


def test_another_slice_is_embedded_when_it_is_shown(bench: Open) -> None:
    b = bench(blobs((3, 48, 60)))
    b.viewer.dims.set_point(0, 2)
    b.click(20, 30)
    assert b.document.current.plane.index == (2,)
    b.answered()
    b.press("Enter")
    assert b.layers.objects.data[2].any()
    assert not b.layers.objects.data[:2].any()


def test_prompts_need_the_2d_view(bench: Open) -> None:
    b = bench(blobs((3, 48, 60)), ready=False)
    b.viewer.dims.ndisplay = 3
    b.layers.tools.add_point((1, 20, 30), True)
    assert b.document.current is None
    assert "switch the 3D view off" in b.view.next_step.text()


def test_moving_and_deleting_points_in_the_layer(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.click(20, 30)
    b.click(25, 35, "Shift")
    b.prompts.points.data = [[20, 30], [5, 6]]  # napari's drag ends in the same event
    settle()
    moved = b.document.current.prompts.points
    assert [(p.row, p.col, p.positive) for p in moved] == [(20, 30, True), (5, 6, False)]
    b.prompts.points.selected_data = {0}
    b.press("Delete")
    left = b.document.current.prompts.points
    assert [(p.row, p.positive) for p in left] == [(5, False)]
    b.press("Control-Z")
    assert len(b.document.current.prompts.points) == 2
    assert len(b.prompts.points.data) == 2


def test_a_point_moved_out_of_the_image_comes_back(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.click(20, 30)
    b.prompts.points.data = [[-9, 30]]
    settle()
    assert b.document.current.prompts.points[0].row == 20
    assert b.prompts.points.data[0][0] == 20
    assert "outside" in b.view.next_step.text()


def test_prompts_in_a_hidden_layer_are_answered(bench: Open) -> None:
    b = bench(blobs())
    for col in (20, 30):
        b.click(20, col)
    b.answered()
    b.prompts.points.visible = False
    b.press("Escape")
    b.layers.tools.choose("point")
    b.click(40, 40)
    b.answered()
    b.prompts.points.visible = True
    assert len(b.prompts.points.data) == 1


def test_a_prompt_layer_that_was_removed_comes_back_with_its_tool(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    boxes = b.prompts.boxes
    boxes.locked = False
    b.viewer.layers.remove(boxes)
    settle()
    b.press("W")
    assert b.layers.tools.tool == "box"
    b.drag((2, 2), (20, 22))
    assert len(b.document.queue) == 1


def test_points_of_naparis_own_tool_are_prompts_too(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.prompts.points.mode = "add"
    b.click(20, 30)
    settle()
    assert len(b.document.current.prompts.points) == 1


def test_an_answer_in_the_midst_of_a_drag_does_not_end_it(bench: Open) -> None:
    b = bench(blobs())
    b.press("W")
    b.drag((2, 2), (20, 22))
    b.drag((2, 32), (20, 52), before_release=b.answered)
    assert [p.box.as_tuple() for p in b.document.queue] == [
        (2.5, 2.5, 20.5, 22.5),
        (2.5, 32.5, 20.5, 52.5),
    ]
    assert len(b.prompts.boxes.data) == 2


def test_deleting_a_box_removes_its_object_from_the_queue(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.press("W")
    for top, left in ((2, 2), (2, 32), (26, 2)):
        b.drag((top, left), (top + 18, left + 20))
    b.prompts.boxes.selected_data = {1}
    b.prompts.boxes.remove_selected()
    settle()
    assert [p.box.col0 for p in b.document.queue] == [2.5, 2.5]


@pytest.mark.parametrize("mode", ["paint", "erase", "fill"])
def test_a_stroke_corrects_the_object_and_is_one_step_of_the_history(
    bench: Open, mode: str
) -> None:
    b = bench(blobs(), ready=False)
    labels = np.zeros((48, 60), np.int32)
    labels[10:30, 10:30] = 4
    b.document.do(ImportLabels("image0", labels))
    objects = b.layers.objects
    b.viewer.layers.selection.active = objects
    objects.mode, objects.selected_label, objects.brush_size = mode, 9 if mode == "fill" else 4, 6
    assert b.layers.tools.tool == ""
    assert "by hand" in b.view.next_step.text()
    before = objects.data.copy()
    b.drag((12, 28), (20, 34))
    after = objects.data.copy()
    assert (before != after).any()
    assert b.document.undo_label == "paint"
    assert any(r.corrected or r.source == "painted" for r in b.document.records("image0"))
    b.press("Control-Z")
    np.testing.assert_array_equal(objects.data, before)
    b.press("Control-Shift-Z")
    np.testing.assert_array_equal(objects.data, after)


def test_one_history_for_prompts_objects_and_strokes(bench: Open) -> None:
    b = bench(blobs())
    b.segment(20, 30)
    objects = b.layers.objects
    objects.mode, objects.selected_label = "paint", 1
    b.viewer.layers.selection.active = objects
    b.drag((2, 2), (2, 8))
    b.press("Q")
    b.click(30, 40, "Control")
    for label in ("add point", "paint", "accept object 1", "add point"):
        assert b.document.undo_label == label
        b.press("Control-Z")
    assert not objects.data.any()
    assert b.document.undo_label is None


def test_renaming_and_reordering_break_nothing(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1), ready=False)
    b.layers.select_image(b.image_layers[0])
    b.viewer.layers.reverse()
    for layer in list(b.viewer.layers):
        layer.name = f"my {layer.name}"
    assert b.view.images.name.text() == "my image0"
    b.viewer.layers.selection.active = b.prompts.points
    b.click(20, 30)
    plane = b.document.current.plane
    assert b.document.image(plane.image).name == "my image0"
    b.answered()
    b.press("Enter")
    assert len(b.document.records(plane.image)) == 1


def test_each_image_has_its_own_objects(bench: Open) -> None:
    b = bench(blobs(), blobs((30, 30), seed=1))
    for index in (0, 1):
        b.layers.select_image(b.image_layers[index])
        b.segment(10 + index, 10)
    assert [len(b.document.records(f"image{i}")) for i in (0, 1)] == [1, 1]
    assert b.view.table.objects.image == "image1"
    names = [layer.name for layer in b.viewer.layers if layer.name.startswith("objects")]
    assert names == ["objects (image1)"]  # those of the other image are put aside


def test_choosing_a_hidden_image_shows_it_in_place_of_the_other(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1), ready=False)
    first, second = b.image_layers
    b.layers.select_image(first)
    second.visible = False
    b.layers.select_image(second)
    assert (first.visible, second.visible) == (False, True)


def test_the_plugins_layers_are_locked_until_the_dock_goes(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    own = [*b.prompts.layers, b.layers.objects]
    assert all(layer.locked for layer in own)
    b.viewer.window.remove_dock_widget(b.dock)
    assert b.layers.image is b.image_layers[0]
    assert [layer for layer in own if layer in b.viewer.layers] == [own[-1]]
    assert not own[-1].locked


def test_deleting_the_image_while_it_is_embedded_keeps_the_objects(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.document.do(ImportLabels("image0", np.ones((48, 60), np.int32)))
    objects = b.layers.objects
    wait(lambda: b.dock.prompting.state.kind == "embedding")
    b.viewer.layers.remove(b.image_layers[0])
    settle()
    assert b.document.images == {}
    assert objects in b.viewer.layers
    assert objects.data.all()
    assert not objects.locked
    wait(lambda: len(b.owner.workers) == 0)
    assert "Open an image" in b.view.next_step.text()


def test_an_image_that_comes_back_has_its_objects(bench: Open) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    [record] = b.document.records("image0")
    layer = b.image_layers[0]
    b.viewer.layers.remove(layer)
    settle()
    b.viewer.add_layer(layer)
    wait(lambda: b.layers.image is layer)
    assert b.document.records(b.layers.image_id) == (record,)
    assert (b.layers.objects.data == label).any()
    assert b.layers.objects.data is b.document.image(b.layers.image_id).labels
    own = {*b.prompts.layers, b.layers.objects}  # no second layer of objects
    assert {each for each in b.viewer.layers if type(each).__name__ == "Labels"} < own
    assert b.segment(40, 50) == label + 1


def test_another_image_of_the_same_name_has_no_objects(bench: Open) -> None:
    b = bench(blobs())
    b.segment(20, 30)
    objects = b.layers.objects
    b.viewer.layers.remove(b.image_layers[0])
    settle()
    b.viewer.add_image(blobs(seed=3), name="image0")
    wait(lambda: b.layers.image is not None)
    assert b.document.records(b.layers.image_id) == ()
    assert objects in b.viewer.layers
    assert objects.data.any()


@pytest.mark.parametrize("leading", [(), (3,)], ids=["plane", "stack"])
def test_scans_with_empty_corners_are_told_apart(bench: Open, leading: tuple[int, ...]) -> None:
    b = bench(_scan(leading, 1300), ready=False)
    plane = PlaneKey("image0", tuple(n // 2 for n in leading))
    new = NewObject(ONE, np.ones((5, 5), bool), 1.0, (3, 3))
    b.document.do(AcceptObjects(plane, (new,)))
    assert b.document.records("image0")
    b.viewer.layers.remove(b.image_layers[0])
    settle()
    b.viewer.add_image(_scan(leading, 1700), name="image0")
    wait(lambda: b.layers.image is not None)
    assert b.document.records(b.layers.image_id) == ()
    b.viewer.layers.remove(b.layers.image)
    settle()
    b.viewer.add_image(_scan(leading, 1300), name="image0")
    wait(lambda: b.layers.image is not None)
    assert len(b.document.records(b.layers.image_id)) == 1


def _scan(leading: tuple[int, ...], at: int) -> np.ndarray:
    """Return a mostly empty scan of more pixels than are compared, with tissue in the middle."""
    pixels = np.zeros((*leading, 2600, 2600), np.uint8)
    pixels[tuple(n // 2 for n in leading)][at : at + 400, at : at + 400] = 9
    return pixels


def test_replaced_pixels_are_answered_anew(bench: Open) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    b.click(30, 40, "Control")
    first = b.answered()
    b.image_layers[0].data = blobs(seed=5)
    wait(lambda: b.dock.prompting.state.kind == "ready")
    wait(lambda: b.mask is not None and not np.array_equal(b.mask, first))
    assert np.array_equal(b.document.pixels(b.layers.plane), blobs(seed=5))
    assert [record.label for record in b.document.records("image0")] == [label]


def test_replaced_pixels_of_another_size_stop_the_prompts_and_keep_the_objects(
    bench: Open,
) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    b.image_layers[0].data = blobs((20, 30))
    assert "image0 was 48 x 60 pixels" in b.view.next_step.text()
    b.click(5, 5)
    assert b.document.current is None
    assert [record.label for record in b.document.records("image0")] == [label]
    b.image_layers[0].data = blobs()
    b.click(5, 5, "Control")
    assert b.document.current is not None


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_a_converted_label_layer_stays_the_sessions_own(bench: Open, dtype: type) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    layer = b.layers.objects
    layer.data = layer.data.astype(dtype)  # as napari's "Convert data type" does
    assert layer.data is b.document.image("image0").labels
    assert [record.label for record in b.document.records("image0")] == [label]
    again = b.segment(40, 50)
    assert (layer.data == again).any()


def test_an_edited_copy_put_into_the_label_layer_is_one_step(bench: Open) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    layer = b.layers.objects
    edited = layer.data.copy()
    edited[:4, :4] = 9
    layer.data = edited
    assert {record.label for record in b.document.records("image0")} == {label, 9}
    b.press("Control-Z")
    assert {record.label for record in b.document.records("image0")} == {label}
    layer.data = np.zeros((5, 5), np.int32)
    assert layer.data is b.document.image("image0").labels
    assert {record.label for record in b.document.records("image0")} == {label}


def test_new_images_do_not_hide_the_prompts(bench: Open) -> None:
    b = bench(ready=False)
    assert len(b.viewer.layers) == 0
    for seed in range(2):
        b.viewer.add_image(blobs(seed=seed), name=f"new{seed}")
        wait(lambda: b.layers.image is not None)
        settle()
        assert tuple(b.viewer.layers[-len(b.prompts.layers) :]) == b.prompts.layers


def test_clearing_the_viewer_and_starting_again(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1), ready=False)
    b.viewer.layers.clear()
    settle()
    assert b.document.images == {}
    b.viewer.add_image(blobs(seed=2), name="again")
    wait(lambda: b.layers.image is not None)
    b.click(20, 30)
    b.answered()
    b.press("Enter")
    assert len(b.document.records("again")) == 1


def test_closing_the_viewer_while_embedding_stops_the_workers(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    wait(lambda: b.dock.prompting.state.kind == "embedding")
    b.viewer.close()
    wait(lambda: b.owner.is_closed)
    assert len(b.owner.workers) == 0


# --- large images ---------------------------------------------------------------------------


class _NeverWhole:
    """An image on disk that must not be read as a whole."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._slide = Slide(shape, [(300, 300, 10, 12)])
        self.shape, self.dtype, self.ndim = shape, self._slide.dtype, 2
        self.read: list[int] = []

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, cols = key if isinstance(key, tuple) else (key, slice(None))
        part = self._slide[rows, cols]
        self.read.append(part.size)
        return part


def test_a_large_image_is_prompted_without_reading_all_of_it(bench: Open) -> None:
    import dask.array as da

    source = _NeverWhole((6_000, 6_000))
    data = da.from_array(source, chunks=(512, 512), meta=np.zeros((0, 0), np.uint8), asarray=False)
    small = data[::16, ::16].compute()
    source.read.clear()
    b = bench([data, small], multiscale=True, rgb=False, contrast_limits=(0, 255))
    b.click(300, 300)
    mask = b.answered()
    assert max(source.read) <= 512 * 512
    current = b.document.current
    assert current.candidates.plane_shape == (6_000, 6_000)
    row, col = current.offset
    np.testing.assert_allclose(b.prompts.mask.layer.translate, (row, col))
    np.testing.assert_array_equal(b.prompts.mask.numbers.astype(bool), mask)
    label = b.document.do(Accept())
    here = b.layers.objects.data[row : row + mask.shape[0], col : col + mask.shape[1]]
    assert (here == label).sum() == mask.sum()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let predictions in tiles hang in the first one until the event is set."""
    go_on = threading.Event()

    def hanging(real: Callable[..., Any]) -> Callable[..., Any]:
        def predict(*args: Any, **options: Any) -> Generator[Any, None, Any]:
            threading.current_thread().name = "stuck"
            yield EncodeStarted("tile", 0, 25)
            go_on.wait(PATIENCE)
            return (yield from real(*args, **options))

        return predict

    for name in ("predict_steps", "predict_many_steps"):
        monkeypatch.setattr(Engine, name, hanging(getattr(Engine, name)))
    yield go_on
    go_on.set()


def _slide() -> np.ndarray:
    return Slide((700, 900), [(300, 300, 10, 12)])[0:700, 0:900]


def test_an_answer_in_a_large_image_can_be_cancelled_and_resumed(
    bench: Open, stuck: threading.Event
) -> None:
    b = bench(_slide())
    prompting = b.dock.prompting
    b.click(300, 300)
    wait(lambda: prompting.state.tiles == 25)
    b.view.images.cancel.click()
    assert prompting.state.kind == "stopped"
    assert not prompting.state.is_awaited
    stuck.set()
    b.viewer.scene.camera.center = (0, 310, 310)  # looking around asks for nothing
    wait(lambda: len(b.owner.workers) == 0)
    wait(lambda: not b.dock._look.isActive())  # the look around is over
    settle()
    assert prompting.state.kind == "stopped"
    assert b.mask is None
    b.view.images.cancel.click()
    assert b.answered().any()


def test_a_new_prompt_in_a_large_image_does_not_wait_for_the_older_ones(
    bench: Open, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = bench(_slide())
    b.click(300, 300)
    wait(lambda: b.dock.prompting.state.tiles == 25)
    [old] = [each for each in threading.enumerate() if each.name == "stuck"]
    monkeypatch.undo()
    b.click(305, 305)
    b.answered()
    assert old.is_alive()  # the answer did not wait for it
    assert not b.dock.prompting.state.is_awaited


def test_discarding_ends_the_answer_in_a_large_image(bench: Open, stuck: threading.Event) -> None:
    b = bench(_slide())
    b.click(300, 300)
    wait(lambda: b.dock.prompting.state.tiles == 25)
    b.document.do(Discard())
    assert not b.dock.prompting.state.is_awaited
    assert b.dock.prompting.state.kind == "ready"


def test_accepting_all_in_a_large_image_can_be_cancelled(
    bench: Open, stuck: threading.Event
) -> None:
    b = bench(_slide())
    prompting = b.dock.prompting
    b.document.do(
        QueuePrompts.boxes(PlaneKey("image0", ()), [Box(280, 280, 320, 320), Box(80, 80, 99, 99)])
    )
    b.view.accept_all.click()
    wait(lambda: prompting.state.tiles == 25)
    b.view.images.cancel.click()
    assert prompting.state.kind == "stopped"
    assert not prompting.state.is_awaited
    assert b.document.records("image0") == ()
    stuck.set()
    b.view.accept_all.click()
    wait(lambda: not b.document.queue)
    wait(lambda: prompting.state.kind == "ready")
    assert b.document.undo_label


def test_objects_of_a_very_large_image_are_shown_as_a_pyramid_of_views(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_peftsam.widgets.layers.objects._LARGEST_FLAT", 500)
    monkeypatch.setattr("napari_peftsam.widgets.layers.objects._SMALLEST", 100)
    b = bench(Slide((700, 900), [(300, 300, 10, 12)])[0:700, 0:900])
    objects = b.layers.objects
    labels = b.document.image("image0").labels
    assert objects.multiscale
    assert objects.data[0] is labels
    assert all(np.shares_memory(level, labels) for level in objects.data)
    b.click(300, 300)
    b.answered()
    label = b.document.do(Accept())
    assert (objects.data[0] == label).any()
    b.document.undo()
    assert not labels.any()


def test_the_marks_of_a_tool_are_there_once_it_is_taken(bench: Open) -> None:
    b = bench(blobs())
    layer, made = b.layers.objects, b.viewer.window._qt_viewer.canvas._layer_overlay_to_visual
    assert len(made[layer]) == 0
    for mode, number in (("polygon", 1), ("paint", 2)):
        layer.mode = mode
        assert len(made[layer]) == number
