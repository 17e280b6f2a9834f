"""The image on the screen is the one that is annotated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from napari_peftsam.document import ImportLabels
from tests.widgets._annotate_cases import SHAPE, Bench, blobs, settle, wait

Open = Callable[..., Bench]


def seen(b: Bench) -> list[str]:
    """Return the names of the images on the screen."""
    return [layer.name for layer in b.layers.image_layers if layer.visible]


@pytest.fixture
def two(bench: Open) -> Bench:
    b = bench(blobs(), ready=False)
    b.viewer.add_image(blobs((30, 40), seed=1), name="image1", visible=False)
    b.press("Q")
    assert seen(b) == ["image0"]
    return b


def click_its_name(b: Bench) -> None:
    b.viewer.layers.selection.active = b.viewer.layers["image1"]
    b.viewer.layers["image1"].visible = True


def click_its_eye(b: Bench) -> None:
    b.viewer.layers["image1"].visible = True


def click_in_list(b: Bench, row: int) -> None:
    """Click on a line of the queue with the mouse."""
    images = b.view.images.list
    at = images.visualItemRect(images.item(row)).center()
    QTest.mouseClick(images.viewport(), Qt.MouseButton.LeftButton, pos=at)
    settle()


def choose_it(b: Bench) -> None:
    click_in_list(b, 1)


def press_page_down(b: Bench) -> None:
    b.press("PageDown")


@pytest.mark.parametrize("way", [click_its_name, click_its_eye, choose_it, press_page_down])
def test_the_image_follows(two: Bench, way: Callable[[Bench], None]) -> None:
    labels = np.zeros((48, 60), np.int32)
    labels[2:9, 2:9] = 1
    two.document.do(ImportLabels(two.layers.image_id, labels))
    before = two.layers.objects
    way(two)
    settle()
    assert two.layers.image.name == "image1"
    assert two.view.images.name.text() == "image1"
    assert seen(two) == ["image1"]
    assert not before.visible  # objects of another image do not shine through
    assert two.layers.objects.visible


def lines(b: Bench) -> list[str]:
    """Return the lines of the queue that are in sight."""
    items = [b.view.images.list.item(row) for row in range(b.view.images.list.count())]
    return [item.text().strip() for item in items if not item.isHidden()]


@pytest.fixture
def queue(bench: Open) -> Bench:
    b = bench(*(blobs(seed=i) for i in range(3)), ready=False)
    b.layers.select_image(b.viewer.layers["image0"])
    return b


def test_the_images_are_a_queue(queue: Bench) -> None:
    b, images = queue, queue.view.images
    assert images.number.text() == "1 / 3"
    assert not images.previous_image.isEnabled()
    images.next_image.click()
    b.press("PageDown")
    b.press("PageDown")  # there is no other
    assert seen(b) == ["image2"]
    assert images.number.text() == "3 / 3"
    assert not images.next_image.isEnabled()
    labels = np.zeros((48, 60), np.int32)
    labels[2:9, 2:9] = 1
    b.document.do(ImportLabels(b.layers.image_id, labels))
    b.press("PageUp")
    assert lines(b) == ["image0", "image1", "▪ image2 · 1"]
    assert images.name.text() == "image1"


def test_going_back_at_once_keeps_the_layers(queue: Bench) -> None:
    """They leave one by one, after the next image is shown."""
    first, second, _ = queue.image_layers
    mine = (first, queue.layers.objects)
    queue.layers.select_image(second)
    assert not any(layer.visible for layer in mine)
    queue.layers.select_image(first)
    settle()
    assert all(layer.visible for layer in mine)
    places = [queue.viewer.layers.index(layer) for layer in mine]
    assert places == [places[0], places[0] + 1]
    assert second not in queue.viewer.layers
    assert queue.layers.image is first


def test_layers_that_left_in_part_come_back_in_their_order(queue: Bench) -> None:
    first, second, _ = queue.image_layers
    mine = (first, queue.layers.objects)
    queue.layers.select_image(second)
    QTest.qWait(1)  # one of them leaves
    queue.layers.select_image(first)
    settle()
    places = [queue.viewer.layers.index(layer) for layer in mine]
    assert places == [places[0], places[0] + 1]
    assert all(layer.visible for layer in mine)
    assert mine[1].locked


def test_images_that_were_shown_leave_the_list_of_layers(queue: Bench) -> None:
    for _ in range(2):
        queue.press("PageDown")
    own = [layer for layer in queue.viewer.layers if layer not in queue.prompts.layers]
    assert own == [queue.image_layers[2], queue.layers.objects]
    first = queue.image_layers[0]
    first.contrast_limits = (100, 200)
    queue.press("PageUp")
    queue.press("PageUp")
    assert queue.layers.image is first  # the very layer, with all that was set in it
    assert first in queue.viewer.layers
    assert queue.layers.objects.locked
    assert queue.document.undo_label is None  # nothing was removed
    assert lines(queue) == ["image0", "image1", "image2"]


def test_all_layers_come_back_when_the_dock_goes(queue: Bench) -> None:
    queue.press("PageDown")
    queue.press("PageDown")
    queue.viewer.window.remove_dock_widget(queue.dock)
    assert [layer for layer in queue.viewer.layers if layer in queue.image_layers]
    assert len(queue.viewer.layers) == 6
    assert seen(queue) == ["image2"]
    assert not any(layer.locked for layer in queue.viewer.layers)


def test_done_images_have_a_tick_and_are_skipped(queue: Bench) -> None:
    queue.press("PageDown")
    queue.press("Shift-PageDown")
    assert queue.layers.image.name == "image2"
    assert lines(queue) == ["image0", "✓ image1", "image2"]
    queue.view.images.complete.click()
    queue.press("Shift-PageDown")
    assert queue.layers.image.name == "image0"
    queue.press("Shift-PageDown")
    assert queue.layers.image.name == "image0"
    assert "All images are done" in queue.view.next_step.text()
    queue.view.images.complete.click()  # it is not, after all
    assert lines(queue) == ["image0", "✓ image1", "✓ image2"]
    queue.press("Control-Z")
    assert lines(queue) == ["✓ image0", "✓ image1", "✓ image2"]


def test_many_images_are_searched(bench: Open) -> None:
    b = bench(*(blobs(seed=i) for i in range(10)), ready=False)
    search = b.view.images.search
    assert not search.isHidden()
    search.setFocus()
    QTest.keyClicks(search, "E7")
    assert lines(b) == ["image7"]
    QTest.keyClick(search, Qt.Key.Key_Return)
    settle()
    assert b.layers.image.name == "image7"
    assert len(lines(b)) == 10


def test_a_stack_comes_back_at_its_plane(bench: Open) -> None:
    b = bench(blobs((5, *SHAPE)), blobs(), ready=False)
    b.layers.select_image(b.image_layers[0])
    b.viewer.dims.set_point(0, 3)
    b.press("PageDown")
    assert b.layers.plane.index == ()
    b.press("PageUp")
    assert b.layers.plane.index == (3,)


def test_the_next_image_is_embedded_ahead(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1))
    b.layers.select_image(b.image_layers[0])
    assert [plane.image for plane in b.layers.ahead] == ["image1"]
    wait(lambda: set(b.owner.workspace._embedded) == {*b.layers.ahead, b.layers.plane})


def test_an_image_that_is_opened_is_annotated(two: Bench, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "late.tif", blobs((20, 20), seed=2))
    two.viewer.open(tmp_path / "late.tif", plugin="napari")
    settle()
    assert two.layers.image.name == "late"
    assert seen(two) == ["late"]


def test_images_of_other_sizes_fill_the_view(two: Bench) -> None:
    two.viewer.fit_to_view(layers=[two.viewer.layers["image0"]])
    before = two.viewer.scene.camera.zoom
    two.layers.select_image(two.viewer.layers["image1"])
    assert two.viewer.scene.camera.zoom > before
    assert tuple(two.viewer.scene.camera.center)[-2:] == (14.5, 19.5)


def test_images_of_one_size_keep_the_view(queue: Bench) -> None:
    queue.viewer.scene.camera.zoom = 7
    queue.press("PageDown")
    assert queue.viewer.scene.camera.zoom == 7


def test_channels_stay_together(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1), ready=False, blending="additive")
    b.layers.select_image(b.viewer.layers["image0"])
    assert seen(b) == ["image0", "image1"]
    b.viewer.layers["image1"].visible = False
    b.viewer.layers["image1"].visible = True
    assert b.layers.image.name == "image0"


def test_hiding_the_annotated_image_chooses_no_other(two: Bench) -> None:
    two.viewer.layers["image0"].visible = False
    settle()
    assert two.layers.image.name == "image0"
    assert seen(two) == []
    two.click(20, 30)
    assert two.document.current is None
    assert "image0 is hidden" in two.view.next_step.text()
    two.viewer.layers["image0"].visible = True
    two.click(20, 30)
    assert two.document.current is not None


def test_another_image_that_covers_it_is_told_of(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1), ready=False, blending="additive")
    b.layers.select_image(b.viewer.layers["image0"])
    other = b.viewer.layers["image1"]
    assert b.layers.why_no_plane == ""  # a channel, until it hides what is below
    other.blending = "translucent"
    b.click(20, 30)
    assert b.document.current is None
    assert "image1 covers image0" in b.view.next_step.text()
    other.opacity = 0.4
    b.click(20, 30)
    assert b.document.current is not None


def test_without_the_dock_layers_are_the_users_own(two: Bench) -> None:
    two.viewer.window.remove_dock_widget(two.dock)
    two.viewer.layers["image1"].visible = True
    assert seen(two) == ["image0", "image1"]


def test_several_files_are_shown_one_at_a_time(bench: Open, tmp_path: Path) -> None:
    b = bench(ready=False)
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", blobs((20, 20), seed=ord(name)))
    b.owner.imports.open_images([tmp_path])
    wait(lambda: len(b.layers.image_layers) == 3)
    settle()
    assert seen(b) == ["a"]
    assert b.layers.image.name == "a"
    assert lines(b) == ["a", "b", "c"]
    assert [e.name for e in b.viewer.layers if isinstance(e, napari.layers.Image)] == ["a"]
    b.press("PageDown")
    assert seen(b) == ["b"]


def test_all_images_of_a_sample_are_in_the_project(bench: Open) -> None:
    b = bench(ready=False)
    layers = b.viewer.open_sample("napari-peftsam", "histology")
    settle()
    assert len(layers) > 1
    assert seen(b) == [b.layers.image.name]
    assert set(lines(b)) == {image.name for image in b.document.images.values()}
    assert len(lines(b)) == len(layers)
    wait(lambda: not any(isinstance(e, napari.layers.Image) for e in b.viewer.layers[1:]))
    assert b.viewer.layers.selection.active not in layers[1:]


def test_a_channel_that_comes_hidden_stays_one(bench: Open) -> None:
    b = bench(blobs(), blending="additive")
    [shown] = b.layers.image_layers
    channel = napari.layers.Image(
        blobs(seed=1), name="channel", blending="additive", visible=False, metadata=shown.metadata
    )
    channel._set_source(channel.source.model_copy(update={"path": "c.tif"}))
    b.viewer.add_layer(channel)
    settle()
    assert channel in b.viewer.layers
    assert b.document.find_image("channel") is None


def test_hidden_objects_stay_hidden_over_images(two: Bench) -> None:
    first, hidden = two.layers.image, two.layers.objects
    hidden.visible = False
    other = next(layer for layer in two.layers.image_layers if layer is not first)
    two.layers.select_image(other)
    assert two.layers.objects.visible
    two.layers.select_image(first)
    assert not hidden.visible


def test_layers_of_objects_follow_the_name_of_their_image(two: Bench) -> None:
    two.layers.image.name = "smear"
    assert two.layers.objects.name == "objects (smear)"
    two.layers.objects.name = "mine"
    two.layers.image.name = "other"
    assert two.layers.objects.name == "mine"
