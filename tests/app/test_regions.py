"""Complete regions and declared background: what they tell, and where they are written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from napari_peftsam.app.export_context import context_of
from napari_peftsam.app.regions import (
    background_stroke,
    complete_area,
    known_background,
    regions_at,
)
from napari_peftsam.document import CompleteRegion, Document, MarkComplete, PlaneKey
from napari_peftsam.errors import PromptError
from napari_peftsam.export import export_labels
from napari_peftsam.files import read_labels
from napari_peftsam.types import Box
from tests.document._cases import CELLS, IMAGE, SHAPE, STACK, accept, make_document, rectangle

TRIANGLE = [(2, 2), (2, 20), (18, 2)]


@pytest.fixture
def document() -> Document:
    return make_document()


def known(document: Document, plane: PlaneKey = CELLS) -> np.ndarray:
    found = known_background(document.image(plane.image), plane)
    return np.zeros(SHAPE, bool) if found is None else found


def test_without_a_declaration_nothing_is_known(document: Document) -> None:
    accept(document, rectangle(2, 2, 5, 5))
    assert known_background(document.image(IMAGE), CELLS) is None


def test_what_is_unlabelled_in_a_complete_image_is_background(document: Document) -> None:
    mask = rectangle(2, 2, 5, 5)
    accept(document, mask)
    document.do(MarkComplete(IMAGE))
    np.testing.assert_array_equal(known(document), ~mask)


def test_a_rectangle_has_two_opposite_corners(document: Document) -> None:
    document.do(complete_area(CELLS, [(12, 20), (3, 9), (4, 6)], is_rectangle=True))
    [region] = document.image(IMAGE).info.complete
    assert region == CompleteRegion((), Box(4, 6, 13, 21))
    np.testing.assert_array_equal(known(document), rectangle(4, 6, 13, 21))


def test_a_lasso_is_complete_inside(document: Document) -> None:
    document.do(complete_area(CELLS, TRIANGLE, is_rectangle=False))
    assert known(document)[4, 4]
    assert not known(document)[17, 19]


def test_an_area_belongs_to_its_plane(document: Document) -> None:
    document.do(complete_area(STACK, TRIANGLE, is_rectangle=True))
    assert known(document, STACK).any()
    assert not known(document, PlaneKey(STACK.image, (0,))).any()


@pytest.mark.parametrize("is_rectangle", [True, False], ids=["rectangle", "lasso"])
def test_an_area_holds_something(is_rectangle: bool) -> None:
    with pytest.raises(PromptError, match="goes around nothing"):
        complete_area(CELLS, [(3, 3), (3, 9)], is_rectangle=is_rectangle)


def test_areas_are_found_and_taken_back_by_a_position(document: Document) -> None:
    document.do(complete_area(CELLS, TRIANGLE, is_rectangle=False))
    image = document.image(IMAGE)
    assert regions_at(image, CELLS, 20, 25) == ()
    assert regions_at(image, CELLS, 99, -3) == ()  # outside the image
    [region] = regions_at(image, CELLS, 4, 4)
    document.do(MarkComplete(IMAGE, region, is_complete=False))
    assert not known(document).any()


def test_strokes_declare_background_and_revoke_it(document: Document) -> None:
    image, path = document.image(IMAGE), [(5, 5), (5, 20)]
    document.do(background_stroke(image, CELLS, path, 2, is_background=True))
    assert known(document)[4:7, 5:20].all()
    assert not known(document)[9].any()
    document.do(background_stroke(image, CELLS, [(5, 12)], 3, is_background=False))
    assert not known(document)[5, 12]
    assert known(document)[5, 5]
    document.undo()
    assert known(document)[5, 12]
    with pytest.raises(PromptError, match="outside the image"):
        background_stroke(image, CELLS, [(99, 99)], 2, is_background=True)


# --- exported -----------------------------------------------------------------------


@pytest.fixture
def declared(document: Document) -> Document:
    accept(document, rectangle(2, 2, 5, 5))
    document.do(complete_area(CELLS, TRIANGLE, is_rectangle=True))
    image = document.image(IMAGE)
    document.do(background_stroke(image, CELLS, [(20, 25)], 2, is_background=True))
    return document


COMPLETE = [{"index": [], "box": [2, 2, 19, 3], "outline": []}]


def in_tiff(path: Path) -> object:
    with tifffile.TiffFile(path) as tiff:
        assert tiff.imagej_metadata is not None
        return json.loads(tiff.imagej_metadata["Info"])["napari-peftsam"]["complete"]


def in_coco(path: Path) -> object:
    [image] = json.loads(path.read_text())["images"]
    return image["complete"]


def in_zarr(path: Path) -> object:
    attributes = dict(zarr.open_group(path / "labels" / "objects", mode="r").attrs)
    about = attributes.get("ome", attributes)["image-label"]
    return about["napari-peftsam"]["complete"]


@pytest.mark.parametrize(
    ("name", "read"),
    [("x.tif", in_tiff), ("x.json", in_coco), ("x.ome.zarr", in_zarr)],
    ids=["TIFF", "COCO", "OME-Zarr"],
)
def test_complete_areas_are_exported(
    declared: Document, tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    image = declared.image(IMAGE)
    path = export_labels(image.labels, tmp_path / name, context=context_of(image))
    assert read(path) == COMPLETE


def test_background_is_a_label_image_in_ome_zarr(declared: Document, tmp_path: Path) -> None:
    image = declared.image(IMAGE)
    path = export_labels(image.labels, tmp_path / "x.ome.zarr", context=context_of(image))
    found = np.asarray(zarr.open_group(path, mode="r")["labels/background/s0"])
    assert image.background is not None
    np.testing.assert_array_equal(found, image.background)
    np.testing.assert_array_equal(read_labels(path), image.labels)  # the objects are read back
