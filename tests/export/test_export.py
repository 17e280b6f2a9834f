"""What is written is read back by the libraries that other programs use."""

from __future__ import annotations

import errno
import json
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from pycocotools import mask
from pycocotools.coco import COCO

from napari_peftsam.errors import ExportError
from napari_peftsam.export import FORMATS, ExportContext, export_labels
from napari_peftsam.export._ome_zarr import _import_writer
from napari_peftsam.files import open_labels, read_image, read_labels, read_provenance

_import_writer()  # with its import warning silenced, before ome_zarr is imported here
from ome_zarr.io import parse_url  # noqa: E402
from ome_zarr.reader import Node, Reader  # noqa: E402

ALL = pytest.mark.parametrize("name", list(FORMATS))


def squares(*shape: int, dtype: str = "int32") -> np.ndarray:
    """Return touching objects 1, 2 and 7 with a hole, at every border, in two planes."""
    labels = np.zeros(shape, dtype)
    first = labels[(0,) * (len(shape) - 2)]
    first[0:6, 0:5] = 1
    first[2:4, 2:3] = 0
    first[0:6, 5:9] = 2
    last = labels[(-1,) * (len(shape) - 2)]
    last[-3:, -4:] = 7
    return labels


RECORDS = [
    {"label": 2, "score": 0.5, "prompts": {"points": [{"row": 1.0, "col": 6.0}], "box": None}},
    {"label": 7, "score": None, "model": "manual"},
    {"label": 99, "score": 0.1},
]
SHAPES = pytest.mark.parametrize(
    "shape", [(20, 30), (3, 20, 30), (1, 20, 30), (20, 30, 3), (2, 3, 20, 30)], ids=str
)


def test_formats_are_registered_by_name() -> None:
    assert list(FORMATS) == [
        "tiff", "ome-zarr", "ome-zarr-0.4", "coco", "yolo", "roi", "geojson", "cellpose", "csv",
        "overlay",
    ]  # fmt: skip
    assert all(name == known.name and known.title for name, known in FORMATS.items())


# --- TIFF


@SHAPES
def test_tiff_reads_back_the_same(tmp_path: Path, shape: tuple) -> None:
    labels = np.zeros(shape, np.int64)
    labels.flat[5] = 3
    path = export_labels(labels, tmp_path / "x.tif")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_imagej
        assert tiff.series[0].keyframe.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
    read = tifffile.imread(path)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read.reshape(shape), labels)


@pytest.mark.parametrize("largest", [0, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
@pytest.mark.parametrize(
    ("path", "types"),
    [
        ("x.tif", "uint16 uint16 uint16 uint16 uint32 uint32 uint64"),
        ("x.ome.tif", "uint8 uint8 uint16 uint16 uint32 uint32 uint64"),
        ("x.ome.zarr", "uint8 uint8 uint16 uint16 uint32 uint32 uint64"),
    ],
)
def test_types_hold_all_labels(tmp_path: Path, path: str, types: str, largest: int) -> None:
    labels = np.zeros((20, 30), np.int64)
    labels[3, 4] = largest
    read = read_labels(export_labels(labels, tmp_path / path))
    sizes = [0, 255, 256, 65535, 65536, 2**32 - 1, 2**32]
    assert read.dtype == types.split()[sizes.index(largest)]
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize(
    ("path", "many"),
    [("x.tif", False), ("x.ome.tif", False), ("x.tif", True), ("x.ome.zarr", False)],
)
def test_pixel_sizes_come_back(tmp_path: Path, path: str, many: bool) -> None:
    labels = squares(2, 3, 20, 30)
    labels[0, 0, 10, 10] = 70000 if many else 8
    context = ExportContext(
        scale=(30.0, 2.0, 0.5, 0.25),
        units=("second", "micrometer", "micrometer", "micrometer"),
        axes="tzyx",
    )
    read, metadata = open_labels(export_labels(labels, tmp_path / path, context=context))
    np.testing.assert_array_equal(read, labels)
    assert metadata.names == "tzyx"
    assert metadata.scale == pytest.approx((30, 2, 0.5, 0.25))
    assert metadata.units == ("second", "micrometer", "micrometer", "micrometer")


@pytest.mark.parametrize("path", ["x.tif", "x.ome.tif", "x.ome.zarr"])
def test_time_keeps_its_unit(tmp_path: Path, path: str) -> None:
    context = ExportContext(scale=(5.0, 1.0, 1.0), units=("minute", "um", "um"), axes="tyx")
    metadata = open_labels(export_labels(squares(3, 20, 30), tmp_path / path, context=context))[1]
    assert (metadata.axes[0].scale, metadata.axes[0].unit) == (5.0, "minute")


def test_depth_before_time_is_put_in_order(tmp_path: Path) -> None:
    labels = squares(2, 3, 20, 30)
    context = ExportContext(scale=(2.0, 30.0, 1.0, 1.0), axes="ztyx", pixels=labels)
    read, metadata = open_labels(export_labels(labels, tmp_path / "x.zarr", context=context))
    np.testing.assert_array_equal(read, labels.transpose(1, 0, 2, 3))
    assert metadata.names == "tzyx"
    assert metadata.scale == (30, 2, 1, 1)


def test_depth_in_another_unit_than_width(tmp_path: Path) -> None:
    context = ExportContext(scale=(2.0, 250.0, 250.0), units=("um", "nm", "nm"))
    path = export_labels(squares(3, 20, 30), tmp_path / "x.tif", context=context)
    metadata = open_labels(path)[1]
    assert metadata.scale == pytest.approx((2000, 250, 250))
    assert metadata.units == ("nanometer",) * 3


@pytest.mark.parametrize("path", ["x.tif", "x.ome.tif", "x.ome.zarr"])
def test_the_provenance_comes_back(tmp_path: Path, path: str) -> None:
    context = ExportContext("cells", "a.tif", records=RECORDS)
    written = export_labels(squares(20, 30), tmp_path / path, context=context)
    found = read_provenance(written)
    assert [record["label"] for record in found] == [2, 7]
    assert found[0]["prompts"] == RECORDS[0]["prompts"]


# --- OME-Zarr


def nodes(path: Path) -> dict[str, Node]:
    location = parse_url(str(path))
    assert location is not None
    return {node.zarr.basename(): node for node in Reader(location)()}


@SHAPES
def test_ome_zarr_without_image(tmp_path: Path, shape: tuple) -> None:
    labels = np.zeros(shape, np.int64)
    labels.flat[5] = 300
    context = ExportContext("big cells/2", scale=[0.5] * len(shape))
    path = export_labels(labels, tmp_path / "x.ome.zarr", "ome-zarr", context)
    found = nodes(path)
    assert set(found) == {"x.ome.zarr", "labels", "big_cells_2"}
    for node in (found["x.ome.zarr"], found["big_cells_2"]):
        assert node.data[0].dtype == np.uint16
        np.testing.assert_array_equal(np.asarray(node.data[0]), labels)
        assert [a["name"] for a in node.metadata["axes"]] == list("tzyx"[-len(shape) :])
        scale = node.metadata["coordinateTransformations"][0][0]
        assert scale == {"type": "scale", "scale": [0.5] * len(shape)}


IMAGES = {
    "grey uint8": ((20, 30), "uint8", (20, 30), "yx"),
    "grey float32": ((20, 30), "float32", (20, 30), "yx"),
    "grey bool": ((20, 30), "bool", (20, 30), "yx"),
    "rgb uint8": ((20, 30, 3), "uint8", (3, 20, 30), "cyx"),
    "rgba uint16": ((20, 30, 4), "uint16", (3, 20, 30), "cyx"),
    "rgb float32": ((20, 30, 3), "float32", (3, 20, 30), "cyx"),
    "stack": ((5, 20, 30), "uint16", (5, 20, 30), "zyx"),
    "rgb stack": ((5, 20, 30, 3), "uint8", (3, 5, 20, 30), "czyx"),
    "rgb over time": ((2, 5, 20, 30, 3), "uint8", (2, 3, 5, 20, 30), "tczyx"),
}


@pytest.mark.parametrize(("shape", "dtype", "stored", "axes"), IMAGES.values(), ids=IMAGES)
def test_ome_zarr_with_image(
    tmp_path: Path, shape: tuple, dtype: str, stored: tuple, axes: str
) -> None:
    pixels = (np.arange(np.prod(shape)) % 2).astype(dtype).reshape(shape)
    colour = "c" in axes
    labels = squares(*(shape[:-1] if colour else shape))
    context = ExportContext("cells", "a.tif", pixels=pixels, records=RECORDS)
    path = export_labels(labels, tmp_path / "x.zarr", "ome-zarr", context)
    found = nodes(path)
    image, cells = found["x.zarr"], found["cells"]
    assert image.data[0].shape == stored
    assert "".join(a["name"] for a in image.metadata["axes"]) == axes
    expected = np.moveaxis(pixels[..., :3], -1, axes.index("c")) if colour else pixels
    np.testing.assert_array_equal(np.asarray(image.data[0]), expected)
    np.testing.assert_array_equal(np.asarray(cells.data[0]), labels)
    assert cells.metadata["properties"][2]["score"] == 0.5
    assert cells.metadata["properties"][2]["prompts"]["points"] == [{"row": 1.0, "col": 6.0}]
    assert set(cells.metadata["properties"]) == {2, 7}
    if len(shape) < 5:
        np.testing.assert_array_equal(read_labels(path), labels)
        np.testing.assert_array_equal(read_image(path), pixels[..., :3] if colour else pixels)


def test_ome_zarr_pyramid(tmp_path: Path) -> None:
    labels = np.zeros((2, 1100, 600), np.uint16)
    labels[:, 100:400, 50:300] = 300
    context = ExportContext(pixels=labels.astype(np.float32))
    found = nodes(export_labels(labels, tmp_path / "x.zarr", context=context))
    for node in (found["x.zarr"], found["objects"]):
        assert [d.shape for d in node.data] == [(2, 1100, 600), (2, 550, 300), (2, 275, 150)]
        assert node.data[0].chunksize == (1, 1024, 600)
    assert set(np.unique(np.asarray(found["objects"].data[2]))) == {0, 300}


def test_ome_zarr_metadata(tmp_path: Path) -> None:
    path = export_labels(squares(20, 30), tmp_path / "x.zarr")
    group = zarr.open_group(path, mode="r")
    inner: Any = group["labels/objects"].attrs["ome"]
    assert group["labels"].attrs["ome"] == {"labels": ["objects"], "version": "0.5"}
    assert inner["image-label"]["source"] == {"image": "../../"}
    assert inner["version"] == "0.5"


def test_a_zarr_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    image, notes = tmp_path / "image.ome.zarr", tmp_path / "notes.zarr"
    zarr.create_group(image).create_array("0", data=np.ones((4, 4)))
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    for path in (image, notes):  # neither is an OME-Zarr image
        with pytest.raises(ExportError, match=r"not written by napari-peftsam.*another name"):
            export_labels(squares(20, 30), path)
    assert (zarr.open_array(image / "0", mode="r")[...] == 1).all()
    assert [p.name for p in notes.iterdir()] == ["notes.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.ome.zarr", "notes.zarr"]


# --- COCO


def load(path: Path) -> COCO:
    with redirect_stdout(None):  # it prints its timings
        return COCO(str(path))


@SHAPES
def test_coco_masks_are_the_objects(tmp_path: Path, shape: tuple) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, shape)
    coco = load(export_labels(labels, tmp_path / "x.json"))
    planes = list(np.ndindex(shape[:-2]))
    assert [i.get("index", []) for i in coco.loadImgs(coco.getImgIds())] == [
        list(p) for p in planes
    ]
    for image, plane in zip(coco.getImgIds(), planes, strict=True):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image]))
        assert [a["label"] for a in annotations] == sorted(set(np.unique(labels[plane])) - {0})
        for annotation in annotations:
            expected = labels[plane] == annotation["label"]
            rows, cols = np.nonzero(expected)
            np.testing.assert_array_equal(mask.decode(annotation["segmentation"]), expected)
            np.testing.assert_array_equal(coco.annToMask(annotation), expected)
            assert annotation["area"] == expected.sum()
            x, y = cols.min(), rows.min()
            assert annotation["bbox"] == [x, y, np.ptp(cols) + 1, np.ptp(rows) + 1]
            assert annotation["iscrowd"] == 0


def test_coco_entries(tmp_path: Path) -> None:
    context = ExportContext("cells", "a.tif", records=RECORDS)
    path = export_labels(squares(2, 20, 30), tmp_path / "x.json", "coco", context)
    content = json.loads(path.read_text())
    assert [i["file_name"] for i in content["images"]] == ["a.tif", "a.tif"]
    assert content["images"][1] == {
        "id": 2, "file_name": "a.tif", "height": 20, "width": 30, "index": [1]
    }  # fmt: skip
    assert content["categories"] == [{"id": 1, "name": "cells", "supercategory": ""}]
    first, second, third = content["annotations"]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3]
    assert [a["image_id"] for a in content["annotations"]] == [1, 1, 2]
    assert "score" not in first
    assert second["score"] == 0.5
    assert second["prompts"]["points"] == [{"row": 1.0, "col": 6.0}]
    assert "score" not in third
    assert third["model"] == "manual"


@pytest.mark.parametrize(
    "plane",
    [np.ones((20, 30)), np.eye(20, 30), np.zeros((1, 1)), np.ones((1, 1))],
    ids=["full", "diagonal", "one empty pixel", "one full pixel"],
)
def test_coco_edge_cases(tmp_path: Path, plane: np.ndarray) -> None:
    coco = load(export_labels(plane.astype(int) * 5, tmp_path / "x.json"))
    for annotation in coco.loadAnns(coco.getAnnIds()):
        np.testing.assert_array_equal(mask.decode(annotation["segmentation"]), plane)
    assert len(coco.getAnnIds()) == plane.any()


# --- all formats


@ALL
def test_labels_without_objects_are_written(tmp_path: Path, name: str) -> None:
    path = export_labels(np.zeros((20, 30), bool), tmp_path / "x", name)
    assert path.exists()
    if name == "coco":
        content = json.loads(path.read_text())
        assert content["annotations"] == []
        assert len(content["images"]) == 1
    elif name.startswith(("tiff", "ome-zarr")):
        assert not read_labels(path).any()


@ALL
def test_writing_again_replaces(tmp_path: Path, name: str) -> None:
    path = export_labels(squares(40, 50), tmp_path / "x", name)
    assert export_labels(squares(20, 30), path) == path
    other = export_labels(squares(20, 30), tmp_path / "y", name)
    if name.startswith("ome-zarr"):
        np.testing.assert_array_equal(read_labels(path), read_labels(other))
    else:
        assert contents(path) == contents(other)


def contents(path: Path) -> list[tuple[str, bytes]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [(str(p.relative_to(path)), p.read_bytes()) for p in files]


@ALL
def test_the_labels_are_left_alone(tmp_path: Path, name: str) -> None:
    labels = squares(20, 30)
    labels.setflags(write=False)
    export_labels(labels, tmp_path / "x", name)
    np.testing.assert_array_equal(labels, squares(20, 30))


def files_below(path: Path) -> dict[str, bytes]:
    paths = [path, *path.rglob("*")]
    return {str(p): p.read_bytes() for p in paths if p.is_file()}


@ALL
@pytest.mark.parametrize("step", ["during writing", "at the end"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, step: str
) -> None:
    path = export_labels(squares(20, 30), tmp_path / "x", name)
    before = files_below(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if step == "at the end":
        monkeypatch.setattr(os, "fsync", full)
    else:
        writes = {
            "tiff": "tifffile.imwrite", "ome-zarr": "ome_zarr.writer.write_label_metadata",
            "ome-zarr-0.4": "ome_zarr.writer.write_label_metadata", "roi": "zipfile.ZipFile",
            "cellpose": "numpy.save", "csv": "csv.DictWriter", "overlay": "PIL.Image.Image.save",
        }  # fmt: skip
        monkeypatch.setattr(writes.get(name, "pathlib.Path.write_text"), full)
    with pytest.raises(ExportError, match="No space left on device; free some disk space"):
        export_labels(squares(40, 50), path)
    assert files_below(tmp_path) == before
