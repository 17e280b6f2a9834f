"""Labels of a file become objects of an image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_peftsam.app.app import App
from napari_peftsam.document import AcceptObjects, NewObject, PlaneKey
from napari_peftsam.errors import LabelError
from napari_peftsam.export import export_labels
from napari_peftsam.types import Point, Prompts


def squares() -> np.ndarray:
    labels = np.zeros((40, 50), np.int32)
    labels[2:8, 2:8] = 5
    labels[20:30, 20:30] = 9
    return labels


@pytest.fixture
def app(tmp_path: Path) -> App:
    path = tmp_path / "cells.tif"
    pixels = np.random.default_rng(0).integers(0, 4000, (40, 50)).astype(np.uint16)
    details = {"unit": "um", "axes": "YX"}
    tifffile.imwrite(path, pixels, imagej=True, resolution=(4, 4), metadata=details)
    app = App()
    app.add_image(path)
    return app


@pytest.mark.parametrize("name", ["x.tif", "x.ome.zarr", "x.json", "x.geojson", "x.zip"])
def test_labels_of_a_file_become_objects(app: App, tmp_path: Path, name: str) -> None:
    image = app.images["cells"]
    assert image.import_labels(export_labels(squares(), tmp_path / name)) == ""
    assert len(image.objects) == 2
    np.testing.assert_array_equal(image.labels > 0, squares() > 0)
    assert {record.model for record in image.objects} == {"imported"}


def test_numbers_stay_in_an_image_without_objects(app: App, tmp_path: Path) -> None:
    image = app.images["cells"]
    image.import_labels(export_labels(squares(), tmp_path / "x.tif"))
    np.testing.assert_array_equal(image.labels, squares())


def test_existing_objects_keep_their_pixels(app: App, tmp_path: Path) -> None:
    image = app.images["cells"]
    mask = np.zeros((40, 50), bool)
    mask[0:10, 0:10] = True
    app.document.do(AcceptObjects(PlaneKey(image.id), (NewObject(Prompts(), mask),)))
    note = image.import_labels(export_labels(squares(), tmp_path / "x.tif"))
    assert note == "1 are covered by objects that were there"
    assert [record.label for record in image.objects] == [1, 2]
    app.undo()
    assert [record.label for record in image.objects] == [1]


def test_provenance_and_pixel_size_go_there_and_back(app: App, tmp_path: Path) -> None:
    image = app.images["cells"]
    mask = np.zeros((40, 50), bool)
    mask[0:10, 0:10] = True
    prompts = Prompts((Point(3, 4),))
    new = NewObject(prompts, mask, score=0.5, model="builtin", adapter="v1")
    app.document.do(AcceptObjects(PlaneKey(image.id), (new,)))
    before = image.objects
    assert image.metadata.scale == (0.25, 0.25)
    for name in ("x.tif", "x.ome.tif", "x.ome.zarr"):
        path = image.export(tmp_path / name)
        app.undo()
        assert image.objects == ()
        image.import_labels(path)
        assert image.objects == before


@pytest.mark.parametrize("name", ["x.json", "x.geojson", "x.tif", "x.ome.zarr"])
def test_classes_go_there_and_back(app: App, tmp_path: Path, name: str) -> None:
    image = app.images["cells"]
    masks = [squares() == label for label in (5, 9)]
    new = (NewObject(Prompts(), masks[0], category="nucleus"), NewObject(Prompts(), masks[1]))
    app.document.do(AcceptObjects(PlaneKey(image.id), new))
    path = image.export(tmp_path / name)
    app.undo()
    assert app.document.categories == ()
    image.import_labels(path)
    assert [record.category for record in image.objects] == ["nucleus", ""]
    assert app.document.categories == ("nucleus",)
    app.undo()
    assert image.objects == ()


@pytest.mark.parametrize("name", ["x.json", "x.geojson", "x.ome.zarr"])
def test_a_nucleus_in_a_cell_goes_there_and_back(app: App, tmp_path: Path, name: str) -> None:
    image = app.images["cells"]
    cell, nucleus = np.zeros((2, *squares().shape), bool)
    cell[4:20, 4:20], nucleus[8:14, 8:14] = True, True
    new = (NewObject(Prompts(), nucleus, category="nucleus"), NewObject(Prompts(), cell))
    app.document.do(AcceptObjects(PlaneKey(image.id), new))
    path = image.export(tmp_path / name)
    app.undo()
    assert "overlap" not in image.import_labels(path)
    entry = app.document.image(image.id)
    areas = {record.category: entry.area(record.label) for record in image.objects}
    assert areas == {"nucleus": nucleus.sum(), "": cell.sum()}
    app.undo()
    assert image.objects == ()


def test_classes_of_another_program_come_with_the_objects(app: App, tmp_path: Path) -> None:
    image = app.images["cells"]
    ring = [[2, 2], [8, 2], [8, 8], [2, 8], [2, 2]]
    other = [[x + 20, y] for x, y in ring]
    feature = {
        "geometry": {"type": "MultiPolygon", "coordinates": [[ring], [other]]},
        "properties": {"classification": {"name": "Tumor", "color": [200, 0, 0]}},
    }  # fmt: skip
    (tmp_path / "x.geojson").write_text(json.dumps(feature))
    image.import_labels(tmp_path / "x.geojson")
    [record] = image.objects
    assert (record.category, record.model) == ("Tumor", "imported")
    assert record.created
    assert [plane.index for plane in record.planes] == [()]
    app.undo()
    image.import_labels(tmp_path / "x.geojson", number_pieces=True)
    assert [record.category for record in image.objects] == ["Tumor", "Tumor"]


def test_labels_of_another_shape_are_refused(app: App, tmp_path: Path) -> None:
    path = export_labels(squares()[:30], tmp_path / "x.tif")
    with pytest.raises(LabelError, match="choose the labels of this image"):
        app.images["cells"].import_labels(path)
    assert app.images["cells"].objects == ()


def test_a_mask_of_one_number_is_said_to_be_one_object(app: App, tmp_path: Path) -> None:
    image = app.images["cells"]
    path = export_labels((squares() > 0).astype(np.uint8), tmp_path / "x.tif")
    assert "all 2 separate pieces have the number 1" in image.import_labels(path)
    assert len(image.objects) == 1
    app.undo()
    assert image.import_labels(path, number_pieces=True) == ""
    assert len(image.objects) == 2


def test_chosen_channels_are_remembered(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 40, 50)).astype(np.uint16)
    details = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "x.ome.tif", pixels, photometric="minisblack", metadata=details)
    with App(tmp_path / "a.peftsam") as app:
        app.add_image(tmp_path / "x.ome.tif", channels="GFP")
    with App(tmp_path / "a.peftsam") as app:
        assert app.notes == ()
        np.testing.assert_array_equal(app.images["x"].pixels, pixels[1])
        assert app.images["x"].metadata.channels[1].name == "GFP"
