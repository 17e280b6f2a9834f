"""What is annotated in a viewer is in a file, and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QMenu

from napari_peftsam.document import (
    Document,
    ImportLabels,
    Store,
    create_automatic,
    create_project,
    list_automatic,
    open_project,
    save_copy,
)
from napari_peftsam.training import TrainingConfig
from napari_peftsam.widgets.contributions import project_reader
from tests.document._project_cases import blobs_of, check_project
from tests.training._world import finish, judged
from tests.widgets._annotate_cases import SHAPE, Bench, blobs, settle, wait
from tests.workspace._steps import training

Open = Callable[..., Bench]


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Collect the notifications of this test."""
    texts: list[str] = []

    def note(event: Any) -> None:
        texts.append(str(event.message))

    notification_manager.notification_ready.connect(note)
    yield texts
    notification_manager.notification_ready.disconnect(note)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return an image file."""
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, blobs())
    return path


def layers(viewer: napari.Viewer, kind: type[Any] = Image) -> list[str]:
    return [layer.name for layer in viewer.layers if isinstance(layer, kind)]


def squares(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return labels of two objects."""
    labels = np.zeros(shape, np.int32)
    labels[..., 2:10, 2:10], labels[..., 20:30, 20:30] = 1, 2
    return labels


def annotate(b: Bench, labels: np.ndarray | None = None) -> None:
    """Put two objects into the shown image."""
    b.document.do(ImportLabels(b.layers.image_id, squares() if labels is None else labels))


def saved(b: Bench) -> bool:
    """Whether nothing is left to save: pixels are stored in workers."""
    document = b.document
    sources = [image.info.source is not None for image in document.images.values()]
    return document.store.path is not None and all(sources)


def loaded(b: Bench) -> bool:
    """Whether all images of an opened project are in the viewer, and its model answers."""
    images = [b.layers.layer_of(image) for image in b.document.images]
    return bool(images) and None not in images and not b.owner.projects.progress


def go_on(b: Bench) -> None:
    wait(lambda: b.owner.projects.offered is not None)
    b.view.project.go_on.click()
    wait(lambda: loaded(b))


def open_path(b: Bench, path: Path) -> None:
    b.owner.projects.open(path)
    wait(lambda: b.document.store.path == path and loaded(b))


def project(path: Path, image: Path, labels: np.ndarray | None = None) -> Path:
    """Write a project with one image file and its objects."""
    from napari_peftsam.projects import add_image, open_document

    document, _ = open_document(path)
    added = add_image(document, image)
    if labels is not None:
        document.do(ImportLabels(added, labels))
    document.store.close()
    return path


def close(b: Bench, how: str = "viewer") -> None:
    if how == "viewer":
        b.viewer.close()
    else:
        b.dock.window().close()  # what the button of the window does
    wait(lambda: b.owner.is_closed)


# --- the automatic project ------------------------------------------------------------


def test_the_first_prompt_begins_a_project(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    assert b.document.store.path is None
    assert b.view.project.name.text() == "saved with the first prompt"
    b.click(20, 30)
    wait(lambda: saved(b))
    assert b.view.project.saved.text().startswith("saved ")
    [kept] = list_automatic()
    assert kept.path == b.document.store.path
    assert (kept.images, kept.is_open) == (("image0",), True)


def test_looking_at_an_image_leaves_no_project(bench: Open) -> None:
    b = bench(blobs())
    close(b)
    assert list_automatic() == []


@pytest.mark.parametrize("how", ["viewer", "window"])
def test_closing_loses_nothing(bench: Open, how: str) -> None:
    b = bench(blobs())
    label = b.segment(20, 30)
    b.click(30, 40, "Control")
    labels = b.document.image("image0").labels.copy()
    steps, queue = b.document.steps, b.document.queue
    close(b, how)
    [kept] = list_automatic()
    assert (kept.objects, kept.is_open, kept.is_interrupted) == (1, False, False)
    store = open_project(kept.path, read_only=True)
    kinds = [action.kind for action in store.actions()]
    store.close()
    assert not {"RemoveImage", "Undo", "Discard"} & set(kinds)

    again = bench(ready=False)
    wait(lambda: again.owner.projects.offered is not None)
    assert "Go on with image0" in again.view.project.go_on.text()
    assert "1 object)" in again.view.project.go_on.text()
    go_on(again)
    assert layers(again.viewer) == ["image0"]
    np.testing.assert_array_equal(again.viewer.layers["image0"].data, blobs())
    np.testing.assert_array_equal(again.layers.objects.data, labels)
    assert again.document.queue == queue
    assert again.document.steps == steps
    assert len(again.prompts.points.data) == 1
    assert again.answered().any()
    again.press("Enter")
    assert [r.label for r in again.document.records("image0")] == [label, label + 1]


def test_closing_a_dock_removes_nothing(bench: Open) -> None:
    b = bench(blobs())
    b.segment(20, 30)
    b.click(30, 40, "Control")
    steps = b.document.steps
    b.viewer.window.remove_dock_widget(b.dock)
    settle()
    assert b.document.steps == steps
    assert layers(b.viewer) == ["image0"]
    assert b.document.queue


def test_an_image_file_is_referred_to(bench: Open, file: Path) -> None:
    b = bench(ready=False)
    b.viewer.open(file, plugin="napari")
    wait(lambda: b.layers.image is not None)
    annotate(b)
    wait(lambda: saved(b))
    source = b.document.image("cells").info.source
    assert Path(source.absolute) == file
    assert blobs_of(b.document.store) == []
    close(b)
    again = bench(ready=False)
    go_on(again)
    np.testing.assert_array_equal(again.viewer.layers["cells"].data, blobs())


def test_pixels_that_differ_from_the_file_are_stored(bench: Open, file: Path) -> None:
    b = bench(ready=False)
    [layer] = b.viewer.open(file, plugin="napari")
    layer.data = blobs(seed=4)
    wait(lambda: b.layers.image is not None)
    annotate(b)
    wait(lambda: saved(b))
    assert b.document.image("cells").info.source.path == ""
    close(b)
    again = bench(ready=False)
    go_on(again)
    np.testing.assert_array_equal(again.viewer.layers["cells"].data, blobs(seed=4))


def test_a_very_large_array_is_told_of_once(
    bench: Open, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_peftsam.document.sources._MOST_BYTES", 1000)
    b = bench(blobs(), ready=False)
    b.click(20, 30)
    wait(lambda: any("save it as a file first" in text for text in told))
    b.click(22, 30)
    settle()
    assert sum("save it as a file first" in text for text in told) == 1
    assert len(b.document.current.prompts.points) == 2


def test_two_viewers_have_two_projects(bench: Open) -> None:
    paths = []
    for seed in (0, 1):
        b = bench(blobs(seed=seed), ready=False)
        annotate(b)
        wait(lambda b=b: saved(b))
        paths.append(b.document.store.path)
    assert len(set(paths)) == 2


def test_a_killed_viewer_is_gone_on_with(
    bench: Open, file: Path, tiny_checkpoint: Path, told: list[str]
) -> None:
    command = [sys.executable, "-m", "tests.widgets._killed_viewer", tiny_checkpoint, file]
    child = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with child:
        assert child.stdout is not None
        words = next(line.split() for line in child.stdout if line.startswith("acknowledged"))
        child.send_signal(signal.SIGKILL)
    b = bench(ready=False)
    wait(lambda: b.owner.projects.offered is not None)
    assert b.owner.projects.offered.is_interrupted
    go_on(b)
    assert [r.label for r in b.document.records("cells")] == [int(words[1])]
    assert len(b.document.steps) == int(words[2])
    assert len(b.document.queue) == 1
    assert check_project(b.document.store) == []
    assert b.answered().any()


def test_the_adapter_comes_back(bench: Open) -> None:
    b = bench(blobs())
    annotate(b, np.kron(np.arange(12).reshape(3, 4), np.ones((16, 15))).astype(np.int32))
    wait(lambda: saved(b))
    workspace = b.owner.require()
    config = TrainingConfig(steps=1, learning_rate=1e-2)
    _, finished = finish(training(workspace, config))
    entry = workspace.promote(replace(finished, verdict=judged(0.0, 0.5)))
    workspace.activate(entry.name, 0.5)
    close(b)
    again = bench(ready=False)
    go_on(again)
    wait(lambda: again.owner.has_model and again.owner.workspace.live.name == "v1")
    assert again.owner.workspace.live.strength == 0.5
    wait(lambda: again.owner.source == b.document.live.model)
    assert len(again.document.runs) == 1


# --- projects of one's own ------------------------------------------------------------


def test_saving_under_a_name_goes_on_there(bench: Open, tmp_path: Path) -> None:
    b = bench(blobs(), ready=False)
    annotate(b)
    wait(lambda: saved(b))
    path = tmp_path / "mine.peftsam"
    b.dock.project.ask_save = lambda *_: path
    b.dock.project.save_as()
    wait(lambda: b.document.store.path == path)
    assert b.view.project.name.text() == "mine"
    assert layers(b.viewer) == ["image0"]
    b.click(20, 30)
    assert b.document.undo_label == "add point"
    wait(lambda: list_automatic() == [])
    close(b)
    store = open_project(path)
    assert store.step_labels() == ("import labels", "add point")
    store.close()


def test_with_images_a_copy_needs_no_other_file(bench: Open, file: Path, tmp_path: Path) -> None:
    b = bench(ready=False)
    b.viewer.open(file, plugin="napari")
    wait(lambda: b.layers.image is not None)
    annotate(b)
    wait(lambda: saved(b))
    path = tmp_path / "mailed.peftsam"
    b.owner.projects.save_as(path, with_images=True)
    wait(lambda: b.document.store.path == path)
    close(b)
    file.unlink()
    again = bench(ready=False)
    open_path(again, path)
    np.testing.assert_array_equal(again.viewer.layers["cells"].data, blobs())


def test_opening_over_another_project_replaces_it(bench: Open, file: Path, tmp_path: Path) -> None:
    other = project(tmp_path / "other.peftsam", file, squares())
    b = bench(blobs((30, 40)), ready=False)
    b.click(20, 30)
    wait(lambda: saved(b))
    first = b.document.store.path
    open_path(b, other)
    assert layers(b.viewer) == ["cells"]
    assert b.view.project.name.text() == "other"
    assert b.view.table.objects.rowCount() == 2
    np.testing.assert_array_equal(b.layers.objects.data, squares())
    assert b.document.queue == ()
    assert len(b.prompts.points.data) == 0
    open_path(b, first)
    assert layers(b.viewer) == ["image0"]
    assert len(b.document.queue) == 1
    assert "RemoveImage" not in [action.kind for action in b.document.store.actions()]
    wait(lambda: other in b.owner.projects.recent)


def test_new_and_close(bench: Open, tmp_path: Path) -> None:
    b = bench(blobs(), ready=False)
    annotate(b)
    wait(lambda: saved(b))
    b.owner.projects.close()
    assert layers(b.viewer) == []
    assert b.document.images == {}
    assert b.document.store.path is None
    assert "Open an image" in b.view.next_step.text()
    b.owner.projects.create(tmp_path / "new.peftsam")
    wait(lambda: b.view.project.name.text() == "new")
    b.viewer.add_image(blobs(seed=2), name="another")
    wait(lambda: b.layers.image is not None)
    b.click(20, 30)
    assert b.document.undo_label == "add point"
    assert b.document.store.path.name == "new.peftsam"


def test_images_without_work_stay_when_a_project_is_opened(
    bench: Open, file: Path, tmp_path: Path
) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    b = bench(blobs(seed=1), ready=False)
    b.viewer.add_image(blobs(), name="cells")
    open_path(b, path)
    assert sorted(layers(b.viewer)) == ["cells", "image0"]  # that of the project was there
    assert b.layers.image is b.viewer.layers["cells"]
    assert list(b.document.images) == ["cells"]


def test_several_images_come_one_after_the_other(bench: Open, tmp_path: Path) -> None:
    from napari_peftsam.projects import add_image, open_document

    path = tmp_path / "many.peftsam"
    document, _ = open_document(path)
    for seed in range(3):
        add_image(document, blobs(seed=seed), f"i{seed}")
    document.store.close()
    b = bench(ready=False)
    open_path(b, path)
    assert layers(b.viewer) == ["i0"]  # the others are in the queue
    assert [each.name for each in b.layers.image_layers] == ["i0", "i1", "i2"]
    visible = [each.name for each in b.layers.image_layers if each.visible]
    assert visible == ["i0"]
    assert b.layers.image.name == "i0"


@pytest.mark.parametrize("kind", ["newer", "other program", "no database", "empty"])
def test_a_file_that_is_no_project_leaves_the_present_one(
    bench: Open, tmp_path: Path, told: list[str], kind: str
) -> None:
    import sqlite3

    path = tmp_path / "bad.peftsam"
    if kind in ("newer", "other program"):
        create_project(path).close()
        pragma = "user_version = 99" if kind == "newer" else "application_id = 7"
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA {pragma}")
        connection.close()
    else:
        path.write_bytes(b"" if kind == "empty" else b"no project at all" * 99)
    b = bench(blobs(), ready=False)
    annotate(b)
    wait(lambda: saved(b))
    before = b.document.store.path
    b.owner.projects.open(path)
    wait(lambda: any("bad.peftsam" in text for text in told))
    assert b.document.store.path == before
    assert layers(b.viewer) == ["image0"]
    assert b.owner.projects.progress == ""
    b.click(20, 30)
    assert b.document.undo_label == "add point"


# --- images ---------------------------------------------------------------------------


def test_a_missing_image_is_told_of_and_located(
    bench: Open, file: Path, tmp_path: Path, told: list[str]
) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    (tmp_path / "away").mkdir()
    moved = file.rename(tmp_path / "away" / "renamed.tif")
    b = bench(ready=False)
    b.owner.projects.open(path)
    wait(lambda: any("locate it" in text for text in told))
    assert "Not found: cells" in b.view.project.note.text()
    assert layers(b.viewer) == []
    assert len(b.document.records("cells")) == 2
    b.dock.project.ask_open = lambda *_: moved
    [missing] = b.owner.projects.missing
    b.dock.project.locate(missing)
    wait(lambda: loaded(b))
    assert b.view.project.note.text() == ""
    np.testing.assert_array_equal(b.layers.objects.data, squares())
    close(b)
    again = bench(ready=False)
    open_path(again, path)
    assert layers(again.viewer) == ["cells"]


@pytest.mark.parametrize("what", ["pixels", "shape", "damaged"])
def test_changed_images_are_told_of(
    bench: Open, file: Path, tmp_path: Path, told: list[str], what: str
) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    if what == "damaged":
        file.write_bytes(b"II*\0damaged")
    else:
        tifffile.imwrite(file, blobs(seed=9) if what == "pixels" else blobs((20, 20)))
    b = bench(ready=False)
    b.owner.projects.open(path)
    wait(lambda: any("cells" in text for text in told))
    wait(lambda: not b.owner.projects.progress)
    assert len(b.document.records("cells")) == 2
    assert layers(b.viewer) == (["cells"] if what == "pixels" else [])
    assert bool(b.view.project.note.text()) == (what != "pixels")


def test_removing_an_image_is_undone_after_reopening(bench: Open, file: Path) -> None:
    b = bench(ready=False)
    b.viewer.open(file, plugin="napari")
    wait(lambda: b.layers.image is not None)
    annotate(b)
    b.click(40, 50)
    wait(lambda: saved(b))
    b.viewer.layers["cells"].name = "my cells"
    b.viewer.layers.remove("my cells")
    settle()
    assert b.document.images == {}
    close(b)
    again = bench(ready=False)
    wait(lambda: again.owner.projects.offered is not None)
    again.view.project.go_on.click()
    wait(lambda: again.document.undo_label is not None)
    again.view.undo.click()
    wait(lambda: loaded(again))
    assert layers(again.viewer) == ["my cells"]
    np.testing.assert_array_equal(again.layers.objects.data, squares())
    wait(lambda: len(again.prompts.points.data) == 1)
    again.view.redo.click()
    wait(lambda: layers(again.viewer) == [])


def test_an_image_of_a_reopened_project_is_removed_and_comes_back(
    bench: Open, file: Path, tmp_path: Path
) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    b = bench(ready=False)
    open_path(b, path)
    b.viewer.layers.remove("cells")
    settle()
    assert b.document.images == {}
    b.view.undo.click()
    assert layers(b.viewer) == ["cells"]
    np.testing.assert_array_equal(b.layers.objects.data, squares())
    for _ in range(3):
        b.view.undo.click()
    assert layers(b.viewer) == ["cells"]  # undo never closes an image


# --- what cannot be written -----------------------------------------------------------


def paint(b: Bench) -> None:
    objects = b.layers.objects
    b.viewer.layers.selection.active = objects
    objects.mode, objects.selected_label, objects.brush_size = "paint", 1, 6
    b.drag((40, 40), (44, 50))


def test_a_project_that_is_open_elsewhere_is_read_only(
    bench: Open, file: Path, tmp_path: Path, told: list[str]
) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    elsewhere = open_project(path)
    b = bench(ready=False)
    open_path(b, path)
    assert f"process {os.getpid()}" in b.view.project.note.text()
    assert b.view.project.saved.text() == "read-only"
    b.click(20, 30)
    assert b.document.current is None
    assert len(b.prompts.points.data) == 0
    paint(b)
    np.testing.assert_array_equal(b.layers.objects.data, squares())
    assert sum("can only be read" in text for text in told) == 2  # on opening, and once more
    assert "can only be read" in b.view.next_step.text()
    b.owner.projects.save_as(tmp_path / "mine.peftsam")
    wait(lambda: b.view.project.name.text() == "mine" and loaded(b))
    paint(b)
    assert (b.layers.objects.data != squares()).any()
    assert b.document.undo_label == "paint"
    elsewhere.close()


def test_a_folder_that_vanishes_costs_one_action(
    bench: Open, file: Path, tmp_path: Path, told: list[str]
) -> None:
    (tmp_path / "disk").mkdir()
    path = project(tmp_path / "disk" / "p.peftsam", file, squares())
    b = bench(ready=False)
    open_path(b, path)
    (tmp_path / "disk").rename(tmp_path / "gone")
    for _ in range(2):
        paint(b)
        b.press("Q")
        b.click(20, 30)
    np.testing.assert_array_equal(b.layers.objects.data, squares())
    assert b.document.current is None
    assert sum("no longer there" in text for text in told) == 1
    (tmp_path / "gone").rename(tmp_path / "disk")
    paint(b)
    assert b.document.undo_label == "paint"


def test_a_slow_disk_is_told_of_once(
    bench: Open, file: Path, tmp_path: Path, told: list[str]
) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    b = bench(ready=False)
    open_path(b, path)
    b.document.store.slow_seconds = 0
    for col in range(10, 40, 3):
        b.click(20, col)
    assert sum("is slow" in text for text in told) == 1


# --- other ways in --------------------------------------------------------------------


def test_naparis_open_shows_a_project(bench: Open, file: Path, tmp_path: Path) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    b = bench(ready=False)
    assert b.viewer.open(path, plugin="napari-peftsam") == []
    wait(lambda: b.document.store.path == path and loaded(b))
    assert layers(b.viewer) == ["cells"]


def test_the_reader_opens_the_dock_and_returns_no_layers(
    make_napari_viewer: Callable[..., napari.Viewer], file: Path, tmp_path: Path
) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    viewer = make_napari_viewer()
    read = project_reader(str(path))
    assert read is not None
    assert read(str(path)) == [(None,)]
    wait(lambda: layers(viewer) == ["cells"] and "objects (cells)" in layers(viewer, Labels))
    assert any("Annotate" in name for name in viewer.window.dock_widgets)
    assert project_reader(str(file)) is None
    assert project_reader([str(path), str(path)]) is None


def test_a_colleagues_objects_are_imported(
    bench: Open, file: Path, tmp_path: Path, told: list[str]
) -> None:
    theirs = np.zeros(SHAPE, np.int32)
    theirs[5:12, 5:12], theirs[40:45, 50:58], theirs[21:25, 21:25] = 1, 2, 3
    colleague = project(tmp_path / "colleague.peftsam", file, theirs)
    tifffile.imwrite(tmp_path / "unknown.tif", blobs((20, 20)))
    project(colleague, tmp_path / "unknown.tif")
    path = project(tmp_path / "p.peftsam", file, squares())
    b = bench(ready=False)
    open_path(b, path)
    b.dock.project.files.ask_open = lambda *_: colleague
    b.dock.project.files.import_project()
    wait(lambda: any("imported" in text for text in told))
    labels = b.layers.objects.data
    assert [r.label for r in b.document.records("cells")] == [1, 2, 3, 4]
    np.testing.assert_array_equal(labels[squares() > 0], squares()[squares() > 0])
    assert labels[11, 11] == 3
    assert labels[42, 55] == 4
    assert labels[22, 22] == 2
    assert "unknown" in told[-1]
    assert "1 are covered" in told[-1]
    b.view.undo.click()
    np.testing.assert_array_equal(b.layers.objects.data, squares())


def entries(menu: QMenu) -> dict[str, Any]:
    menu.aboutToShow.emit()
    return {action.text(): action for action in menu.actions() if action.text()}


def test_the_menu_lists_recent_projects(bench: Open, file: Path, tmp_path: Path) -> None:
    paths = [project(tmp_path / f"p{i}.peftsam", file, squares()) for i in range(3)]
    b = bench(ready=False)
    for path in paths:
        open_path(b, path)
    paths[0].unlink()
    wait(lambda: len(b.owner.projects.recent) == 3)
    menu = entries(b.view.project.menu)
    assert list(menu) == [
        "New…", "Open…", "Go on with", "Recent projects", "Delete", "Save project as…",
        "Save with images…", "Import project…", "Add images…", "Import labels…",
        "Axes and channels…", "Locate image", "Close project",
    ]  # fmt: skip
    recent = {a.text(): a for a in menu["Recent projects"].menu().actions()}
    assert {text: action.isEnabled() for text, action in recent.items()} == {
        "p1": True, "p0": False,
    }  # fmt: skip
    recent["p1"].trigger()
    wait(lambda: b.document.store.path == paths[1] and loaded(b))
    assert not menu["Go on with"].isEnabled()


@pytest.mark.parametrize("sure", [True, False])
def test_a_project_without_a_name_is_deleted_if_the_user_is_sure(
    bench: Open, project_folder: Path, sure: bool
) -> None:
    store = create_automatic()
    Document(store).add_image("old", squares())
    store.close()
    b = bench(ready=False)
    b.dock.project.ask_yes = lambda *_: sure

    def listed() -> dict[str, Any]:
        menu = entries(b.view.project.menu)["Delete"].menu()
        return {action.text(): action for action in menu.actions()}

    wait(listed)
    [action] = listed().values()
    action.trigger()
    if sure:
        wait(lambda: not listed())
    assert bool(listed()) is not sure
    assert store.path is not None
    assert store.path.exists() is not sure


def test_a_copy_that_is_replaced_is_whole(bench: Open, file: Path, tmp_path: Path) -> None:
    path = project(tmp_path / "p.peftsam", file, squares())
    copy = shutil.copy(path, tmp_path / "copy.peftsam")
    memory = Store.in_memory()
    save_copy(memory, copy)
    b = bench(ready=False)
    open_path(b, path)
    b.owner.projects.save_as(Path(copy))
    wait(lambda: b.document.store.path == Path(copy))
    assert len(b.document.records("cells")) == 2


@pytest.fixture
def unsaved(bench: Open, told: list[str], project_folder: Path) -> Bench:
    """Return a viewer with objects that found no folder to save them in."""
    project_folder.write_text("in the way")
    b = bench(blobs())
    annotate(b)
    wait(lambda: told)
    return b


def test_a_project_that_cannot_be_saved_is_not_replaced(
    unsaved: Bench, told: list[str], tmp_path: Path
) -> None:
    create_project(tmp_path / "other.peftsam").close()
    unsaved.owner.projects.open(tmp_path / "other.peftsam")
    wait(lambda: any("save it under a name first" in text for text in told))
    assert [len(image.records) for image in unsaved.document.images.values()] == [2]
    unsaved.owner.projects.save_as(tmp_path / "named.peftsam")
    wait(lambda: unsaved.owner.projects.name == "named")
    unsaved.owner.projects.open(tmp_path / "other.peftsam")
    wait(lambda: unsaved.owner.projects.name == "other")


def test_what_could_not_be_saved_at_first_is_saved_on_closing(
    unsaved: Bench, project_folder: Path
) -> None:
    project_folder.unlink()
    unsaved.owner.close()
    assert [project.objects for project in list_automatic()] == [2]


def test_the_image_that_was_worked_on_last_comes_first(bench: Open, tmp_path: Path) -> None:
    from napari_peftsam.projects import add_image, open_document

    path = tmp_path / "many.peftsam"
    document, _ = open_document(path)
    ids = [add_image(document, blobs(seed=seed), f"i{seed}") for seed in range(3)]
    document.do(ImportLabels(ids[1], squares()))
    document.store.close()
    b = bench(ready=False)
    open_path(b, path)
    assert b.layers.image.name == "i1"
    assert [each.name for each in b.layers.image_layers] == ["i0", "i1", "i2"]
