"""The project of a viewer without a viewer, with work that runs inline."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.app.project_controller import ProjectController
from napari_peftsam.app.runner import InlineRunner
from napari_peftsam.document import Document, ImageId, ImportLabels, create_project

PIXELS = np.arange(400, dtype=np.float32).reshape(20, 20)


@dataclass(eq=False)
class Desk:
    """A document, and the images that a viewer would show."""

    document: Document = field(default_factory=Document)
    shown: list[tuple[str, bool]] = field(default_factory=list)

    def show_image(self, image: ImageId, *, first: bool) -> None:
        self.shown.append((image, first))

    def file_of(self, image: ImageId) -> Path | None:
        return None

    def restore_model(self) -> None:
        pass


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("NAPARI_PEFTSAM_CONFIG", str(tmp_path / "configuration"))
    monkeypatch.setenv("NAPARI_PEFTSAM_PROJECTS", str(tmp_path / "projects"))
    return Desk()


def test_a_named_project_comes_back_with_its_images(desk: Desk, tmp_path: Path) -> None:
    projects = ProjectController(desk, InlineRunner())
    projects.events.pixels_wanted.connect(projects.autosave.keep_next)
    image = desk.document.add_image("cells", PIXELS)
    desk.document.do(ImportLabels(image, np.ones((20, 20), np.int32)))
    assert projects.is_automatic
    projects.save_as(tmp_path / "mine.peftsam")
    assert (projects.name, projects.progress) == ("mine", "")
    projects.close()
    assert desk.document.images == {}
    projects.open(tmp_path / "mine.peftsam")
    assert desk.shown == [("cells", True)]
    np.testing.assert_array_equal(desk.document.image(image).pixels, PIXELS)
    desk.document.store.close()


def test_an_image_without_pixels_is_missing(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "p.peftsam"
    other = Document(create_project(path))
    other.add_image("cells", PIXELS)  # they are never saved
    other.store.close()
    projects, warned = ProjectController(desk, InlineRunner()), []
    projects.events.warned.connect(warned.append)
    projects.open(path)
    assert [image.name for image in projects.missing] == ["cells"]
    assert warned == ["cells: its pixels were never saved: locate a file that has them"]
    assert desk.shown == []
    desk.document.store.close()
