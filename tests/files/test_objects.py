"""Objects come back from our own exports and from files of other programs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile

from napari_peftsam.errors import InputFileError, LabelError
from napari_peftsam.export import ExportContext, export_labels
from napari_peftsam.files import read_objects


def objects(*leading: int) -> np.ndarray:
    """Return touching objects, one with a hole, one of two parts, and one of a pixel."""
    labels = np.zeros((*leading, 40, 50), np.int32)
    last = labels[(-1,) * len(leading)]
    last[0:12, 0:10] = 1
    last[3:8, 3:6] = 0
    last[0:12, 10:20] = 2
    last[20:25, 5:9] = last[20:25, 15:30] = 3
    last[39, 49] = 4
    return labels


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)], ids=["plane", "stack", "over time"])
@pytest.mark.parametrize(
    "name", ["x.tif", "x.ome.tif", "x.ome.zarr", "x.json", "x.geojson", "x.zip", "x_seg.npy"]
)
def test_our_own_exports_come_back(tmp_path: Path, name: str, leading: tuple[int, ...]) -> None:
    labels = objects(*leading)
    path = export_labels(labels, tmp_path / name, context=ExportContext(image_name="a.tif"))
    found = read_objects(path, labels.shape, "a.tif")
    np.testing.assert_array_equal(found.labels, labels)
    assert found.overlapping == 0


@pytest.mark.parametrize("name", ["x.geojson", "x.zip", "x.tif", "x.ome.tif", "x.ome.zarr"])
@pytest.mark.parametrize("axes", ["tzyx", "ztyx"])
def test_planes_are_found_by_the_names_of_their_axes(tmp_path: Path, name: str, axes: str) -> None:
    labels = np.zeros((2, 3, 40, 50), np.int32)
    labels[1, 2, 5:9, 5:9] = 1
    labels[0, 1, 5:9, 5:9] = 2
    path = export_labels(labels, tmp_path / name, context=ExportContext(axes=axes))
    found = read_objects(path, labels.shape, "a.tif", axes)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("name", ["x.json", "x.geojson", "x.zip", "x_seg.npy"])
def test_an_object_through_several_planes_stays_one(tmp_path: Path, name: str) -> None:
    labels = np.zeros((3, 40, 50), np.int32)
    labels[:, 5:9, 5:9] = 2
    labels[1, 20:25, 20:25] = 1
    path = export_labels(labels, tmp_path / name, context=ExportContext("cells", "a.tif"))
    np.testing.assert_array_equal(read_objects(path, labels.shape, "a.tif").labels, labels)


def test_names_that_say_nothing_are_no_labels(tmp_path: Path) -> None:
    ring = [[[2, 2], [6, 2], [6, 6], [2, 6], [2, 2]], [[10, 2], [16, 2], [16, 6], [10, 6], [10, 2]]]
    features = [
        {
            "geometry": {"type": "Polygon", "coordinates": [each]},
            "properties": {"name": "Tumor 1"},
        }
        for each in ring
    ]
    (tmp_path / "x.geojson").write_text(json.dumps({"features": features}))
    found = read_objects(tmp_path / "x.geojson", (40, 50))
    assert np.unique(found.labels).tolist() == [0, 1, 2]


def ring(col: int) -> list[list[int]]:
    return [[col, 2], [col + 4, 2], [col + 4, 6], [col, 6], [col, 2]]


QUPATH = {
    "a name and a colour": ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor"),
    "the colour of QuPath 0.2": ({"name": "Stroma", "colorRGB": -6895466}, "Stroma"),
    "a class within a class": ({"names": ["Tumor", "CD3"]}, "Tumor: CD3"),
    "a plain name": ("Necrosis", "Necrosis"),
    "none": (None, ""),
    "an empty one": ({}, ""),
}


@pytest.mark.parametrize(("given", "name"), QUPATH.values(), ids=QUPATH.keys())
def test_classes_of_qupath(tmp_path: Path, given: object, name: str) -> None:
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring(col)]},
         "properties": {"objectType": "detection", "classification": each}}
        for col, each in ((2, given), (10, {"name": "Other"}))
    ]  # fmt: skip
    (tmp_path / "x.geojson").write_text(json.dumps(features))
    found = read_objects(tmp_path / "x.geojson", (40, 50))
    assert found.classes == ({1: name} if name else {}) | {2: "Other"}


COCO = {
    "of another program": ("", {1: "cell", 2: "nucleus"}),
    "of ours": ("cell of x.png, by napari-peftsam", {2: "nucleus"}),
}


@pytest.mark.parametrize(("about", "classes"), COCO.values(), ids=COCO.keys())
def test_classes_of_coco(tmp_path: Path, about: str, classes: dict[int, str]) -> None:
    given = zip((2, 10, 20, 30), (7, 3, 99, None), strict=True)
    content = {
        "info": {"description": about},
        "images": [{"id": 1, "file_name": "x.png", "height": 40, "width": 50}],
        "annotations": [
            {"id": i, "image_id": 1, "segmentation": [np.ravel(ring(col)).tolist()],
             "category_id": category}
            for i, (col, category) in enumerate(given)
        ],
        "categories": [{"id": 7, "name": "cell"}, {"id": 3, "name": "nucleus"}, {"id": 4}],
    }  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_objects(tmp_path / "x.json", (40, 50), "x.tif").classes == classes


def test_the_provenance_comes_back_with_them(tmp_path: Path) -> None:
    context = ExportContext(records=[{"label": 2, "source": "point"}])
    path = export_labels(objects(), tmp_path / "x.tif", context=context)
    assert read_objects(path, (40, 50)).records == ({"label": 2, "source": "point"},)


def test_coco_of_polygons_and_several_images(tmp_path: Path) -> None:
    square = [[10, 5, 20, 5, 20, 15, 10, 15]]
    images = [{"id": i, "file_name": f"folder/{i}.png", "height": 40, "width": 50} for i in (1, 2)]
    annotations = [
        {"id": 1, "image_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
        {"id": 2, "image_id": 2, "segmentation": square},
        {"id": 3, "image_id": 2, "segmentation": [[15, 5, 25, 5, 25, 15, 15, 15]]},
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    found = read_objects(path, (40, 50), "2.tif")
    expected = np.zeros((40, 50), int)
    expected[5:15, 10:20] = 1
    expected[5:15, 20:25] = 2
    np.testing.assert_array_equal(found.labels, expected)
    assert found.overlapping == 1
    with pytest.raises(InputFileError, match=r"has no image '3\.tif'"):
        read_objects(path, (40, 50), "3.tif")


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


def test_a_cellpose_file_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "x_seg.npy"
    content = {"masks": np.zeros((40, 50), np.uint16), "more": Harmful(tmp_path / "ran")}
    with path.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(InputFileError, match="no plain data"):
        read_objects(path, (40, 50))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cellpose_files_of_all_ages(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x_seg.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        content = {"masks": objects(), "filename": Path("a.tif"), "diameter": np.float64(3)}
        pickle.dump(np.array(content, dtype=object), file, protocol=protocol)
    np.testing.assert_array_equal(read_objects(path, (40, 50)).labels, objects())


@pytest.mark.parametrize("name", ["x.json", "x.geojson", "x.zip", "x_seg.npy", "x.tif"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{ not what its name says")
    with pytest.raises(InputFileError, match="cannot be read"):
        read_objects(tmp_path / name, (40, 50))
    with pytest.raises(InputFileError, match="no such file"):
        read_objects(tmp_path / f"missing_{name}", (40, 50))


ODD = {
    "a number": ("x.geojson", "[3]", "is neither COCO nor GeoJSON"),
    "a text": ("x.geojson", '"cells"', "is neither COCO nor GeoJSON"),
    "features that are none": ("x.json", '{"features": [3]}', "object 1 is no GeoJSON feature"),
}


@pytest.mark.parametrize(("name", "text", "match"), ODD.values(), ids=ODD.keys())
def test_files_of_another_kind_are_named(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputFileError, match=match):
        read_objects(tmp_path / name, (40, 50))


@pytest.mark.parametrize(
    ("content", "match"),
    [(np.zeros((40, 50), int), "a plain array"), (np.array({"x": 1}, object), "has no masks")],
    ids=["plain", "no masks"],
)
def test_numpy_files_that_are_not_of_cellpose(
    tmp_path: Path, content: np.ndarray, match: str
) -> None:
    np.save(tmp_path / "x_seg.npy", content, allow_pickle=True)
    with pytest.raises(InputFileError, match=match):
        read_objects(tmp_path / "x_seg.npy", (40, 50))


def test_json_is_known_by_its_content(tmp_path: Path) -> None:
    outlines = export_labels(objects(), tmp_path / "x.geojson").rename(tmp_path / "x.json")
    np.testing.assert_array_equal(read_objects(outlines, (40, 50)).labels, objects())
    (tmp_path / "prompts.json").write_text('[{"points": [[3, 4]]}]')
    with pytest.raises(InputFileError, match="is neither COCO nor GeoJSON"):
        read_objects(tmp_path / "prompts.json", (40, 50))


def test_labels_of_another_image(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "x.tif")
    with pytest.raises(LabelError, match=r"have the shape \(40, 50\), the image \(40, 60\)"):
        read_objects(path, (40, 60))


def test_nothing_to_draw_is_no_object(tmp_path: Path) -> None:
    path = tmp_path / "x.geojson"
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [3, 4]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [point]}))
    assert not read_objects(path, (40, 50)).labels.any()


def test_what_has_no_area_is_counted(tmp_path: Path) -> None:
    points = roifile.ImagejRoi.frompoints([[3, 4], [20, 4], [20, 30]])
    points.roitype = roifile.ROI_TYPE.POINT
    square = roifile.ImagejRoi.frompoints([[3, 4], [8, 4], [8, 9], [3, 9]])
    roifile.roiwrite(tmp_path / "x.zip", [points, square])
    found = read_objects(tmp_path / "x.zip", (40, 50))
    assert (np.count_nonzero(found.labels), found.skipped) == (25, 1)


def test_coco_of_another_image_is_refused(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "x.png", "height": 400, "width": 500}
    (tmp_path / "x.json").write_text(json.dumps({"images": [image], "annotations": []}))
    with pytest.raises(LabelError, match="has 400 x 500 pixels, this one 40 x 50"):
        read_objects(tmp_path / "x.json", (40, 50), "x.tif")


def test_outlines_of_a_stack_are_none_of_a_plane(tmp_path: Path) -> None:
    path = export_labels(objects(3), tmp_path / "x.geojson")
    with pytest.raises(LabelError, match="an object lies in plane"):
        read_objects(path, (40, 50))


def test_coco_keeps_the_provenance(tmp_path: Path) -> None:
    records = [{"label": 2, "source": "point", "planes": [{"index": []}]}]
    context = ExportContext(image_name="a.tif", records=records)
    path = export_labels(objects(), tmp_path / "x.json", context=context)
    (record,) = read_objects(path, (40, 50), "a.tif").records
    assert (record["label"], record["source"]) == (2, "point")
