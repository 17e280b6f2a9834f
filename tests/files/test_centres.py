"""Tables of centres, as people and programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_peftsam.errors import InputFileError, PromptError
from napari_peftsam.files import read_centres
from napari_peftsam.metadata import ImageMetadata

PLANE, STACK = (40, 50), (5, 40, 50)
TABLES = {
    "rows and columns": ("row,col\n3,4\n10.5,20\n", PLANE, {(): ((3, 4), (10.5, 20))}),
    "x before y": ("x,y\n4,3\n", PLANE, {(): ((3, 4),)}),
    "semicolons and other columns": ("name;Y;X\na;3;4\n", PLANE, {(): ((3, 4),)}),
    "napari's points": (
        "index,axis-0,axis-1,axis-2\n0.0,2,3,4\n1,4,5,6\n", STACK,
        {(2,): ((3, 4),), (4,): ((5, 6),)},
    ),
    "a stack": ("z,row,col\n1,3,4\n\n1,5,6\n", STACK, {(1,): ((3, 4), (5, 6))}),
    "between planes": (
        "z,row,col\n0.5,3,4\n1.5,3,4\n", STACK, {(1,): ((3, 4),), (2,): ((3, 4),)},
    ),
    "our own measurements": (
        "image,label,row_px,col_px,y_micrometer,x_micrometer\na,1,3,4,1.5,2\n", PLANE,
        {(): ((3, 4),)},
    ),
    "with a mark of its encoding": ("\ufeffrow\tcol\n3\t4\n", PLANE, {(): ((3, 4),)}),
}  # fmt: skip


@pytest.mark.parametrize(("text", "shape", "expected"), TABLES.values(), ids=TABLES.keys())
def test_centres(text: str, shape: tuple[int, ...], expected: dict, tmp_path: Path) -> None:
    path = tmp_path / "centres.csv"
    path.write_text(text, encoding="utf-8")
    assert read_centres(path, shape) == expected


BAD = {
    "no columns": ("3,4\n5,6\n", PLANE, InputFileError, "has no columns row and col"),
    "a cell without end": (
        "row,col\n3," + "4" * 200_000, PLANE, InputFileError, "cannot be read as a table",
    ),
    "too many lines": (
        "row,col\n" + "3,4\n" * 1_000_001, PLANE, InputFileError, "more than 1,000,000 lines",
    ),
    "too many columns": ("," * 20_000, PLANE, InputFileError, "or 10,000 characters in one"),
    "no plane": ("row,col\n3,4\n", STACK, InputFileError, "has no column z"),
    "no number": (
        "row,col\n3,4\n5,x\n",
        PLANE,
        PromptError,
        "line 3 must hold a number with a decimal point",
    ),
    "too few": ("row,col\n3\n", PLANE, PromptError, "line 2 must hold a number"),
    "outside": ("row,col\n3,400\n", PLANE, PromptError, "line 2 lies outside"),
    "no value": ("row,col\n3,nan\n", PLANE, PromptError, "line 2 lies outside"),
    "more axes than the image": (
        "axis-0,axis-1,axis-2\n1,2,3\n",
        PLANE,
        InputFileError,
        "the image has 2 axes",
    ),
    "a plane without planes": ("z,row,col\n1,2,3\n", PLANE, InputFileError, "has 2 axes"),
    "after the last plane": ("z,row,col\n4.5,2,3\n", STACK, PromptError, "line 2 lies outside"),
    "nothing": ("row,col\n", PLANE, InputFileError, "holds no centre"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "shape", "error", "match"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named(
    text: str, shape: tuple[int, ...], error: type[Exception], match: str, tmp_path: Path
) -> None:
    path = tmp_path / "centres.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(error, match=match):
        read_centres(path, shape)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "centres.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputFileError, match="it is no text in UTF-8"):
        read_centres(tmp_path / "centres.csv", PLANE)
    with pytest.raises(InputFileError, match="No such file"):
        read_centres(tmp_path / "none.csv", PLANE)


def test_units_of_imagej_are_no_pixels(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(" ,Area,X,Y\n1,20,3.5,4.5\n")
    assert read_centres(tmp_path / "x.csv", PLANE) == {(): ((4.5, 3.5),)}
    calibrated = ImageMetadata.of((0.5, 0.5), ("um", "um"))
    with pytest.raises(InputFileError, match="call the columns x_px and y_px"):
        read_centres(tmp_path / "x.csv", PLANE, calibrated)
