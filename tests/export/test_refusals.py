"""Where exports may be written and what is refused, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_peftsam.errors import ConfigurationError, ExportError, LabelError
from napari_peftsam.export import FORMATS, ExportContext, export_labels

LABELS = np.eye(20, 30, dtype=np.int32)
ALL = pytest.mark.parametrize("name", list(FORMATS))


@ALL
@pytest.mark.parametrize("parent", ["missing", "file"])
def test_no_such_folder(tmp_path: Path, name: str, parent: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / parent / f"x{FORMATS[name].suffixes[0]}"
    with pytest.raises(ExportError, match="cannot write"):
        export_labels(LABELS, path, name)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_labels_are_not_added_where_a_link_leads(tmp_path: Path) -> None:
    image = tmp_path / "x.ome.zarr"
    group = zarr.create_group(image)
    group.create_array("0", shape=LABELS.shape, dtype=np.uint8)
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    (tmp_path / "elsewhere").mkdir()
    (image / "labels").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="leads to another folder"):
        export_labels(LABELS, image)
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("given", "name", "written"),
    [
        ("x", "tiff", "x.tif"),
        ("x.TIFF", "tiff", "x.TIFF"),
        ("x.TIFF", None, "x.TIFF"),
        ("x_0.5um", "tiff", "x_0.5um.tif"),
        ("x", "ome-zarr", "x.ome.zarr"),
        ("x.zarr", "ome-zarr", "x.zarr"),
        ("x.ome.zarr", None, "x.ome.zarr"),
        ("x", "coco", "x.json"),
        ("x.json", None, "x.json"),
        ("x", "roi", "x.zip"),
        ("x", "cellpose", "x_seg.npy"),
        ("x.csv", None, "x.csv"),
        ("x.geojson", None, "x.geojson"),
    ],
)
def test_suffixes(tmp_path: Path, given: str, name: str | None, written: str) -> None:
    assert export_labels(LABELS, str(tmp_path / given), name) == tmp_path / written
    assert [p.name for p in tmp_path.iterdir()] == [written]


@pytest.mark.parametrize(
    ("given", "name", "message"),
    [
        ("x.tif", "tif", "unknown export format 'tif': choose one of tiff, ome-zarr, .*coco"),
        ("x.gif", None, r"no export format has this suffix: end the name in one of \.tif"),
        ("x", None, "no export format has this suffix"),
        ("x.json", "tiff", r"not written to \.json files: end the name in \.tif or \.tiff"),
        ("x.png", "coco", r"not written to \.png files"),
        ("x.tif", "ome-zarr", r"not written to \.tif files"),
        ("", "tiff", "is a folder: name a file in it"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, given: str, name: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        export_labels(LABELS, tmp_path / given, name)
    assert list(tmp_path.iterdir()) == []


@ALL
@pytest.mark.parametrize(
    ("labels", "context", "error", "message"),
    [
        (LABELS - 1, {}, LabelError, "cells: labels must not be negative"),
        (LABELS.astype("float32"), {}, LabelError, "cells: labels must be whole"),
        (np.zeros(9, int), {}, LabelError, r"got \(9,\)"),
        (np.zeros((0, 9), int), {}, LabelError, r"got \(0, 9\)"),
        (np.zeros((1,) * 5, int), {}, LabelError, "choose the planes"),
        (LABELS, {"pixels": np.ones((9, 9))}, LabelError, r"\(20, 30\).*\(9, 9\)"),
        (LABELS, {"scale": (1, 1, 1)}, ConfigurationError, "along each axis"),
        (LABELS, {"scale": (1, 0)}, ConfigurationError, "above 0"),
        (LABELS, {"records": [{"score": 1}]}, ConfigurationError, "provenance.*label"),
        (LABELS, {"records": [{"label": 1}] * 2}, ConfigurationError, "two records"),
        (
            LABELS,
            {"records": [{"label": 1, "score": float("nan")}]},
            ConfigurationError,
            "JSON types only",
        ),
        (
            LABELS,
            {"records": [{"label": 1, "mask": LABELS}]},
            ConfigurationError,
            "JSON types only",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_exported(
    tmp_path: Path, name: str, labels: np.ndarray, context: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        export_labels(labels, tmp_path / "x", name, ExportContext("cells", **context))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_shows_one_plane(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="export its planes one by one"):
        export_labels(np.stack([LABELS, LABELS]), tmp_path / "x.png")
