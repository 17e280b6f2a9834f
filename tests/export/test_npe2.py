"""The writers that the manifest names, called as npe2 calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_peftsam.export import npe2
from napari_peftsam.files import open_labels, read_labels, read_objects

LABELS = np.pad(np.full((2, 3), 4), 5)
META = {"name": "my cells", "scale": (0.5, -0.5), "opacity": 0.7}


@pytest.mark.parametrize(
    ("data", "meta"),
    [(LABELS, META), (LABELS, {}), ([LABELS, LABELS[::2, ::2]], {**META, "multiscale": True})],
    ids=["layer", "no attributes", "pyramid"],
)
@pytest.mark.parametrize(
    ("writer", "name"),
    [
        (npe2.write_labels_tiff, "x.tif"),
        (npe2.write_labels_ome_zarr, "x.ome.zarr"),
        (npe2.write_labels_coco, "x.json"),
    ],
    ids=["tiff", "ome-zarr", "coco"],
)
def test_writers(tmp_path: Path, writer: Any, name: str, data: Any, meta: dict) -> None:
    path = tmp_path / name
    assert writer(str(path), data, meta) == [str(path)]
    if name == "x.json":
        (annotation,) = json.loads(path.read_text())["annotations"]
        assert annotation["bbox"] == [5, 5, 3, 2]
    else:
        np.testing.assert_array_equal(read_labels(path), LABELS)


def test_outlines_and_measurements(tmp_path: Path) -> None:
    for writer, name in (
        (npe2.write_labels_geojson, "x.geojson"),
        (npe2.write_labels_roi, "x.zip"),
    ):
        assert writer(str(tmp_path / name), LABELS, META) == [str(tmp_path / name)]
        np.testing.assert_array_equal(read_objects(tmp_path / name, LABELS.shape).labels, LABELS)
    calibrated = {**META, "units": ("um", "um")}
    npe2.write_labels_csv(str(tmp_path / "x.csv"), LABELS, calibrated)
    assert "area_micrometer2" in (tmp_path / "x.csv").read_text()


def test_the_scale_is_kept(tmp_path: Path) -> None:
    npe2.write_labels_tiff(str(tmp_path / "x.tif"), LABELS, {**META, "units": ("um", "um")})
    metadata = open_labels(tmp_path / "x.tif")[1]
    assert metadata.scale == (0.5, 0.5)
    assert metadata.units == ("micrometer", "micrometer")
