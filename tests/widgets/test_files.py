"""Files keep their axes, pixel size and units on the way through the viewer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import napari
import numpy as np
import pytest
import tifffile
import zarr
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication

from napari_peftsam.document import ImportLabels
from napari_peftsam.errors import ConfigurationError, LabelError
from napari_peftsam.export import export_labels
from napari_peftsam.files import open_labels
from napari_peftsam.metadata import ReadOptions
from napari_peftsam.widgets.annotate import AnnotateDock
from napari_peftsam.widgets.contributions import labels_reader
from napari_peftsam.widgets.export import ExportDock
from napari_peftsam.widgets.launch import open_viewer
from napari_peftsam.widgets.session import session_of
from tests.widgets._annotate_cases import Bench, settle, wait


def squares() -> np.ndarray:
    labels = np.zeros((40, 50), np.int32)
    labels[2:8, 2:8] = 5
    labels[20:30, 20:30] = 9
    return labels


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    path = tmp_path / "cells.tif"
    details = {"axes": "ZYX", "unit": "um", "spacing": 2.0}
    tifffile.imwrite(path, noise(5, 40, 50), imagej=True, resolution=(4, 4), metadata=details)
    return path


@pytest.fixture
def opened(make_napari_viewer: Any) -> Any:  # which keeps other plugins out
    viewers: list[napari.Viewer] = []

    def open_it(*paths: Path, **options: Any) -> napari.Viewer:
        viewers.append(open_viewer(paths, block=False, **options))
        return viewers[-1]

    yield open_it
    for viewer in viewers:
        viewer.close()


def test_layers_have_the_pixel_size_of_their_file(cells: Path, opened: Callable) -> None:
    viewer = opened(cells)
    layer = viewer.layers["cells"]
    wait(lambda: "prompt points" in viewer.layers)
    assert {str(each.units[-1]) for each in viewer.layers} == {"micrometer"}
    assert layer.scale.tolist() == [2, 0.25, 0.25]
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3
    assert list(layer.axis_labels) == ["z", "y", "x"]


def test_going_on_with_a_project_takes_the_files_that_are_open(
    tmp_path: Path, opened: Callable
) -> None:
    for name in "abc":
        tifffile.imwrite(tmp_path / f"{name}.tif", noise(40, 50))
    viewer = opened(tmp_path)
    session = session_of(viewer)
    wait(lambda: session.layers.image is not None)
    session.document.do(ImportLabels(session.layers.image_id, squares()))
    wait(lambda: session.document.store.path is not None)
    sources = session.document.images
    wait(lambda: all(image.info.source is not None for image in sources.values()))
    path = session.document.store.path
    viewer.close()
    again = opened(tmp_path)
    session = session_of(again)
    wait(lambda: session.layers.image is not None)
    session.projects.open(path)
    wait(lambda: session.document.store.path == path and not session.projects.progress)
    assert [layer.name for layer in session.layers.image_layers] == ["a", "b", "c"]
    assert [image.name for image in session.document.images.values()] == ["a", "b", "c"]


def test_a_folder_opens_its_images(tmp_path: Path, cells: Path, opened: Callable) -> None:
    tifffile.imwrite(tmp_path / "b.tif", noise(40, 50))
    viewer = opened(tmp_path)
    wait(lambda: session_of(viewer).layers.image is not None)
    assert [each.name for each in session_of(viewer).layers.image_layers] == ["b", "cells"]
    names = [layer.name for layer in viewer.layers if isinstance(layer, napari.layers.Image)]
    assert names == ["b"]


def test_a_large_zarr_is_not_read(tmp_path: Path, opened: Callable) -> None:
    path = tmp_path / "slide.zarr"
    array = zarr.create_array(
        path, shape=(20000, 20000), dtype="uint8", chunks=(1000, 1000), fill_value=0
    )
    array[:1000, :1000] = np.random.default_rng(0).integers(0, 255, (1000, 1000))
    layer = opened(path).layers["slide"]
    assert not isinstance(layer.data, np.ndarray)
    assert layer.data.shape == (20000, 20000)


def test_channels_are_chosen_on_opening(tmp_path: Path, opened: Callable) -> None:
    path = tmp_path / "x.ome.tif"
    pixels = noise(2, 40, 50)
    details = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=details)
    viewer = opened(path, options=ReadOptions(channels="GFP"))
    np.testing.assert_array_equal(viewer.layers["x"].data, pixels[1])
    session = session_of(viewer)
    session.layers.select_image(viewer.layers["x"])
    (image,) = session.document.images.values()
    assert image.info.metadata.read_with.channels == "GFP"
    assert image.info.metadata.channels[1].name == "GFP"


def test_labels_open_with_their_image(tmp_path: Path, opened: Callable) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(40, 50))
    labels = export_labels(squares(), tmp_path / "objects.geojson")
    viewer = opened(path, labels=labels)
    document = session_of(viewer).document
    wait(lambda: any(image.records for image in document.images.values()))
    (image,) = document.images.values()
    np.testing.assert_array_equal(image.labels > 0, squares() > 0)


def test_the_menu_imports_labels(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    b = bench(noise(40, 50))
    menu = b.view.project.files
    menu.ask_open = lambda *_: export_labels(squares(), tmp_path / "objects.zip")
    menu.import_labels()
    (image,) = b.document.images.values()
    wait(lambda: len(image.records) == 2)
    np.testing.assert_array_equal(image.labels > 0, squares() > 0)


def test_labels_that_do_not_fit_open_no_viewer(tmp_path: Path, cells: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", noise(40, 50))
    path = export_labels(squares()[:30], tmp_path / "labels.tif")
    with pytest.raises(LabelError, match="choose the labels of this image"):
        open_viewer([tmp_path / "x.tif"], block=False, labels=path)
    with pytest.raises(ConfigurationError, match="those of one image"):
        open_viewer([tmp_path / "x.tif", cells], block=False, labels=path)


@pytest.mark.parametrize("name", ["tiff", "ome-zarr"])
def test_exports_have_the_pixel_size(
    cells: Path, tmp_path: Path, opened: Callable, name: str
) -> None:
    viewer = opened(cells)
    session = session_of(viewer)
    layer = viewer.layers["cells"]
    session.layers.select_image(layer)
    objects = session.layers.objects
    objects.selected_label = 1
    objects.paint((2, 10, 10), 1)
    dock = ExportDock(viewer)
    dock.format.setCurrentIndex(dock.format.findData(name))
    written = tmp_path / ("out.tif" if name == "tiff" else "out.ome.zarr")
    dock.ask_save = lambda *_: written
    dock.export.click()
    wait(lambda: dock.status.text().startswith("Wrote"))
    labels, metadata = open_labels(written)
    assert labels.shape == (5, 40, 50)
    assert metadata.names == "zyx"
    assert metadata.scale == pytest.approx((2, 0.25, 0.25))
    assert metadata.units == ("micrometer",) * 3
    dock.close()


def test_a_project_shows_the_pixel_size_again(
    cells: Path, tmp_path: Path, opened: Callable
) -> None:
    from napari_peftsam.app.app import App

    with App(tmp_path / "a.peftsam") as app:
        app.add_image(cells)
    viewer = opened(tmp_path / "a.peftsam")
    wait(lambda: "cells" in viewer.layers)
    layer = viewer.layers["cells"]
    assert layer.scale.tolist() == [2, 0.25, 0.25]
    assert [str(unit) for unit in layer.units] == ["micrometer"] * 3


def test_a_script_without_an_event_loop_ends_cleanly(cells: Path) -> None:
    script = (
        "import sys; from napari_peftsam.widgets.launch import open_viewer; "
        "open_viewer([sys.argv[1]], block=False).close()"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(cells)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr


# --- files that come in later ---------------------------------------------------------


def test_the_dock_asks_for_channels(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    path = tmp_path / "x.ome.tif"
    pixels = noise(2, 40, 50)
    details = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=details)
    b = bench()
    files, asked = b.dock.project.files, []
    files.ask_files = lambda *_: (path,)

    def answer(_parent: object, _title: str, question: str, *fields: Any) -> tuple[str, str]:
        asked.append((question, fields[1][1:3]))
        return "", "GFP"

    files.ask_texts = answer
    files.add_images()
    wait(lambda: "x" in b.viewer.layers)
    assert asked == [("x.ome.tif: holds 2 channels (0 DAPI, 1 GFP).", ("DAPI", ("DAPI", "GFP")))]
    np.testing.assert_array_equal(b.viewer.layers["x"].data, pixels[1])
    wait(lambda: b.document.images)
    [image] = b.document.images.values()
    assert image.info.metadata.read_with.channels == "GFP"
    labels = np.zeros((40, 50), np.int32)
    labels[4:9, 4:9] = 1
    b.document.do(ImportLabels(image.id, labels))

    # Another choice later: objects stay, the layer's settings too, and the project knows it.
    b.viewer.layers["x"].gamma = 0.5
    files.ask_texts = lambda *_: ("", "DAPI")
    files.read_again()
    wait(lambda: np.array_equal(b.viewer.layers["x"].data, pixels[0]))
    assert b.viewer.layers["x"].gamma == 0.5
    np.testing.assert_array_equal(b.layers.objects.data, labels)
    files.ask_texts = lambda *_: ("", "DAPI,GFP")
    files.read_again()
    wait(lambda: b.viewer.layers["x"].rgb)
    assert b.viewer.layers["x"].data.shape == (40, 50, 3)
    assert b.layers.image is b.viewer.layers["x"]
    [image] = b.document.images.values()
    assert image.info.metadata.read_with.channels == "DAPI,GFP"
    np.testing.assert_array_equal(b.layers.objects.data, labels)
    wait(lambda: image.info.source is not None and image.info.source.path)


def test_the_dialog_can_be_left(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    tifffile.imwrite(tmp_path / "x.tif", noise(3, 40, 50), photometric="minisblack", metadata=None)
    b, asked = bench(), []
    b.dock.project.files.ask_texts = lambda *given: asked.append(given)
    b.owner.imports.open_images([tmp_path / "x.tif"])
    wait(lambda: asked)
    assert list(b.document.images) == []


def drop(dock: Any, *paths: Path) -> None:
    """Let go of files above a dock."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    place = QPointF(10, 10)
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    for kind, at in ((QDragEnterEvent, place.toPoint()), (QDropEvent, place)):
        event = kind(at, Qt.DropAction.CopyAction, data, left, none)
        QApplication.sendEvent(dock, event)
        assert event.isAccepted()


def test_dropped_labels_are_imported(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    b = bench(noise(40, 50))
    drop(b.dock, export_labels(squares(), tmp_path / "objects.geojson"))
    (image,) = b.document.images.values()
    wait(lambda: len(image.records) == 2)
    np.testing.assert_array_equal(image.labels > 0, squares() > 0)


@pytest.mark.parametrize(("answer", "layers", "objects"), [(0, 1, 0), (1, 0, 2), (None, 0, 0)],
                         ids=["an image", "labels", "neither"])  # fmt: skip
def test_a_dropped_image_may_be_labels(
    tmp_path: Path, bench: Callable[..., Bench], answer: int | None, layers: int, objects: int
) -> None:
    b = bench(noise(40, 50))
    (image,) = b.document.images.values()
    asked = []

    def ask(_parent: object, _title: str, question: str, choices: tuple[str, ...]) -> int | None:
        asked.append((question, choices))
        return answer

    b.dock.project.files.ask_one = ask
    drop(b.dock, export_labels(squares(), tmp_path / "other.tif"))
    wait(lambda: asked)
    assert asked == [("What is other.tif?", ("An image", "Labels of image0"))]
    wait(lambda: len(image.records) == objects and ("other" in b.viewer.layers) == bool(layers))


def test_several_dropped_files_all_arrive(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    b = bench()
    tifffile.imwrite(tmp_path / "x.tif", noise(40, 50))
    first = np.where(squares() == 5, 5, 0)
    second = np.where(squares() == 9, 9, 0)
    labels = [
        export_labels(first, tmp_path / "first.geojson"),
        export_labels(second, tmp_path / "second.zip"),
    ]
    drop(b.dock, *labels, tmp_path / "x.tif")
    wait(lambda: b.document.images)
    (image,) = b.document.images.values()
    wait(lambda: len(image.records) == 2)
    np.testing.assert_array_equal(image.labels > 0, squares() > 0)


def test_pieces_are_asked_about(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", (squares() > 0).astype(np.uint8))
    b = bench(noise(40, 50))
    files = b.dock.project.files
    files.ask_open = lambda *_: tmp_path / "mask.tif"
    files.ask_one = lambda *_: 0
    files.import_labels()
    (image,) = b.document.images.values()
    wait(lambda: len(image.records) == 2)


def test_selected_objects_are_refined(bench: Callable[..., Bench]) -> None:
    b = bench(noise(40, 50))
    (image,) = b.document.images.values()
    [refine, *_] = b.view.correct.menu.actions()
    b.document.do(ImportLabels(image.id, squares()))
    b.view.table.select(5)
    refine.trigger()
    wait(lambda: not b.owner.projects.progress)
    sources = {record.label: record.source for record in image.records.values()}
    assert sources[9] == "imported"
    assert b.document.undo_label == "refine objects"


def test_what_is_read_can_be_stopped(tmp_path: Path, bench: Callable[..., Bench]) -> None:
    b = bench(noise(40, 50))
    (image,) = b.document.images.values()
    path = export_labels(squares(), tmp_path / "objects.tif")
    b.owner.imports.import_labels(image.id, path)
    menu = b.dock.project
    assert menu.note.text() == "◌ Importing objects.tif…"
    assert menu.stop.isVisibleTo(menu)
    menu.stop.click()
    settle()
    assert not menu.stop.isVisibleTo(menu)
    assert image.records == {}
    b.owner.imports.import_labels(image.id, path)  # and again, to its end
    wait(lambda: len(image.records) == 2)


def annotate(viewer: napari.Viewer) -> None:
    """Give the image `cells` an object of 160 pixels in its first plane."""
    session = session_of(viewer)
    session.layers.select_image(viewer.layers["cells"])
    (image,) = session.document.images.values()
    labels = np.zeros(image.shape, np.int32)
    labels[0, 5:15, 5:21] = 1
    session.document.do(ImportLabels(image.id, labels))


def test_the_table_shows_areas_in_units(cells: Path, opened: Callable) -> None:
    viewer = opened(cells)
    annotate(viewer)
    dock = next(d for d in viewer.window.dock_widgets.values() if isinstance(d, AnnotateDock))
    table = dock.view.table.objects
    area = table.index(0, 1)
    assert table.data(area) == "10.0 µm²"
    assert table.data(area, Qt.ItemDataRole.ToolTipRole) == "160 pixels"


def test_files_of_microscopes_are_dropped_on_the_canvas(
    tmp_path: Path, bench: Callable[..., Bench]
) -> None:
    b = bench(noise(40, 50))
    (image,) = b.document.images.values()
    path = export_labels(squares(), tmp_path / "objects.zip")
    reader = labels_reader([str(path)])
    assert reader is not None
    assert reader([str(path)]) == [(None,)]
    wait(lambda: len(image.records) == 2)
    with ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("read me", "no ROI")
    assert labels_reader(str(tmp_path / "other.zip")) is None


def test_planes_that_may_be_channels_are_pointed_out(
    tmp_path: Path, bench: Callable[..., Bench]
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(3, 40, 50), photometric="minisblack", metadata=None)
    b = bench()
    (layer,) = b.viewer.open(path, plugin="napari")
    b.layers.select_image(layer)
    assert "shown as a stack of 3 planes" in b.view.next_step.text()
    b.dock.project.files.ask_texts = lambda *_: ("CYX", "1")  # as it says
    b.dock.project.files.read_again()
    wait(lambda: b.layers.image is not None and b.layers.image.data.shape == (40, 50))
    np.testing.assert_array_equal(b.layers.image.data, tifffile.imread(path)[1])


def test_exports_begin_beside_the_image(cells: Path, opened: Callable) -> None:
    viewer = opened(cells)
    annotate(viewer)
    dock, asked = ExportDock(viewer), []
    dock.ask_save = lambda *given: asked.append(given[2])
    dock.ask_folder = lambda *given: asked.append(given[2])
    dock.export.click()
    dock.export_all.click()
    assert asked == [str(cells.with_name("cells-objects.tif")), cells.parent]
