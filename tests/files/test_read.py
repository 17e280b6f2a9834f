"""Every kind of file is read as the array that another library wrote."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_peftsam.errors import InputFileError, LabelError
from napari_peftsam.files import image_name, image_shape, open_image, read_image, read_labels
from napari_peftsam.planes import LazyImage, plane_of


def ramp(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)


TIFFS = {
    "grey": (ramp(20, 30), {}, (20, 30)),
    "uint16": (ramp(20, 30, dtype="uint16"), {"compression": "zlib"}, (20, 30)),
    "float32": (ramp(20, 30, dtype="float32"), {}, (20, 30)),
    "big-endian": (ramp(20, 30, dtype="uint16"), {"byteorder": ">"}, (20, 30)),
    "rgb": (ramp(20, 30, 3), {"photometric": "rgb"}, (20, 30, 3)),
    "rgba": (ramp(20, 30, 4), {"photometric": "rgb"}, (20, 30, 3)),
    "stack": (ramp(5, 20, 30), {"photometric": "minisblack"}, (5, 20, 30)),
    "stack of one": (ramp(1, 20, 30), {"photometric": "minisblack"}, (20, 30)),
    "three named planes are no colours": (
        ramp(3, 20, 30),
        {"photometric": "minisblack", "metadata": {"axes": "ZYX"}},
        (3, 20, 30),
    ),
    "time and depth": (
        ramp(4, 5, 20, 30),
        {"imagej": True, "metadata": {"axes": "TZYX"}},
        (4, 5, 20, 30),
    ),
    "rgb stack": (ramp(5, 20, 30, 3), {"photometric": "rgb"}, (5, 20, 30, 3)),
    "channel-first rgb": (ramp(3, 20, 30), {"photometric": "rgb"}, (20, 30, 3)),
    "tiled": (ramp(20, 30), {"tile": (16, 16)}, (20, 30)),
    "ImageJ stack": (ramp(5, 20, 30), {"imagej": True, "metadata": {"axes": "ZYX"}}, (5, 20, 30)),
}


@pytest.mark.parametrize(("array", "options", "shape"), TIFFS.values(), ids=TIFFS)
def test_tiff(tmp_path: Path, array: np.ndarray, options: dict, shape: tuple) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array, **options)
    read = read_image(path)
    expected = array
    if read.ndim == 3 and read.shape[-1] == 3 and array.shape[0] == 3:
        expected = np.moveaxis(array, 0, -1)
    elif array.shape[-1] == 4:
        expected = array[..., :3]
    assert read.shape == shape
    assert image_shape(path) == (shape[:-1] if shape[2:] and shape[-1] == 3 else shape)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, expected.reshape(shape))


@pytest.mark.parametrize(
    "array",
    [ramp(20, 30), ramp(20, 30, dtype="uint16"), ramp(20, 30, 3), ramp(5, 20, 30)],
    ids=["grey", "uint16", "rgb", "stack"],
)
def test_lzw_tiff(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "x.tif"
    planes = [Image.fromarray(a) for a in (array if array.shape[0] == 5 else [array])]
    planes[0].save(path, compression="tiff_lzw", save_all=True, append_images=planes[1:])
    np.testing.assert_array_equal(read_image(path), array)


PLAIN = {
    "grey": (ramp(20, 30), "L", ramp(20, 30)),
    "uint16": (ramp(20, 30, dtype="uint16"), "I;16", ramp(20, 30, dtype="uint16")),
    "rgb": (ramp(20, 30, 3), "RGB", ramp(20, 30, 3)),
    "rgba": (ramp(20, 30, 4), "RGBA", ramp(20, 30, 4)[..., :3]),
    "grey and alpha": (ramp(20, 30, 2), "LA", ramp(20, 30, 2)[..., 0]),
    "bits": (ramp(20, 30) > 99, "1", ramp(20, 30) > 99),
}


@pytest.mark.parametrize(("array", "mode", "expected"), PLAIN.values(), ids=PLAIN)
def test_png(tmp_path: Path, array: np.ndarray, mode: str, expected: np.ndarray) -> None:
    path = tmp_path / "x.png"
    image = Image.fromarray(array)
    assert image.mode == mode
    image.save(path)
    np.testing.assert_array_equal(read_image(path), expected)
    assert image_shape(path) == expected.shape[:2]


def test_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "x.JPG"
    Image.fromarray(np.full((16, 24, 3), 90, np.uint8)).save(path, "JPEG")
    np.testing.assert_allclose(read_image(path), np.full((16, 24, 3), 90), atol=2)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_palette_is_colours_for_images_and_numbers_for_labels(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    numbers = (ramp(20, 30) % 3).astype(np.uint8)
    image = Image.fromarray(numbers)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(path)
    red = read_image(path)[..., 0]
    assert read_image(path).shape == (20, 30, 3)
    assert ((red > 0) == (numbers == 1)).all()
    np.testing.assert_array_equal(read_labels(path), numbers)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((20, 30), (20, 30)),
        ((1, 1, 1, 20, 30), (20, 30)),
        ((5, 20, 30), (5, 20, 30)),
        ((20, 30, 3), (20, 30, 3)),
        ((20, 30, 4), (20, 30, 3)),
        ((1, 5, 20, 30), (5, 20, 30)),
    ],
    ids=str,
)
def test_zarr_array(tmp_path: Path, version: Any, stored: tuple, shape: tuple) -> None:
    path = tmp_path / "x.zarr"
    array = zarr.create_array(path, shape=stored, dtype="uint16", zarr_format=version)
    array[...] = ramp(*stored, dtype="uint16")
    expected = ramp(*stored, dtype="uint16")
    expected = expected[..., :3] if stored[-1] == 4 else expected
    np.testing.assert_array_equal(read_image(path), expected.reshape(shape))


@pytest.mark.parametrize(
    "metadata",
    [{"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}],
    ids=["filter", "compressor"],
)
@pytest.mark.parametrize("dtype", ["|u1", "|O"])
def test_no_codec_of_a_zarr_runs_code(tmp_path: Path, metadata: dict, dtype: str) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return (tmp_path / "ran").mkdir, ()

    array = {"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": dtype, "order": "C"}
    array |= {"compressor": None, "filters": None, "fill_value": 0, **metadata}
    path = tmp_path / "x.zarr"
    path.mkdir()
    (path / ".zarray").write_text(json.dumps(array))
    (path / "0.0").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(InputFileError):
        read_image(path)
    assert not (tmp_path / "ran").exists()


def ome_zarr(path: Path, axes: str, shape: tuple, version: Any, labels: tuple = ()) -> np.ndarray:
    group = zarr.create_group(path, zarr_format=version)
    names = [{"name": a} for a in axes]
    metadata = [{"axes": names, "datasets": [{"path": "s0"}, {"path": "s1"}]}]
    attributes = {"multiscales": metadata}
    group.attrs.update(attributes if version == 2 else {"ome": attributes})
    for level in ("s0", "s1"):
        array = group.create_array(level, shape=shape, dtype="uint8")
        array[...] = ramp(*shape)
    if labels:
        inner = group.create_group("labels")
        attributes = {"labels": list(labels)}
        inner.attrs.update(attributes if version == 2 else {"ome": attributes})
        for name in labels:
            inner.create_array(f"{name}/0", data=np.ones(shape[-2:], np.uint16))
    return ramp(*shape)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("yx", (20, 30), (20, 30)),
        ("tczyx", (1, 1, 1, 20, 30), (20, 30)),
        ("tczyx", (1, 1, 5, 20, 30), (5, 20, 30)),
        ("tyx", (3, 20, 30), (3, 20, 30)),
        ("tzyx", (2, 5, 20, 30), (2, 5, 20, 30)),
    ],
    ids=str,
)
def test_ome_zarr(tmp_path: Path, axes: str, shape: tuple, expected: tuple, version: int) -> None:
    array = ome_zarr(tmp_path / "x.ome.zarr", axes, shape, version)
    np.testing.assert_array_equal(read_image(tmp_path / "x.ome.zarr"), array.reshape(expected))


@pytest.mark.parametrize("version", [2, 3])
def test_labels_inside_an_ome_zarr(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.ome.zarr"
    ome_zarr(path, "yx", (20, 30), version, labels=("cells",))
    assert (read_labels(path) == 1).all()
    assert (read_labels(path / "labels" / "cells") == 1).all()
    np.testing.assert_array_equal(read_image(path), ramp(20, 30))


def test_several_label_images_inside_an_ome_zarr(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "x.zarr", "yx", (20, 30), 3, labels=("cells", "nuclei"))
    with pytest.raises(InputFileError, match="cells, nuclei: open one"):
        read_labels(tmp_path / "x.zarr")


def missing(path: Path) -> None:
    pass


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("not an image")


def folder(path: Path) -> None:
    path.mkdir()


def cut(write: Any) -> Any:
    def write_and_cut(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])

    return write_and_cut


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


def png(path: Path) -> None:
    Image.fromarray(noise(20, 30)).save(path)


def stack(path: Path) -> None:
    tifffile.imwrite(path, noise(5, 20, 30), compression="zlib", photometric="minisblack")


def plane(path: Path) -> None:
    tifffile.imwrite(path, noise(40, 30))


def tiles(path: Path) -> None:
    tifffile.imwrite(path, noise(40, 64), tile=(16, 16))


def lzw(path: Path) -> None:
    Image.fromarray(noise(40, 30)).save(path, compression="tiff_lzw")


def two_channels(path: Path) -> None:
    tifffile.imwrite(path, ramp(2, 20, 30), imagej=True, metadata={"axes": "CYX"})


def complex_numbers(path: Path) -> None:
    tifffile.imwrite(path, ramp(20, 30, dtype="complex64"))


def two_arrays(path: Path) -> None:
    group = zarr.create_group(path)
    group.create_array("a", shape=(4, 4), dtype="uint8")
    group.create_array("b", shape=(4, 4), dtype="uint8")


def line(path: Path) -> None:
    zarr.create_array(path, data=ramp(9))


def postscript(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def damaged_zarr(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("{")


UNREADABLE = [
    (missing, "x.tif", "no such file"),
    (missing, "x.zarr", "no such file"),
    (text, "x.txt", r"unknown kind \.txt; images are read from \.tif"),
    (text, "x", r"unknown kind \(no suffix\)"),
    (folder, "x.tif", "is a folder"),
    (folder, "x.zarr", "is a folder"),
    (empty, "x.tif", r"is empty \(0 bytes\)"),
    (empty, "x.png", r"is empty \(0 bytes\)"),
    (text, "x.tif", "cannot be read"),
    (text, "x.jpg", "cannot be read"),
    (text, "x.zarr", "unknown kind|cannot be read"),
    (cut(png), "x.png", "cannot be read"),
    (postscript, "x.png", "cannot be read"),
    (pipe, "x.tif", "no regular file"),
    (cut(stack), "x.tif", "breaks off|cannot be read"),
    (cut(plane), "x.tif", "cannot be read"),
    (cut(tiles), "x.tif", "cannot be read"),
    (cut(lzw), "x.tif", "cannot be read"),
    (two_channels, "x.tif", r"holds 2 channels \(0, 1\): choose one"),
    (complex_numbers, "x.tif", "real numbers"),
    (two_arrays, "x.zarr", "found a, b"),
    (line, "x.zarr", "got axes Q"),
    (damaged_zarr, "x.zarr", "cannot be read"),
]


@pytest.mark.parametrize(
    ("make", "name", "message"),
    UNREADABLE,
    ids=[f"{m.__qualname__.split('.')[0]} {n} {t[:20]}" for m, n, t in UNREADABLE],
)
def test_unreadable_files_are_named_in_one_line(
    tmp_path: Path, make: Any, name: str, message: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(InputFileError, match=message) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


LABELS = {
    "uint16": (ramp(20, 30, dtype="uint16"), None),
    "signed": (ramp(20, 30, dtype="int32"), None),
    "stack": (ramp(4, 20, 30, dtype="uint16"), None),
    "bool": (ramp(20, 30) > 99, None),
    "whole floats": (ramp(20, 30, dtype="float32"), None),
    "float": (ramp(20, 30, dtype="float32") / 2, "whole numbers, got float32"),
    "not a number": (np.full((20, 30), np.nan, np.float32), "whole numbers, got float32"),
    "negative": (ramp(20, 30, dtype="int16") - 3, "must not be negative, got -3"),
    "colour": (ramp(20, 30, 3), "colour image"),
}


@pytest.mark.parametrize(("array", "message"), LABELS.values(), ids=LABELS)
def test_labels(tmp_path: Path, array: np.ndarray, message: str | None) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, array, photometric="rgb" if array.shape[-1] == 3 else "minisblack")
    if message is None:
        read = read_labels(path)
        assert read.dtype.kind in "iu"
        np.testing.assert_array_equal(read, array)
    else:
        with pytest.raises(LabelError, match=message):
            read_labels(path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.tif", "x"),
        ("x.ome.tif", "x"),
        ("x.ome.zarr", "x"),
        ("x.1.TIFF", "x.1"),
        ("x", "x"),
        ("x.txt", "x.txt"),
        (".tif", ".tif"),
    ],
)
def test_image_name(name: str, expected: str) -> None:
    assert image_name(Path("folder") / name) == expected


# --- lazily --------------------------------------------------------------------------------


@pytest.fixture
def nothing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small arrays be opened as large ones are."""
    monkeypatch.setattr("napari_peftsam.files._read._READ_AT_ONCE", 0)


@pytest.mark.usefixtures("nothing_at_once")
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        pytest.param("yx", (20, 30), id="plane"),
        pytest.param("tczyx", (1, 1, 1, 20, 30), id="ome plane"),
        pytest.param("xyz", (30, 20, 4), id="other order"),
        pytest.param("zyx", (4, 20, 30), id="stack"),
    ],
)
def test_a_zarr_is_opened_as_it_is_read(tmp_path: Path, axes: str, shape: tuple) -> None:
    group = zarr.create_group(tmp_path / "x.zarr")
    group.create_array("0", data=ramp(*shape, dtype="uint16"))
    named = [{"name": a} for a in axes]
    group.attrs["multiscales"] = [{"axes": named, "datasets": [{"path": "0"}]}]
    whole, opened = read_image(tmp_path / "x.zarr"), open_image(tmp_path / "x.zarr").pixels
    assert isinstance(opened, LazyImage)
    assert opened.shape == whole.shape
    assert opened.dtype == whole.dtype
    np.testing.assert_array_equal(np.asarray(opened), whole)
    np.testing.assert_array_equal(opened[..., 2:5], whole[..., 2:5])
    np.testing.assert_array_equal(opened[1:3], whole[1:3])
    np.testing.assert_array_equal(opened[-1], whole[-1])
    with pytest.raises(IndexError, match="without steps"):
        opened[::2]


@pytest.mark.usefixtures("nothing_at_once")
def test_alpha_is_left_out_lazily_too(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=ramp(20, 30, 4))
    opened = open_image(tmp_path / "x.zarr").pixels
    assert opened.shape == (20, 30, 3)
    np.testing.assert_array_equal(opened[3:5, 6:8], ramp(20, 30, 4)[3:5, 6:8, :3])


def test_what_is_small_is_read_at_once(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=ramp(20, 30))
    assert isinstance(open_image(tmp_path / "x.zarr").pixels, np.ndarray)


class _Counting:
    """A source on disk that counts how many pixels are read of it."""

    shape, dtype = (5, 40, 50), np.dtype(np.uint8)

    def __init__(self) -> None:
        self.read = 0

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        part = ramp(*self.shape)[key]
        self.read += part.size
        return part


def test_a_plane_of_a_stack_is_not_read_until_a_part_of_it_is() -> None:
    source = _Counting()
    plane = plane_of(source, (3,))
    assert plane.shape == (40, 50)
    assert source.read == 0
    np.testing.assert_array_equal(plane[2:4, 5:9], ramp(5, 40, 50)[3, 2:4, 5:9])
    assert source.read == 8


def test_a_plane_of_an_array_is_a_view() -> None:
    stack = ramp(3, 4, 5)
    assert np.shares_memory(plane_of(stack, (1,)), stack)  # type: ignore[arg-type]
