"""Label sets of classes: objects that overlap with others, a nucleus in a cell, in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_peftsam.errors import ExportError
from napari_peftsam.export import ExportContext, export_labels
from napari_peftsam.files import read_labels, read_objects
from napari_peftsam.types import LabelArray

CELLS, NUCLEI = np.zeros((2, 20, 30), np.int32)
CELLS[2:12, 2:14], CELLS[2:12, 16:26] = 1, 3
NUCLEI[5:8, 5:9] = 2
CELL, NUCLEUS = CELLS == 1, NUCLEI == 2
RECORDS = ({"label": 1, "category": ""}, {"label": 2, "category": "nucleus"}, {"label": 3})


def context(nuclei: LabelArray = NUCLEI) -> ExportContext:
    return ExportContext(
        image_name="x.tif", label_sets={"nucleus": nuclei}, records=RECORDS, classes=("nucleus",)
    )


@pytest.mark.parametrize("name", ["x.json", "x.geojson"])
def test_outlines_hold_all_of_each_object(tmp_path: Path, name: str) -> None:
    read = read_objects(export_labels(CELLS, tmp_path / name, context=context()), CELLS.shape)
    np.testing.assert_array_equal(read.sets["nucleus"] > 0, NUCLEUS)
    np.testing.assert_array_equal(read.sets[""] > 0, CELLS > 0)
    assert read.overlapping == 0


def test_a_table_lists_the_objects_of_all_classes(tmp_path: Path) -> None:
    with export_labels(CELLS, tmp_path / "x.csv", context=context()).open() as file:
        areas = {row["label"]: (row["area_px"], row["class"]) for row in csv.DictReader(file)}
    assert areas == {"1": ("120", ""), "2": ("12", "nucleus"), "3": ("100", "")}


def test_rois_and_lines_of_yolo_hold_all(tmp_path: Path) -> None:
    read = read_objects(export_labels(CELLS, tmp_path / "x.zip", context=context()), CELLS.shape)
    assert read.overlapping == 1  # ROIs have no class, and the first keeps its pixels
    folder = export_labels(CELLS, tmp_path / "x.yolo", context=context())
    lines = (folder / "labels" / "train" / "x.txt").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == ["0", "1", "1"]


@pytest.mark.parametrize("name", ["x.ome.zarr", "x"])
def test_an_ome_zarr_has_a_label_image_for_each_class(tmp_path: Path, name: str) -> None:
    version = None if name.endswith("zarr") else "ome-zarr-0.4"
    path = export_labels(CELLS, tmp_path / name, version, context())
    for label_set, labels in (("objects", CELLS), ("nucleus", NUCLEI)):
        np.testing.assert_array_equal(read_labels(path / "labels" / label_set), labels)
        group = zarr.open_group(path / "labels" / label_set, mode="r")
        about = dict(group.attrs.get("ome", group.attrs))["image-label"]["properties"]
        assert {each["label-value"] for each in about} == set(np.unique(labels)) - {0}


@pytest.mark.parametrize("name", ["x.tif", "x.ome.tif"])
def test_label_images_show_small_objects_and_have_files_of_classes(
    tmp_path: Path, name: str
) -> None:
    path = export_labels(CELLS, tmp_path / name, context=context())
    suffix = name[1:]
    shown = read_objects(path, CELLS.shape).labels
    np.testing.assert_array_equal(shown > 0, (CELLS > 0) | NUCLEUS)
    assert len(np.unique(shown)) == 4
    for label_set, labels in (("objects", CELLS), ("nucleus", NUCLEI)):
        alone = read_objects(tmp_path / f"x-{label_set}{suffix}", CELLS.shape).labels
        np.testing.assert_array_equal(alone > 0, labels > 0)


@pytest.mark.parametrize("name", ["x.tif", "x_seg.npy", "x.png"])
def test_classes_that_do_not_overlap_share_a_file(tmp_path: Path, name: str) -> None:
    apart = np.roll(NUCLEI, 12, axis=0)
    export_labels(CELLS, tmp_path / name, context=context(apart))
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_file_of_another_program_is_not_replaced_by_that_of_a_class(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x-nucleus.tif", np.ones((20, 30), np.uint8))
    with pytest.raises(ExportError, match=r"x-nucleus.tif is there and was not written by"):
        export_labels(CELLS, tmp_path / "x.tif", context=context())
    assert [each.name for each in tmp_path.iterdir()] == ["x-nucleus.tif"]
    path = export_labels(CELLS, tmp_path / "y.tif", context=context())
    assert export_labels(CELLS, path, context=context()) == path  # our own are replaced


def test_a_cellpose_file_shows_small_objects_on_top(tmp_path: Path) -> None:
    path = export_labels(CELLS, tmp_path / "x_seg.npy", context=context())
    np.testing.assert_array_equal(read_objects(path, CELLS.shape).labels > 0, CELLS > 0)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_the_only_label_set_is_that_of_a_class(tmp_path: Path) -> None:
    path = export_labels(CELLS * 0, tmp_path / "x.tif", context=context())
    np.testing.assert_array_equal(read_labels(path), NUCLEI)
    path = export_labels(CELLS * 0, tmp_path / "x.ome.zarr", context=context())
    np.testing.assert_array_equal(read_labels(path), NUCLEI)


def test_no_file_of_a_class_takes_the_place_of_another(tmp_path: Path) -> None:
    sets = {"objects": NUCLEI, "細胞": NUCLEI * 5, "pH > 7": NUCLEI * 6, "pH < 7": NUCLEI * 7}
    export_labels(CELLS, tmp_path / "x.tif", context=ExportContext(label_sets=sets))
    files = {each.stem for each in tmp_path.iterdir()}
    assert files == {"x", "x-objects", "x-objects_2", "x-細胞", "x-pH_7", "x-pH_7_2"}


def test_coco_has_a_category_for_each_class(tmp_path: Path) -> None:
    content = json.loads(export_labels(CELLS, tmp_path / "x.json", context=context()).read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    found = {a["label"]: (names[a["category_id"]], a["area"]) for a in content["annotations"]}
    assert found == {1: ("objects", 120), 2: ("nucleus", 12), 3: ("objects", 100)}
