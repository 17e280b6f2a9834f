"""All images of a project go into one folder, and an export goes on where it was stopped."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_peftsam.app.app import App
from napari_peftsam.app.export_all import (
    ExportReport,
    default_place,
    export_all,
    images_to_export,
)
from napari_peftsam.document import ImportLabels, LocateImage, RenameImage
from napari_peftsam.errors import ConfigurationError, ExportError, InputFileError, LabelError
from napari_peftsam.export import FORMATS
from napari_peftsam.files import open_labels, read_labels


def squares(*leading: int) -> np.ndarray:
    labels = np.zeros((*leading, 40, 50), np.int32)
    labels[..., 2:8, 2:8] = 1
    labels[..., 20:30, 20:30] = 2
    return labels


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """Two planes and a stack with objects, and an image without."""
    details = {"unit": "um", "axes": "YX"}
    with App(tmp_path / "a.peftsam") as app:
        for name in ("a", "b", "empty"):
            pixels = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)
            path = tmp_path / f"{name}.tif"
            tifffile.imwrite(path, pixels, imagej=True, resolution=(4, 4), metadata=details)
            app.add_image(path)
        app.add_image(np.random.default_rng(0).random((2, 40, 50)).astype(np.float32), "stack")
        for name in ("a", "b", "stack"):
            image = app.images[name]
            labels = squares(*image.labels.shape[:-2])
            app.document.do(ImportLabels(image.id, labels))
        yield app


def run(app: App, folder: Path, *formats: str, until: int | None = None) -> ExportReport | None:
    work = export_all(app.document, images_to_export(app.document), folder, formats)
    number = 0
    while True:
        if number == until:
            work.close()
            return None
        try:
            next(work)
        except StopIteration as end:
            report: ExportReport = end.value
            return report
        number += 1


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_every_image_gets_a_file_of_its_name(app: App, tmp_path: Path) -> None:
    report = run(app, tmp_path / "out", "tiff")
    assert report is not None
    assert names(tmp_path / "out") == ["a.tif", "b.tif", "stack.tif"]
    labels, metadata = open_labels(tmp_path / "out" / "a.tif")
    np.testing.assert_array_equal(labels, squares())
    assert metadata.scale == (0.25, 0.25)


@pytest.mark.parametrize("name", ["../b", "{folder}/b", "..", "x/../../b", "a\\..\\b", "con"])
@pytest.mark.parametrize("kind", ["csv", "ome-zarr"])
def test_names_of_images_lead_nowhere_else(app: App, tmp_path: Path, name: str, kind: str) -> None:
    source = app.document.image(app.images["b"].id).info.source
    assert source is not None
    app.document.do(LocateImage(app.images["b"].id, replace(source, path=str(tmp_path / "a.tif"))))
    app.document.do(RenameImage(app.images["b"].id, name.format(folder=tmp_path)))
    before = names(tmp_path)
    report = run(app, tmp_path / "out", kind)
    assert report is not None
    assert len(report.written) == 3
    assert {path.parent.resolve() for path in report.written} == {tmp_path.resolve() / "out"}
    assert names(tmp_path) == sorted([*before, "out"])


@pytest.mark.parametrize("name", list(FORMATS))
def test_all_formats(app: App, tmp_path: Path, name: str) -> None:
    report = run(app, tmp_path / "out", name)
    assert report is not None
    assert [path.name for path in report.written] == names(tmp_path / "out")
    assert report.notes == ()


def test_data_sets_hold_all_images(app: App, tmp_path: Path) -> None:
    run(app, tmp_path / "out", "coco", "csv", "overlay")
    content = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["a.tif", "b.tif", "stack", "stack"]
    with (tmp_path / "out" / "a.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    assert "stack_0.png" in names(tmp_path / "out")


def test_a_stopped_export_goes_on(app: App, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run(app, folder, "tiff", until=1)
    assert names(folder) == ["a.tif"]
    before = (folder / "a.tif").stat().st_mtime_ns
    report = run(app, folder, "tiff")
    assert report is not None
    assert (len(report.written), report.kept) == (2, 1)
    assert (folder / "a.tif").stat().st_mtime_ns == before


def test_what_has_changed_is_written_again(app: App, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    run(app, folder, "tiff")
    app.document.do(ImportLabels(app.images["b"].id, squares() * 0 + 1))
    report = run(app, folder, "tiff")
    assert report is not None
    assert [path.name for path in report.written] == ["b.tif"]
    assert (read_labels(folder / "b.tif") == 1).all()


def test_an_image_that_came_back_is_measured_again(app: App, tmp_path: Path) -> None:
    path, folder = tmp_path / "a.tif", tmp_path / "out"
    entry = app.document.image(app.images["a"].id)
    pixels, entry.pixels = entry.pixels, None
    kept = path.read_bytes()
    path.unlink()
    run(app, folder, "csv")
    path.write_bytes(kept)
    entry.pixels = pixels
    report = run(app, folder, "csv")
    assert report is not None
    assert [p.name for p in report.written] == ["a.csv"]


def test_a_file_that_was_replaced_is_written_again(app: App, tmp_path: Path) -> None:
    run(app, tmp_path / "out", "tiff")
    (tmp_path / "out" / "a.tif").write_bytes(b"junk")
    report = run(app, tmp_path / "out", "tiff")
    assert report is not None
    assert [path.name for path in report.written] == ["a.tif"]


def test_images_of_the_project_are_never_replaced(app: App, tmp_path: Path) -> None:
    before = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(ExportError, match="is an image of the project"):
        run(app, tmp_path, "tiff")
    assert (tmp_path / "a.tif").read_bytes() == before


def test_what_cannot_be_exported(app: App, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown export format 'tif'"):
        run(app, tmp_path / "out", "tif")
    with pytest.raises(LabelError, match="nothing to export"):
        run(App(), tmp_path / "out", "tiff")


def test_an_image_that_is_gone_is_exported_without_its_pixels(app: App, tmp_path: Path) -> None:
    (tmp_path / "a.tif").unlink()
    app.document.image(app.images["a"].id).pixels = None
    report = run(app, tmp_path / "out", "csv")
    assert report is not None
    (note,) = report.notes
    assert "is not there" in note
    assert names(tmp_path / "out") == ["a.csv", "b.csv", "stack.csv"]


def test_a_full_disk_keeps_what_is_written(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    run(app, folder, "tiff", until=1)
    written = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tifffile, "imwrite", full)
        with pytest.raises(ExportError, match="No space left"):
            run(app, folder, "tiff")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    report = run(app, folder, "tiff")
    assert report is not None
    assert (len(report.written), report.kept) == (2, 1)


def test_the_default_place_is_beside_the_image(app: App, tmp_path: Path) -> None:
    project = tmp_path / "a.peftsam"
    assert default_place(project, ["tiff"]) == tmp_path / "objects"
    assert default_place(project, ["tiff"], "b") == tmp_path / "b-objects.tif"
    with pytest.raises(InputFileError, match="is a folder: name a file of labels"):
        default_place(tmp_path, ["tiff"])
    with App(tmp_path / "projects.peftsam") as one:
        (tmp_path / "images").mkdir()
        tifffile.imwrite(tmp_path / "images" / "x.ome.tif", np.zeros((4, 5), np.uint8))
        one.add_image(tmp_path / "images" / "x.ome.tif")
    single = tmp_path / "projects.peftsam"
    assert default_place(single, ["coco"]) == tmp_path / "images" / "x-objects.json"
    assert default_place(single, ["coco", "csv"]) == tmp_path / "images" / "objects"
    assert default_place(tmp_path / "l.tif", ["csv"]) == tmp_path / "l-objects.csv"
