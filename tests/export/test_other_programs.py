"""Outlines, tables and pictures, read back by the libraries or rules of those who use them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
import shapely
import zarr
from skimage.draw import polygon2mask

from napari_peftsam.errors import ExportError, InputFileError, LabelError
from napari_peftsam.export import FORMATS, ExportContext, export_labels
from napari_peftsam.files import read_image, read_labels


def objects() -> np.ndarray:
    """Return touching objects, one with a hole, one of two parts, one of a pixel, one diagonal."""
    labels = np.zeros((40, 50), np.int32)
    labels[0:12, 0:10] = 1
    labels[3:8, 3:6] = 0
    labels[0:12, 10:20] = 2
    labels[20:25, 5:9] = labels[20:25, 15:30] = 3
    labels[39, 49] = 7
    labels[30, 30] = labels[31, 31] = labels[32, 32] = 90000
    return labels


def filled(shape: tuple[int, int], rings: list[np.ndarray]) -> np.ndarray:
    """Return the pixels whose centres lie inside rings of ``(x, y)``, by the even-odd rule."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        inside ^= polygon2mask(shape, np.asarray(ring)[:, ::-1] - 0.5)
    return inside


def test_rois_of_imagej(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "x.zip")
    rois = {int(roi.name.split()[1]): roi for roi in roifile.roiread(path)}
    assert list(rois) == [1, 2, 3, 7, 90000]
    for label, roi in rois.items():
        rings = (
            [np.asarray(ring) for ring in roi.coordinates(multi=True)]
            if roi.composite
            else [roi.coordinates()]
        )
        np.testing.assert_array_equal(filled((40, 50), rings), objects() == label)


def test_rois_know_their_slice(tmp_path: Path) -> None:
    labels = np.stack([objects() * 0, objects()])
    path = export_labels(labels, tmp_path / "x.zip", "roi", ExportContext(axes="zyx"))
    assert {roi.z_position for roi in roifile.roiread(path)} == {2}


def test_geojson_for_qupath(tmp_path: Path) -> None:
    records = [{"label": 2, "score": 0.5}]
    context = ExportContext("cells", "a.tif", records=records)
    content = json.loads(
        export_labels(objects(), tmp_path / "x.geojson", context=context).read_text()
    )
    assert content["type"] == "FeatureCollection"
    features = content["features"]
    assert [f["properties"]["name"] for f in features] == [
        "cells 1", "cells 2", "cells 3", "cells 7", "cells 90000"
    ]  # fmt: skip
    assert len({f["id"] for f in features}) == len(features)
    assert features[1]["properties"]["measurements"] == {"score": 0.5}
    for feature, label in zip(features, (1, 2, 3, 7, 90000), strict=True):
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "annotation"
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.area == (objects() == label).sum()
        parts = getattr(shape, "geoms", [shape])
        rings = [r.coords for part in parts for r in (part.exterior, *part.interiors)]
        np.testing.assert_array_equal(filled((40, 50), rings), objects() == label)


def test_geojson_of_a_stack_has_planes(tmp_path: Path) -> None:
    path = export_labels(np.stack([objects() * 0, objects()]), tmp_path / "x.geojson")
    planes = [f["geometry"]["plane"] for f in json.loads(path.read_text())["features"]]
    assert planes == [{"c": -1, "z": 1, "t": 0}] * 5


def yolo_masks(path: Path) -> list[np.ndarray]:
    lines = path.read_text().splitlines()
    assert all(line.split()[0] == "0" for line in lines)
    points = [np.array(line.split()[1:], float).reshape(-1, 2) for line in lines]
    assert all((p >= 0).all() and (p <= 1).all() for p in points)
    return [filled((40, 50), [p * (50, 40)]) for p in points]


def test_yolo(tmp_path: Path) -> None:
    pixels = np.zeros((40, 50), np.uint16)
    context = ExportContext("cells", "a.tif", pixels=pixels)
    path = export_labels(objects(), tmp_path / "set", "yolo", context)
    for part in ("train", "val"):
        masks = yolo_masks(path / "labels" / part / "a.txt")
        for mask, label in zip(masks, (1, 2, 3, 7, 90000), strict=True):
            np.testing.assert_array_equal(mask, objects() == label)
        assert read_image(path / "images" / part / "a.png").shape == (40, 50)
    text = (path / "data.yaml").read_text()
    assert text.splitlines() == [
        "path: .", "train: images/train", "val: images/val", "names:", '  0: "cells"'
    ]  # fmt: skip


CLASSES = [{"label": 1, "category": "nucleus: 1"}, {"label": 3, "category": "cell"}]
CLASSIFIED = ExportContext("objects", "a.tif", records=CLASSES)
EXPECTED = {1: "nucleus: 1", 2: "objects", 3: "cell", 7: "objects", 90000: "objects"}


def test_classes_in_geojson(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "x.geojson", context=CLASSIFIED)
    features = json.loads(path.read_text())["features"]
    found = [feature["properties"].get("classification") for feature in features]
    assert found == [{"name": "nucleus: 1"}, None, {"name": "cell"}, None, None]


def test_classes_in_coco(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "x.json", context=CLASSIFIED)
    content = json.loads(path.read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    found = {a["label"]: names[a["category_id"]] for a in content["annotations"]}
    assert found == EXPECTED


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_a_class_has_one_number_in_all_files_of_a_project(tmp_path: Path, name: str) -> None:
    found = []
    for number, category in enumerate(("no", "tumour")):
        records = [{"label": label, "category": category} for label in (1, 2, 3, 7, 90000)]
        context = ExportContext(image_name="a.tif", records=records, classes=("no", "tumour"))
        path = export_labels(objects(), tmp_path / f"{number}", name, context)
        if name == "coco":
            content = json.loads(path.read_text())
            assert [each["name"] for each in content["categories"]] == ["no", "tumour"]
            found.append({a["category_id"] for a in content["annotations"]})
        else:
            assert '  0: "no"\n  1: "tumour"' in (path / "data.yaml").read_text()
            lines = (path / "labels" / "train" / "a.txt").read_text().splitlines()
            found.append({int(line.split()[0]) + 1 for line in lines})
    assert found == [{1}, {2}]


def test_classes_in_yolo(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "set", "yolo", CLASSIFIED)
    lines = (path / "labels" / "train" / "a.txt").read_text().splitlines()
    text = (path / "data.yaml").read_text()
    listed = dict(line.strip().split(": ", 1) for line in text.split("names:\n")[1].splitlines())
    names = [listed[line.split()[0]].strip('"') for line in lines]
    assert names == list(EXPECTED.values())


def test_classes_in_the_table(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "x.csv", context=CLASSIFIED)
    with path.open(encoding="utf-8") as file:
        rows = {int(row["label"]): row["class"] for row in csv.DictReader(file)}
    assert rows == {1: "nucleus: 1", 2: "", 3: "cell", 7: "", 90000: ""}


def test_sets_of_several_images(tmp_path: Path) -> None:
    images = [(objects(), ExportContext(image_name=f"{i}.tif")) for i in range(6)]
    for name in ("yolo", "coco"):
        write_all = FORMATS[name].write_all
        assert write_all is not None
        write_all(tmp_path / name, images)
    names = {
        p: sorted(f.stem for f in (tmp_path / "yolo/labels" / p).iterdir())
        for p in ("train", "val")
    }
    assert names == {"train": ["0", "1", "2", "3", "5"], "val": ["4"]}
    content = json.loads((tmp_path / "coco").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"{i}.tif" for i in range(6)]
    assert len({a["id"] for a in content["annotations"]}) == 30


def test_images_of_one_name_are_all_in_a_yolo_set(tmp_path: Path) -> None:
    images = [(objects(), ExportContext(image_name="a.tif"))] * 2
    write_all = FORMATS["yolo"].write_all
    assert write_all is not None
    write_all(tmp_path / "yolo", images)
    assert sorted(f.stem for f in (tmp_path / "yolo").rglob("*.txt")) == ["a", "a~2"]


def test_cellpose(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "a", "cellpose", ExportContext(image_name="a.tif"))
    assert path.name == "a_seg.npy"
    content = np.load(path, allow_pickle=True).item()
    assert content["filename"] == "a.tif"
    assert content["masks"].dtype == np.uint16
    assert np.unique(content["masks"]).tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(content["masks"] > 0, objects() > 0)
    assert ((content["outlines"] > 0) <= (content["masks"] > 0)).all()
    assert len(content["ismanual"]) == 5


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_measurements(tmp_path: Path) -> None:
    pixels = np.zeros((40, 50), np.uint16)
    pixels[objects() == 2] = 100
    context = ExportContext(
        image_name="a.tif",
        pixels=pixels,
        scale=(0.5, 0.5),
        units=("micrometer", "micrometer"),
        records=[{"label": 2, "source": "point", "score": 0.75, "corrected": True}],
    )
    found = {
        int(row["label"]): row
        for row in rows(export_labels(objects(), tmp_path / "x.csv", context=context))
    }
    assert list(found) == [1, 2, 3, 7, 90000]
    row = found[2]
    assert row["image"] == "a.tif"
    assert float(row["area_px"]) == 120
    assert float(row["area_micrometer2"]) == 30
    assert (float(row["row_px"]), float(row["col_px"])) == (5.5, 14.5)
    assert (float(row["y_micrometer"]), float(row["x_micrometer"])) == (2.75, 7.25)
    assert [row[k] for k in ("top_px", "left_px", "bottom_px", "right_px")] == [
        "0",
        "10",
        "12",
        "20",
    ]
    assert float(row["mean_intensity"]) == 100
    assert float(row["integrated_intensity"]) == 12000
    assert float(row["perimeter_micrometer"]) == float(row["perimeter_px"]) / 2
    assert (row["source"], row["score"], row["corrected"]) == ("point", "0.75", "True")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1"])
def test_names_are_no_formulas_of_a_spreadsheet(tmp_path: Path, name: str) -> None:
    context = ExportContext(image_name=name, records=[{"label": 1, "category": name}])
    row = rows(export_labels(objects(), tmp_path / "x.csv", context=context))[0]
    assert (row["image"], row["class"]) == (f"'{name}", f"'{name}")


def test_measurements_have_one_unit(tmp_path: Path) -> None:
    context = ExportContext(scale=(0.5, 250.0), units=("micrometer", "nanometer"))
    row = rows(export_labels(objects(), tmp_path / "x.csv", context=context))[1]
    assert float(row["area_nanometer2"]) == 120 * 500 * 250
    assert float(row["y_nanometer"]) == 5.5 * 500
    apart = ExportContext(scale=(2.0, 0.5), units=("second", "micrometer"))
    row = rows(export_labels(objects(), tmp_path / "y.csv", context=apart))[1]
    assert not [name for name in row if name.startswith("area_") and name != "area_px"]


def test_a_label_of_millions_takes_no_memory(tmp_path: Path) -> None:
    labels = objects().astype(np.int64)
    labels[labels == 7] = 3_000_000_000
    assert rows(export_labels(labels, tmp_path / "x.csv"))[-1]["label"] == "3000000000"


def test_measurements_of_colours_and_planes(tmp_path: Path) -> None:
    pixels = np.zeros((2, 40, 50, 3), np.uint8)
    pixels[..., 1] = 7
    context = ExportContext(pixels=pixels)
    found = rows(
        export_labels(np.stack([objects(), objects()]), tmp_path / "x.csv", context=context)
    )
    assert [row["z"] for row in found] == ["0"] * 5 + ["1"] * 5
    assert {row["mean_intensity_1"] for row in found} == {"7.0"}
    assert "area_micrometer2" not in found[0]


def test_a_picture_for_slides(tmp_path: Path) -> None:
    pixels = np.full((40, 50), 1000, np.uint16)
    pixels[30:] = 3000
    path = export_labels(objects(), tmp_path / "x.png", context=ExportContext(pixels=pixels))
    picture = read_image(path).astype(int)
    assert picture.shape == (40, 50, 3)
    assert (picture[35, 10] == 255).all()
    assert np.ptp(picture[5, 9]) > 100  # an edge in colour
    assert (np.ptp(picture, axis=-1)[objects() == 0] == 0).all()


# --- into the image of another program ----------------------------------------------


def image_of_another(path: Path, version: int) -> None:
    group = zarr.create_group(path, zarr_format=version)
    group.create_array("0", data=np.ones((40, 50), np.uint8))
    axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    scale = [{"type": "scale", "scale": [0.5, 0.5]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    metadata = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]}
    group.attrs.update({"mine": 1, **(metadata if version == 2 else {"ome": metadata})})


@pytest.mark.parametrize("version", [2, 3])
def test_labels_are_added_to_an_image(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.ome.zarr"
    image_of_another(path, version)
    context = ExportContext("cells", scale=(0.5, 0.5), units=("um", "um"))
    first = export_labels(objects(), path, context=context)
    second = export_labels(objects() * 0 + 1, path, context=context)
    assert (first, second) == (path / "labels" / "cells", path / "labels" / "cells_2")
    np.testing.assert_array_equal(read_labels(first), objects())
    np.testing.assert_array_equal(read_image(path), np.ones((40, 50)))
    group: Any = zarr.open_group(path, mode="r")
    assert group.attrs["mine"] == 1
    listed = dict(group["labels"].attrs)
    assert listed.get("ome", listed)["labels"] == ["cells", "cells_2"]
    assert group["labels/cells"].metadata.zarr_format == version
    assert sorted(p.name for p in (path / "labels").iterdir() if p.is_dir()) == ["cells", "cells_2"]


def test_labels_of_another_size_are_not_added(tmp_path: Path) -> None:
    image_of_another(tmp_path / "x.ome.zarr", 3)
    with pytest.raises(LabelError, match="has an image of 40 x 50 pixels, the labels are 30 x 50"):
        export_labels(objects()[:30], tmp_path / "x.ome.zarr")
    assert not (tmp_path / "x.ome.zarr" / "labels").exists()


DAMAGED = {
    "a number": ([5], "OME metadata"),
    "no data": ([{"axes": [{"name": "y"}, {"name": "x"}]}], r"needs a multiscales\.0\.datasets"),
    "axes that are no list": ([{"axes": "yx", "datasets": [{"path": "0"}]}], "OME metadata"),
    "a place outside": ([{"datasets": [{"path": "../../x"}]}], "cannot be read as .zarr"),
    "a place of nothing": ([{"datasets": [{"path": "7"}]}], "cannot be read as .zarr"),
}


@pytest.mark.parametrize(("multiscales", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_labels_are_not_added_to_damaged_images(
    multiscales: object, message: str, tmp_path: Path
) -> None:
    image_of_another(tmp_path / "x.ome.zarr", 3)
    zarr.open_group(tmp_path / "x.ome.zarr").attrs["ome"] = {"multiscales": multiscales}
    with pytest.raises(InputFileError, match=message):
        export_labels(objects(), tmp_path / "x.ome.zarr")


def test_labels_are_not_added_where_their_folder_is_an_array(tmp_path: Path) -> None:
    image_of_another(tmp_path / "x.ome.zarr", 3)
    zarr.create_array(tmp_path / "x.ome.zarr" / "labels", data=np.zeros(3))
    with pytest.raises(InputFileError, match="its labels are an array"):
        export_labels(objects(), tmp_path / "x.ome.zarr")


def test_an_older_ome_zarr_is_written_on_request(tmp_path: Path) -> None:
    path = export_labels(objects(), tmp_path / "x", "ome-zarr-0.4")
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 2
    np.testing.assert_array_equal(read_labels(path), objects())


@pytest.mark.parametrize("name", list(FORMATS))
def test_nothing_names_the_machine(tmp_path: Path, name: str) -> None:
    context = ExportContext(image_name="a.tif", pixels=np.zeros((40, 50), np.uint8))
    path = export_labels(objects(), tmp_path / "x", name, context)
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    for file in files:
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content
        assert str(Path.home()).encode() + b"/" not in content


def test_a_folder_of_someone_else_is_no_yolo_set(tmp_path: Path) -> None:
    (tmp_path / "x.yolo").mkdir()
    (tmp_path / "x.yolo" / "notes.txt").touch()
    with pytest.raises(ExportError, match="not written by napari-peftsam"):
        export_labels(objects(), tmp_path / "x.yolo")
