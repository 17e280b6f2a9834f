"""Files that come into a viewer, without a viewer: work runs inline, questions are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_peftsam.app.importing import ImportController, Undecided
from napari_peftsam.app.project_controller import ProjectController
from napari_peftsam.app.runner import InlineRunner
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import Document, ImageId, ImageSource, ImportLabels
from napari_peftsam.errors import ConfigurationError, ImageError
from napari_peftsam.files import ImageFile
from napari_peftsam.metadata import ReadOptions
from napari_peftsam.projects import add_image
from tests.training._world import CENTRES, make_plane


@dataclass(eq=False)
class Desk:
    """A document, and what a viewer would show and ask."""

    document: Document = field(default_factory=Document)
    workspace: Workspace | None = None
    shown: list[tuple[str, tuple[int, ...], bool]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.projects = ProjectController(self, InlineRunner())
        self.imports = ImportController(self, self.projects)
        events = self.projects.events
        events.undecided.connect(self.asked.append)
        events.pieces_found.connect(lambda *given: self.asked.append(given))
        events.informed.connect(self.said.append)
        events.failed.connect(self.failed.append)

    @property
    def has_model(self) -> bool:
        return self.workspace is not None

    def show_image(self, image: ImageId, *, first: bool) -> None:
        pass

    def show_file(self, path: Path, file: ImageFile, *, first: bool) -> None:
        self.shown.append((path.name, file.pixels.shape, first))

    def replace_image(self, image: ImageId, file: ImageFile, source: ImageSource) -> None:
        about = {"rgb": file.rgb, "metadata": file.metadata}
        self.document.replace_pixels(image, file.pixels, source, **about)

    def file_of(self, image: ImageId) -> Path | None:
        return None

    def restore_model(self) -> None:
        pass


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("NAPARI_PEFTSAM_CONFIG", str(tmp_path / "configuration"))
    monkeypatch.setenv("NAPARI_PEFTSAM_PROJECTS", str(tmp_path / "projects"))
    return Desk()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)


def channels(path: Path) -> Path:
    details = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(path, noise(2, 40, 50), photometric="minisblack", metadata=details)
    return path


# --- images -------------------------------------------------------------------------


def test_images_are_shown_one_by_one(desk: Desk, tmp_path: Path) -> None:
    for name in ("b.tif", "a.tif"):
        tifffile.imwrite(tmp_path / name, noise(20, 30))
    (tmp_path / "broken.tif").write_bytes(b"II*")
    desk.imports.open_images([tmp_path])
    assert desk.shown == [("a.tif", (20, 30), True), ("b.tif", (20, 30), False)]
    [error] = desk.failed
    assert "broken.tif" in str(error)
    assert desk.projects.progress == ""


def test_what_is_undecided_is_asked_once(desk: Desk, tmp_path: Path) -> None:
    first, second = channels(tmp_path / "a.ome.tif"), channels(tmp_path / "b.ome.tif")
    tifffile.imwrite(tmp_path / "c.tif", noise(20, 30))
    desk.imports.open_images([tmp_path])
    assert desk.shown == [("c.tif", (20, 30), True)]
    [asked] = desk.asked
    assert isinstance(asked, Undecided)
    assert asked.paths == (first, second)
    assert (asked.error.option, asked.error.answers) == ("channels", ("DAPI", "GFP"))
    assert asked.error.question == f"{first}: holds 2 channels (0 DAPI, 1 GFP)"
    desk.imports.open_images(asked.paths, ReadOptions(channels="GFP"))
    assert [name for name, *_ in desk.shown[1:]] == ["a.ome.tif", "b.ome.tif"]


def test_an_image_is_read_again_as_other_channels(desk: Desk, tmp_path: Path) -> None:
    path = channels(tmp_path / "a.ome.tif")
    both = tifffile.imread(path)
    image = add_image(desk.document, path, options=ReadOptions(channels="DAPI"))
    labels = np.zeros((40, 50), np.int32)
    labels[3:9, 3:9] = 1
    desk.document.do(ImportLabels(image, labels))
    desk.imports.read_again(image, path, ReadOptions(channels="GFP"))
    entry = desk.document.image(image)
    np.testing.assert_array_equal(entry.pixels, both[1])
    np.testing.assert_array_equal(entry.labels, labels)
    assert entry.info.metadata.read_with.channels == "GFP"
    desk.imports.read_again(image, path, ReadOptions(channels="0,1"))
    assert entry.rgb
    assert entry.pixels.shape == (40, 50, 3)
    desk.imports.read_again(image, path, ReadOptions())
    assert desk.asked[0].image == image
    desk.imports.read_again(image, path, ReadOptions(axes="ZYX"))
    [error] = desk.failed
    assert isinstance(error, ImageError)
    assert "2 x 40 x 50 pixels instead of 40 x 50" in str(error)
    assert entry.rgb


def test_an_image_without_objects_may_get_another_shape(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(3, 40, 50), photometric="minisblack", metadata=None)
    image = desk.document.add_image("x", noise(3, 40, 50))  # as napari read it
    desk.imports.read_again(image, path, ReadOptions(axes="CYX", channels="1"))
    assert desk.failed == []
    assert desk.shown == [("x.tif", (40, 50), True)]
    assert image not in desk.document.images


def test_an_impossible_answer_is_asked_again(desk: Desk, tmp_path: Path) -> None:
    path = channels(tmp_path / "a.ome.tif")
    for options in (ReadOptions(channels="RFP"), ReadOptions(axes="YX")):
        desk.imports.open_images([path], options)
    assert [asked.error.option for asked in desk.asked] == ["channels", "axes"]
    assert "'RFP' is none of its channels (0 DAPI, 1 GFP)" in desk.asked[0].error.question
    assert desk.failed == []


def test_what_comes_meanwhile_waits_for_its_turn(desk: Desk, tmp_path: Path) -> None:
    done: list[str] = []

    def work() -> Iterator[None]:
        for name in ("second", "third"):
            desk.projects.when_free(lambda name=name: done.append(name))
        assert done == []
        yield

    desk.projects.work("First…", work(), lambda _: done.append("first"))
    assert done == ["first", "second", "third"]


# --- objects ------------------------------------------------------------------------


def test_pieces_with_one_number_are_asked_about(desk: Desk, tmp_path: Path) -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[3:9, 3:9] = mask[20:30, 20:30] = 255
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    image = desk.document.add_image("cells", noise(40, 50))
    desk.imports.import_labels(image, tmp_path / "mask.tif")
    assert desk.document.records(image) == ()
    [(asked, path, problem)] = desk.asked
    assert (asked, path) == (image, tmp_path / "mask.tif")
    assert problem.startswith("all 2 separate pieces have the number 255")
    desk.imports.import_labels(image, path, number_pieces=True)
    assert len(desk.document.records(image)) == 2
    assert desk.said == ["2 objects imported from mask.tif"]


@pytest.fixture
def working(desk: Desk, checkpoint: Path) -> Desk:
    desk.workspace = Workspace(desk.document)
    desk.workspace.load_model(checkpoint, "cpu")
    return desk


def test_centres_become_objects(working: Desk, tmp_path: Path) -> None:
    image = working.document.add_image("discs", make_plane("discs").pixels)
    table = tmp_path / "centres.csv"
    table.write_text("row,col\n" + "".join(f"{row},{col}\n" for row, col in CENTRES[:2]))
    working.imports.import_labels(image, table)
    objects = len(working.document.records(image))
    assert objects > 0
    assert working.said[0].startswith(f"{objects} object")


def test_objects_are_refined(working: Desk) -> None:
    image = working.document.add_image("discs", make_plane("discs").pixels)
    working.document.do(ImportLabels(image, make_plane("discs").labels))
    working.imports.refine(image, (1, 2))
    sources = {r.label: r.source for r in working.document.records(image)}
    assert {label for label, source in sources.items() if source == "box"} <= {1, 2}
    assert "refined" in working.said[0]


def test_without_a_model_nothing_is_predicted(desk: Desk) -> None:
    image = desk.document.add_image("discs", make_plane("discs").pixels)
    with pytest.raises(ConfigurationError, match="no model is loaded yet"):
        desk.imports.refine(image)
