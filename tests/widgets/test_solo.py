"""The image on the screen is the one that is annotated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
import pytest
import tifffile

from napari_peftsam.document import ImportLabels
from tests.widgets._annotate_cases import Bench, blobs, settle, wait

Open = Callable[..., Bench]


def seen(b: Bench) -> list[str]:
    """Return the names of the images on the screen."""
    return [layer.name for layer in b.layers.image_layers if layer.visible]


@pytest.fixture
def two(bench: Open) -> Bench:
    b = bench(blobs(), blobs((30, 40), seed=1), ready=False)
    b.layers.select_image(b.viewer.layers["image0"])
    assert seen(b) == ["image0"]
    return b


def click_its_name(b: Bench) -> None:
    b.viewer.layers.selection.active = b.viewer.layers["image1"]
    b.viewer.layers["image1"].visible = True


def click_its_eye(b: Bench) -> None:
    b.viewer.layers["image1"].visible = True


def choose_it(b: Bench) -> None:
    b.view.image.setCurrentIndex(1)
    b.view.image.activated.emit(1)


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
    assert two.view.image.currentText() == "image1"
    assert seen(two) == ["image1"]
    assert not before.visible  # objects of another image do not shine through
    assert two.layers.objects.visible


def test_the_images_are_a_queue(bench: Open) -> None:
    b = bench(*(blobs(seed=i) for i in range(3)), ready=False)
    b.layers.select_image(b.viewer.layers["image0"])
    assert b.view.sources.image_number.text() == "1 / 3"
    assert not b.view.sources.previous_image.isEnabled()
    b.view.sources.next_image.click()
    b.press("PageDown")
    b.press("PageDown")  # there is no other
    assert seen(b) == ["image2"]
    assert b.view.sources.image_number.text() == "3 / 3"
    assert not b.view.sources.next_image.isEnabled()
    labels = np.zeros((48, 60), np.int32)
    labels[2:9, 2:9] = 1
    b.document.do(ImportLabels(b.layers.image_id, labels))
    b.press("PageUp")
    assert b.view.image.itemText(2) == "image2 · 1"
    assert b.view.image.currentText() == "image1"


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


def test_images_of_one_size_keep_the_view(bench: Open) -> None:
    b = bench(blobs(), blobs(seed=1), ready=False)
    b.layers.select_image(b.viewer.layers["image0"])
    b.viewer.scene.camera.zoom = 7
    b.layers.select_image(b.viewer.layers["image1"])
    assert b.viewer.scene.camera.zoom == 7


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
    assert isinstance(b.viewer.layers["b"], napari.layers.Image)
