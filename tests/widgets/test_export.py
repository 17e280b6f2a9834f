"""The export dock: what it writes, read back with other programs' libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from napari.utils.notifications import notification_manager
from pycocotools.coco import COCO
from qtpy.QtWidgets import QFileDialog

from napari_peftsam.document import ImportLabels, RenameImage
from napari_peftsam.export import FORMATS
from napari_peftsam.widgets.export import ExportDock
from napari_peftsam.widgets.session import session_of
from tests.widgets._annotate_cases import Bench, wait
from tests.widgets._training_cases import add_images, stripes

if TYPE_CHECKING:
    import napari


@pytest.fixture
def dock(make_napari_viewer: Callable[..., napari.Viewer], tiny_checkpoint: Path) -> ExportDock:
    viewer = make_napari_viewer()
    session_of(viewer).open(tiny_checkpoint)
    dock = ExportDock(viewer)
    viewer.window.add_dock_widget(dock, name="Export")
    return dock


def _export(dock: ExportDock, format_name: str, path: Path) -> None:
    dock.format.setCurrentIndex(dock.format.findData(format_name))
    dock.ask_save = lambda *_: path
    dock.export.click()
    wait(lambda: not dock._is_writing)


def _read_tiff(path: Path) -> Any:
    return tifffile.imread(path)


def _read_zarr(path: Path) -> Any:
    group: Any = zarr.open_group(path, mode="r")["labels/objects"]
    (image,) = group.attrs["ome"]["multiscales"]
    return np.asarray(group[image["datasets"][0]["path"]])


def _read_coco(path: Path) -> Any:
    coco = COCO(str(path))
    labels = np.zeros_like(stripes()[1])
    for number, annotation in enumerate(coco.loadAnns(coco.getAnnIds()), start=1):
        labels[coco.annToMask(annotation) > 0] = number
    return labels


_READERS: dict[str, Callable[[Path], Any]] = {
    "tiff": _read_tiff, "ome-zarr": _read_zarr, "coco": _read_coco,
}  # fmt: skip


@pytest.mark.styled
def test_an_empty_session_says_what_to_do(dock: ExportDock) -> None:
    assert dock.status.text().startswith("There are no objects yet")
    assert not dock.export.isEnabled()
    assert dock.sizeHint().width() <= 320
    add_images(dock.viewer_session.document, 2)
    assert [dock.image.itemText(i) for i in range(2)] == ["i0 (2)", "i1 (2)"]
    assert dock.status.text() == ""
    assert dock.export.isEnabled()
    dock.viewer_session.document.do(RenameImage("i0", "cells"))
    assert dock.image.itemText(0) == "cells (2)"


@pytest.mark.parametrize("shown", ["image0", "image1"])
def test_the_image_that_is_annotated_is_offered(shown: str, bench: Callable[..., Bench]) -> None:
    image, labels = stripes()
    b = bench(image, image + 1, ready=False)
    b.press("PageUp")  # now both are known
    for each in (*b.document.images,):
        b.document.do(ImportLabels(each, labels))
    if b.document.image(b.layers.image_id).name != shown:
        b.press("PageDown")
    dock = ExportDock(b.viewer)
    b.viewer.window.add_dock_widget(dock)
    assert dock.image.count() == 2
    assert dock.image.currentText() == f"{shown} (2)"


def test_all_formats_are_offered(dock: ExportDock) -> None:
    offered = {dock.format.itemData(i) for i in range(dock.format.count())}
    assert offered == set(FORMATS)


def test_files_hold_the_objects(
    dock: ExportDock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_images(dock.viewer_session.document)
    for name, read in _READERS.items():
        target = tmp_path / f"objects{FORMATS[name].suffixes[0]}"
        _export(dock, name, target)
        assert dock.status.text() == f"Wrote {target}"
        assert any(str(target) in record.message for record in notification_manager.records)
        assert np.array_equal(read(target), stripes()[1])
    capsys.readouterr()  # pycocotools prints


def test_all_images_are_exported_into_one_folder(dock: ExportDock, tmp_path: Path) -> None:
    add_images(dock.viewer_session.document, 2)
    dock.format.setCurrentIndex(dock.format.findData("tiff"))
    dock.ask_folder = lambda *_: tmp_path / "out"
    dock.export_all.click()
    wait(dock.export_all.isEnabled)
    assert dock.status.text() == f"Wrote 2 files to {tmp_path / 'out'}"
    for name in ("i0.tif", "i1.tif"):
        assert np.array_equal(tifffile.imread(tmp_path / "out" / name), stripes()[1])
    dock.export_all.click()
    wait(dock.export_all.isEnabled)
    assert dock.status.text() == f"Wrote 0 files to {tmp_path / 'out'}, 2 were there"


def test_all_images_are_exported_in_several_formats(dock: ExportDock, tmp_path: Path) -> None:
    add_images(dock.viewer_session.document, 2)
    dock.format.setCurrentIndex(dock.format.findData("tiff"))
    for action in dock.also.menu().actions():
        action.setChecked(action.data() in ("csv", "tiff"))
    assert dock.formats == ["tiff", "csv"]
    dock.ask_folder = lambda *_: tmp_path / "out"
    dock.export_all.click()
    wait(dock.export_all.isEnabled)
    found = sorted(p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith("."))
    assert found == ["i0.csv", "i0.tif", "i1.csv", "i1.tif"]


def test_a_missing_suffix_is_added(dock: ExportDock, tmp_path: Path) -> None:
    add_images(dock.viewer_session.document)
    _export(dock, "coco", tmp_path / "cells")
    (written,) = tmp_path.iterdir()
    assert written.name.startswith("cells.")
    json.loads(written.read_text())


def test_a_failure_is_told_and_leaves_the_older_file_whole(
    dock: ExportDock, tmp_path: Path
) -> None:
    add_images(dock.viewer_session.document)
    older = tmp_path / "objects.png"
    older.write_bytes(b"older")
    _export(dock, "tiff", older)  # the suffix of another kind of file
    assert older.read_bytes() == b"older"
    assert dock.status.text() == "Nothing was written."
    assert any("is not written to .png" in r.message for r in notification_manager.records)
    assert dock.export.isEnabled()


def test_a_name_typed_with_the_ending_of_another_format_is_refused(
    dock: ExportDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_images(dock.viewer_session.document)
    typed = str(tmp_path / "objects.json")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (typed, ""))
    dock.format.setCurrentIndex(dock.format.findData("tiff"))
    dock.export.click()
    assert dock.status.text() == "Nothing was written."
    assert any("is not written to .json" in r.message for r in notification_manager.records)
    assert list(tmp_path.iterdir()) == []


def test_changing_ones_mind_writes_nothing(dock: ExportDock, tmp_path: Path) -> None:
    add_images(dock.viewer_session.document)
    dock.ask_save = lambda *_: None
    dock.export.click()
    assert not dock._is_writing
    assert list(tmp_path.iterdir()) == []
