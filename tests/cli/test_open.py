"""``open`` and ``demo --gui``: a real viewer with images and docks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from napari_peftsam.errors import ConfigurationError, InputFileError
from napari_peftsam.projects import add_image, open_document
from napari_peftsam.samples import shipped_samples
from napari_peftsam.widgets.session import session_of
from tests.cli._cases import Inputs, Program
from tests.widgets._annotate_cases import wait

if TYPE_CHECKING:
    import napari
    from pytestqt.qtbot import QtBot

DOCKS = {"Annotate"}  # the others are its panels


@pytest.fixture
def opened(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[napari.Viewer]]:
    """Collect the viewers that are opened instead of waiting for the user to close them."""
    import napari
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    viewers: list[napari.Viewer] = []
    monkeypatch.setattr(napari, "run", lambda: viewers.append(napari.current_viewer()))
    yield viewers
    for viewer in viewers:
        viewer.close()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()


def images(viewer: napari.Viewer) -> list[napari.layers.Image]:
    """Return the image layers, without those that the docks add."""
    import napari

    return [layer for layer in viewer.layers if isinstance(layer, napari.layers.Image)]


def queue(viewer: napari.Viewer) -> list[str]:
    """Return the names of the images that wait in the dock, the shown one included."""
    from napari_peftsam.widgets.session import session_of

    return [layer.name for layer in session_of(viewer).layers.image_layers]


def docks(viewer: napari.Viewer) -> set[str]:
    return {str(name).removesuffix(" (napari-peftsam)") for name in viewer.window.dock_widgets}


def test_open_shows_images_and_docks(
    opened: list[napari.Viewer], program: Program, shared: Inputs
) -> None:
    paths = [shared / "image.tif", shared / "images" / "a1.tif"]
    assert program("open", *paths).code == 0
    [viewer] = opened
    assert queue(viewer) == ["image", "a1"]
    assert [(layer.name, layer.visible) for layer in images(viewer)] == [("image", True)]
    assert docks(viewer) == DOCKS


def test_demo_with_gui_shows_the_sample(opened: list[napari.Viewer], program: Program) -> None:
    assert program("demo", "--gui").code == 0
    [viewer] = opened
    assert set(queue(viewer)) == {s.name for s in shipped_samples("train")}
    assert all(layer.rgb for layer in images(viewer))
    assert docks(viewer) == DOCKS


def test_a_missing_image_opens_no_viewer(
    opened: list[napari.Viewer], program: Program, shared: Inputs
) -> None:
    outcome = program("open", shared / "image.tif", shared / "nowhere.tif")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "nowhere.tif: no such file" in outcome.err
    assert opened == []


def test_open_shows_a_project_and_images(
    opened: list[napari.Viewer], program: Program, shared: Inputs, tmp_path: Path
) -> None:
    path = tmp_path / "cells.peftsam"
    document, _ = open_document(path)
    add_image(document, shared / "image.tif")
    document.store.close()
    assert program("open", path, shared / "images" / "a1.tif").code == 0
    [viewer] = opened
    document = session_of(viewer).document
    wait(lambda: document.store.path == path and session_of(viewer).layers.image is not None)
    assert set(queue(viewer)) == {"image", "a1"}
    # A file that was opened beside the project waits with its images.
    assert {image.name for image in document.images.values()} == {"image", "a1"}


@pytest.mark.parametrize("name", ["nowhere.peftsam", "image.peftsam"])
def test_a_project_that_cannot_be_read_opens_no_viewer(
    opened: list[napari.Viewer], program: Program, tmp_path: Path, name: str
) -> None:
    (tmp_path / "image.peftsam").write_bytes(b"no project" * 100)
    outcome = program("open", tmp_path / name)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert name in outcome.err
    assert opened == []


def test_an_unknown_sample_is_refused() -> None:
    from napari_peftsam.widgets.launch import open_viewer

    with pytest.raises(ConfigurationError, match="choose one of histology"):
        open_viewer(sample="cells")
    with pytest.raises(InputFileError):
        open_viewer(["nowhere.tif"])  # type: ignore[list-item]
