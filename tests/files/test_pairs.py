"""Images and labels are paired by name, and a pair that cannot be used says why."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_peftsam.errors import InputFileError, LabelError
from napari_peftsam.files import check_pair, check_shapes, find_images, pair_folders
from napari_peftsam.metadata import ReadOptions

PLANE = np.arange(600, dtype=np.uint8).reshape(20, 30)


def write(folder: Path, *names: str, array: np.ndarray = PLANE) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.endswith(".zarr"):
            zarr.create_array(folder / name, data=array)
        elif name.endswith(".png"):
            Image.fromarray(array).save(folder / name)
        elif name.endswith((".tif", ".TIF")):
            tifffile.imwrite(folder / name, array)
        else:
            (folder / name).write_text("no image")
    return folder


def test_pairs_by_name_whatever_the_suffix(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "b.png", "a.ome.tif", "c.ome.zarr", "notes.txt", ".x.tif")
    labels = write(tmp_path / "labels", "a.png", "b.zarr", "c.TIF", ".x.tif")
    pairs = pair_folders(images, str(labels))
    assert [p.name for p in pairs] == ["a", "b", "c"]
    assert [p.image_path.name for p in pairs] == ["a.ome.tif", "b.png", "c.ome.zarr"]
    assert [p.label_path.name for p in pairs] == ["a.png", "b.zarr", "c.TIF"]
    for pair in pairs:
        pixels, found = pair.read()
        np.testing.assert_array_equal(pixels, PLANE)
        np.testing.assert_array_equal(found, PLANE)


def test_files_without_partner_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = write(tmp_path / "images", "a.tif", "b.tif")
    labels = write(tmp_path / "labels", "a.tif", "c.tif")
    with caplog.at_level(logging.WARNING):
        assert [p.name for p in pair_folders(images, labels)] == ["a"]
    assert "b, c" in caplog.text


def test_no_pair_names_folders_and_examples(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "a.tif", "b.tif", "c.tif", "d.tif")
    labels = write(tmp_path / "labels", "a_mask.tif")
    with pytest.raises(InputFileError) as caught:
        pair_folders(images, labels)
    for part in (str(images), str(labels), "a.tif, b.tif, c.tif, ...", "a_mask.tif", "rename"):
        assert part in str(caught.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "a.tif")
    with pytest.raises(InputFileError, match=r"labels \(no \.tif"):
        pair_folders(images, write(tmp_path / "labels", "a.txt"))


def test_two_files_of_one_name_are_ambiguous(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "a.tif", "a.png")
    with pytest.raises(InputFileError, match=r"a\.png and a\.tif have the same name"):
        pair_folders(images, write(tmp_path / "labels", "a.tif"))


@pytest.mark.parametrize("missing", ["images", "labels"])
def test_missing_folder(tmp_path: Path, missing: str) -> None:
    write(tmp_path / ("labels" if missing == "images" else "images"), "a.tif")
    with pytest.raises(InputFileError, match=f"{missing}: no such folder"):
        pair_folders(tmp_path / "images", tmp_path / "labels")


def test_one_folder_for_both(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "a.tif")
    with pytest.raises(InputFileError, match="put them into two"):
        pair_folders(images, tmp_path / "images" / ".." / "images")


def test_what_stands_for_several_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "images", "b.tif", "a.png", "notes.txt")
    single = write(tmp_path, "c.tif") / "c.tif"
    found = find_images([single, folder, folder / "*.png"])
    assert [p.name for p in found] == ["c.tif", "a.png", "b.tif", "a.png"]
    for nothing in (folder / "*.zarr", write(tmp_path / "empty", "notes.txt")):
        with pytest.raises(InputFileError, match="holds no image"):
            find_images([nothing])


def test_names_in_two_forms_of_unicode_are_one(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "caf\u00e9.tif")
    labels = write(tmp_path / "labels", "cafe\u0301.tif")
    assert [p.name for p in pair_folders(images, labels)] == ["caf\u00e9"]


def two_squares(number: int = 255) -> np.ndarray:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:5, 2:5] = mask[8:12, 8:12] = number
    return mask


def test_a_mask_of_one_number_is_said_to_be_one_object(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = write(tmp_path / "images", "a.tif")
    labels = write(tmp_path / "labels", "a.tif", array=two_squares())
    (pair,) = pair_folders(images, labels)
    np.testing.assert_array_equal(pair.read()[1], two_squares())
    assert "a: all 2 separate pieces have the number 255" in caplog.text
    (pair,) = pair_folders(images, labels, ReadOptions(number_pieces=True))
    assert np.unique(pair.read()[1]).tolist() == [0, 1, 2]


def test_labels_without_objects_are_read(tmp_path: Path) -> None:
    images = write(tmp_path / "images", "a.tif")
    labels = write(tmp_path / "labels", "a.tif", array=two_squares(0))
    assert not pair_folders(images, labels)[0].read()[1].any()


ONES = np.ones((20, 30), np.uint8)


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        ((20, 30), (20, 30)),
        ((20, 30, 3), (20, 30)),
        ((20, 30, 4), (20, 30)),
        ((5, 20, 30), (5, 20, 30)),
        ((5, 20, 30, 3), (5, 20, 30)),
        ((5, 20, 3), (5, 20, 3)),
    ],
    ids=str,
)
def test_shapes_that_fit(pixels: tuple, labels: tuple) -> None:
    check_pair(np.zeros(pixels), np.ones(labels, np.uint8), "x")


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        ((20, 30), (30, 20)),
        ((20, 30, 2), (20, 30)),
        ((5, 20, 30), (20, 30)),
        ((20, 30), (1, 20, 30)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(pixels: tuple, labels: tuple) -> None:
    with pytest.raises(LabelError) as caught:
        check_shapes(np.zeros(pixels), np.ones(labels, np.uint8), "cells 7")
    for part in ("cells 7", str(pixels), str(labels)):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (ONES * 0, "x: the labels hold no object"),
        (ONES.astype(float), "x: labels must be whole numbers"),
        (-ONES.astype(int), "x: labels must not be negative"),
    ],
    ids=["empty", "float", "negative"],
)
def test_labels_that_cannot_be_used(labels: np.ndarray, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        check_pair(PLANE, labels, "x")


def test_booleans_are_one_object() -> None:
    assert check_pair(PLANE, ONES.astype(bool), "x").dtype == np.uint8
