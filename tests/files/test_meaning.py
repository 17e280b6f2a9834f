"""What a file says about its values, axes, channels and pixel size is read with them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_peftsam.errors import InputFileError, LabelError, UndecidedError
from napari_peftsam.files import (
    list_fields,
    open_image,
    open_labels,
    read_image,
    read_labels,
)
from napari_peftsam.metadata import ImageMetadata, ReadOptions, plain_unit
from napari_peftsam.planes import LazyImage


def ramp(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).astype(dtype).reshape(shape)


def tiff(path: Path, array: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, array, **options)
    return path


# --- values -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "is_odd"),
    [
        (ramp(20, 30), True),
        (np.random.default_rng(0).integers(5, 9, (20, 30), np.uint16), True),
        (np.kron(ramp(5, 8), np.ones((5, 5), np.uint8)), False),
        (np.pad(ramp(9, 9) + 1, 1)[::2].repeat(9, 1), False),
        (np.eye(20, 30, dtype=np.uint8).cumsum(0) % 2, False),
        (np.full((20, 30), 7, np.uint8), False),
        (np.zeros((20, 30), np.uint8), False),
        (np.arange(20, dtype=np.uint8)[:, None], False),
    ],
    ids=["ramp", "noise", "touching", "apart", "mask", "one", "none", "narrow"],
)
def test_a_grey_image_among_labels_is_noticed(
    array: np.ndarray, is_odd: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_labels(tiff(tmp_path / "x.tif", array))
    assert ("does not look like labels" in caplog.text) == is_odd


@pytest.mark.parametrize(
    ("values", "words"),
    [((), ""), ((np.nan,), "1 pixel is not"), ((np.nan, np.inf, -np.inf), "3 pixels are not")],
    ids=["none", "one", "three"],
)
def test_pixels_without_a_value_are_counted(
    values: tuple[float, ...], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = ramp(20, 30, dtype="float32")
    pixels.flat[: len(values)] = values
    path = tiff(tmp_path / "x.tif", pixels)
    read_image(path)
    assert caplog.messages == [
        f"{path}: {words} finite (NaN or infinite) and count as the lowest value"
    ] * bool(words)


def test_a_look_up_table_of_imagej_is_no_colour(tmp_path: Path) -> None:
    table = np.arange(3 * 256, dtype=np.uint8).reshape(3, 256)
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path, imagej=True) as writer:
        writer.write(ramp(20, 30), colormap=table.astype(np.uint16) * 257, photometric="palette")
    np.testing.assert_array_equal(read_image(path), ramp(20, 30))


VALUES = {
    "min is white": (
        ramp(20, 30), {"photometric": "miniswhite"}, 255 - ramp(20, 30),
    ),
    "min is white, 16 bits": (
        ramp(20, 30, dtype="uint16"),
        {"photometric": "miniswhite"},
        65535 - ramp(20, 30, dtype="uint16"),
    ),
    "zstd": (ramp(20, 30), {"compression": "zstd"}, ramp(20, 30)),
    "lzw with predictor": (
        ramp(20, 30, dtype="uint16"),
        {"compression": "lzw", "predictor": True},
        ramp(20, 30, dtype="uint16"),
    ),
    "16 bits of colour": (
        ramp(20, 30, 3, dtype="uint16"),
        {"photometric": "rgb", "compression": "lzw"},
        ramp(20, 30, 3, dtype="uint16"),
    ),
    "big-endian lzw": (
        ramp(20, 30, dtype="float32"),
        {"byteorder": ">", "compression": "lzw"},
        ramp(20, 30, dtype="float32"),
    ),
    "jpeg 2000": (
        ramp(20, 30, dtype="uint16"),
        {"compression": "jpeg2000"},
        ramp(20, 30, dtype="uint16"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("array", "options", "expected"), VALUES.values(), ids=VALUES)
def test_stored_values_become_what_they_mean(
    tmp_path: Path, array: np.ndarray, options: dict, expected: np.ndarray
) -> None:
    read = read_image(tiff(tmp_path / "x.tif", array, **options))
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)


def test_colours_are_divided_by_the_alpha_that_they_were_multiplied_by(tmp_path: Path) -> None:
    array = np.full((4, 4, 4), 100, np.uint8)
    array[..., 3] = 200
    array[0, 0] = 0
    path = tiff(tmp_path / "x.tif", array, photometric="rgb", extrasamples=["ASSOCALPHA"])
    expected = np.full((4, 4, 3), round(100 * 255 / 200))
    expected[0, 0] = 0
    np.testing.assert_array_equal(read_image(path), expected)


def test_inks_become_colours(tmp_path: Path) -> None:
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[0, 0] = (255, 0, 0, 0)
    inks[1, 1] = (0, 0, 0, 255)
    path = tiff(tmp_path / "x.tif", inks, photometric="separated")
    read = read_image(path)
    assert read[0, 0].tolist() == [0, 255, 255]
    assert read[1, 1].tolist() == [0, 0, 0]
    assert read[2, 2].tolist() == [255, 255, 255]


def test_label_numbers_that_compression_may_have_changed_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_labels(tiff(tmp_path / "x.tif", ramp(32, 32), compression="jpeg2000"))
    assert "may have changed label numbers" in caplog.text


def png(path: Path, array: np.ndarray, kind: int) -> Path:
    """Write a PNG of 16 bits, which Pillow cannot."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize(("samples", "kind"), [(3, 2), (4, 6)], ids=["rgb", "rgba"])
def test_a_png_of_16_bits_keeps_them(tmp_path: Path, samples: int, kind: int) -> None:
    array = ramp(20, 30, samples, dtype="uint16") * 257
    read = read_image(png(tmp_path / "x.png", array, kind))
    np.testing.assert_array_equal(read, array[..., :3])


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.repeat(np.repeat([[0, 250, 0]], 16, 0), 16, 1).astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "x.jpg").shape == (48, 16)


@pytest.mark.parametrize("suffix", [".bmp", ".webp"])
def test_bmp_and_webp(tmp_path: Path, suffix: str) -> None:
    array = ramp(20, 30, 3)
    Image.fromarray(array).save(tmp_path / f"x{suffix}", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}"), array)


def lossy_tiff(path: Path) -> None:
    tifffile.imwrite(path, ramp(32, 32), compression="jpeg")


def jpeg(path: Path) -> None:
    Image.fromarray(ramp(32, 32)).save(path)


@pytest.mark.parametrize(
    ("write", "name"), [(jpeg, "x.jpg"), (jpeg, "x.webp"), (lossy_tiff, "x.tif")]
)
def test_labels_saved_with_loss_are_refused(tmp_path: Path, write: Any, name: str) -> None:
    write(tmp_path / name)
    with pytest.raises(LabelError, match="changes label numbers"):
        read_labels(tmp_path / name)


# --- axes and channels --------------------------------------------------------------

PLAIN = {"photometric": "minisblack"}
AMBIGUOUS = {
    "channels last": (ramp(20, 30, 2), PLAIN, "YXC"),
    "three planes": (ramp(3, 20, 30), PLAIN, "CYX"),
    "four planes": (ramp(4, 20, 30), PLAIN, "CYX"),
}


@pytest.mark.parametrize(("array", "options", "axes"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_axes_that_nothing_names_are_asked_for(
    tmp_path: Path, array: np.ndarray, options: dict, axes: str
) -> None:
    path = tiff(tmp_path / "x.tif", array, **options)
    with pytest.raises(UndecidedError, match=f"--axes {axes}"):
        read_image(path)
    channel = read_image(path, ReadOptions(axes=axes, channels="1"))
    np.testing.assert_array_equal(channel, np.take(array, 1, axes.index("C")))
    stack = read_image(path, ReadOptions(axes="ZYX"))
    np.testing.assert_array_equal(stack, array)


def test_samples_that_are_no_alpha_are_channels(tmp_path: Path) -> None:
    path = tiff(
        tmp_path / "x.tif", ramp(20, 30, 4), photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(InputFileError, match="holds 4 channels"):
        read_image(path)
    np.testing.assert_array_equal(
        read_image(path, ReadOptions(channels="3")), ramp(20, 30, 4)[..., 3]
    )


def ome_channels(path: Path) -> np.ndarray:
    array = ramp(2, 3, 20, 30, dtype="uint16") * 200
    names = ["DAPI", "GFP", "Cy5"]
    tifffile.imwrite(path, array, ome=True, photometric="minisblack",
                     metadata={"axes": "ZCYX", "Channel": {"Name": names}})  # fmt: skip
    return array


CHOICES = {
    "number": ("2", lambda a: a[:, 2]),
    "name": ("DAPI", lambda a: a[:, 0]),
    "name in other case": ("gfp", lambda a: a[:, 1]),
    "two": ("0,2", lambda a: np.stack([a[:, 0], a[:, 2], 0 * a[:, 0]], -1)),
    "three": ("2,1,0", lambda a: np.moveaxis(a[:, ::-1], 1, -1)),
    "weights": (
        "DAPI:0.5,2:2",
        lambda a: np.stack(
            [np.rint(a[:, 0] / 2), np.minimum(a[:, 2].astype(int) * 2, 65535), 0 * a[:, 0]], -1
        ),
    ),
}


@pytest.mark.parametrize(("chosen", "expected"), CHOICES.values(), ids=CHOICES)
def test_chosen_channels(tmp_path: Path, chosen: str, expected: Any) -> None:
    array = ome_channels(tmp_path / "x.ome.tif")
    file = open_image(tmp_path / "x.ome.tif", ReadOptions(channels=chosen))
    np.testing.assert_array_equal(file.pixels, expected(array))
    assert file.metadata.names == "zyx"
    assert file.metadata.read_with.channels == chosen
    assert [channel.name for channel in file.metadata.channels] == ["DAPI", "GFP", "Cy5"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("", r"3 channels \(0 DAPI, 1 GFP, 2 Cy5\): choose one"),
        ("3", "'3' is none of its channels"),
        ("RFP", "'RFP' is none of its channels"),
        ("0:-1", "above 0"),
        ("0,1,2,0", "choose up to three"),
    ],
)
def test_channels_that_cannot_be_chosen(tmp_path: Path, chosen: str, message: str) -> None:
    ome_channels(tmp_path / "x.ome.tif")
    with pytest.raises(InputFileError, match=message):
        read_image(tmp_path / "x.ome.tif", ReadOptions(channels=chosen))


def test_axes_that_do_not_fit(tmp_path: Path) -> None:
    path = tiff(tmp_path / "x.tif", ramp(5, 20, 30), **PLAIN)
    with pytest.raises(InputFileError, match="one letter for each axis"):
        read_image(path, ReadOptions(axes="YX"))


def test_names_of_a_zarrs_dimensions(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=ramp(20, 3, 30), dimension_names=("y", "c", "x"))
    read = read_image(tmp_path / "x.zarr", ReadOptions(channels="1"))
    np.testing.assert_array_equal(read, ramp(20, 3, 30)[:, 1])


# --- sets of files ------------------------------------------------------------------


@pytest.fixture
def set_of_files(tmp_path: Path) -> list[Path]:
    """An OME-TIFF of one file per plane of a z-stack; the values of plane i are i + 1."""
    paths = [tmp_path / f"z{i}.ome.tif" for i in range(3)]
    planes = "".join(
        f'<TiffData FirstZ="{i}" IFD="0">'
        f'<UUID FileName="z{i}.ome.tif">urn:uuid:{i}</UUID></TiffData>'
        for i in range(3)
    )
    for i, path in enumerate(paths):
        text = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{i}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" '
            'SizeX="30" SizeY="20" SizeZ="3" SizeC="1" SizeT="1" PhysicalSizeX="0.5" '
            f'PhysicalSizeY="0.5"><Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(path, np.full((20, 30), i + 1, np.uint8), description=text, metadata=None)
    return paths


def test_a_set_is_read_as_one_stack(set_of_files: list[Path]) -> None:
    file = open_image(set_of_files[1])
    assert file.pixels.shape == (3, 20, 30)
    assert np.asarray(file.pixels)[:, 0, 0].tolist() == [1, 2, 3]
    assert file.metadata.scale == (1.0, 0.5, 0.5)


def test_one_file_of_a_set_holds_its_own_plane(set_of_files: list[Path]) -> None:
    read = read_image(set_of_files[1], ReadOptions(own_planes=True))
    np.testing.assert_array_equal(read, np.full((20, 30), 2))


def test_a_missing_file_of_a_set_is_named(
    set_of_files: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    set_of_files[1].unlink()
    with pytest.raises(InputFileError, match=r"z1\.ome\.tif is missing"):
        read_image(set_of_files[0])
    read = read_image(set_of_files[0], ReadOptions(allow_missing=True))
    assert read[:, 0, 0].tolist() == [1, 0, 3]
    assert "z1.ome.tif" in caplog.text


# --- pixel size ---------------------------------------------------------------------


def imagej(path: Path) -> None:
    details = {"axes": "TZYX", "unit": "um", "spacing": 2.0, "finterval": 30.0}
    array = ramp(4, 5, 20, 30)
    tifffile.imwrite(path, array, imagej=True, resolution=(4, 2), metadata=details)


def ome_tiff(path: Path) -> None:
    sizes = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (2, 0.5, 0.25), strict=True)}
    tifffile.imwrite(path, ramp(4, 5, 20, 30), ome=True, photometric="minisblack",
                     metadata={"axes": "TZYX", "TimeIncrement": 30, **sizes})  # fmt: skip


def ome_zarr(path: Path) -> None:
    group = zarr.create_group(path)
    group.create_array("0", data=ramp(4, 5, 20, 30))
    axes = [{"name": "t", "type": "time", "unit": "second"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    inner = [{"type": "scale", "scale": [1.0, 2.0, 0.5, 0.25]}]
    outer = [{"type": "scale", "scale": [30.0, 1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": inner}]
    scales = {"axes": axes, "datasets": datasets, "coordinateTransformations": outer}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [scales]}


@pytest.mark.parametrize(
    ("write", "name"), [(imagej, "x.tif"), (ome_tiff, "x.ome.tif"), (ome_zarr, "x.ome.zarr")]
)
def test_pixel_size_and_interval(tmp_path: Path, write: Any, name: str) -> None:
    write(tmp_path / name)
    metadata = open_image(tmp_path / name).metadata
    assert metadata.names == "tzyx"
    assert metadata.scale == pytest.approx((30, 2, 0.5, 0.25))
    assert metadata.units == ("second", "micrometer", "micrometer", "micrometer")


def test_dots_per_inch_are_no_pixel_size(tmp_path: Path) -> None:
    path = tiff(tmp_path / "x.tif", ramp(20, 30), resolution=(72, 72), resolutionunit="inch")
    assert open_image(path).metadata.scale == (1, 1)
    assert not open_image(path).metadata.is_calibrated


def test_labels_come_with_their_pixel_size(tmp_path: Path) -> None:
    imagej(tmp_path / "x.tif")
    labels, metadata = open_labels(tmp_path / "x.tif")
    assert labels.shape == (4, 5, 20, 30)
    assert metadata.scale == pytest.approx((30, 2, 0.5, 0.25))


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("µm", "micrometer"),
        ("\N{GREEK SMALL LETTER MU}m", "micrometer"),
        ("um", "micrometer"),
        (r"\u00B5m", "micrometer"),
        ("microns", "micrometer"),
        ("micrometre", "micrometer"),
        ("nanometers", "nanometer"),
        ("nm", "nanometer"),
        ("s", "second"),
        ("sec", "second"),
        ("pixel", ""),
        (None, ""),
        ("furlong", "furlong"),
    ],
)
def test_units_have_one_name(unit: str, name: str) -> None:
    assert plain_unit(unit) == name


def test_metadata_of_a_plane() -> None:
    metadata = ImageMetadata.of((2.0, 0.5, 0.5), ("um", "um", "um"))
    assert metadata.names == "zyx"


# --- large, and of several images ---------------------------------------------------


def test_a_large_tiff_is_read_in_parts(tmp_path: Path) -> None:
    array = np.zeros((9000, 9000), np.uint8)
    array[4000:4010, 5000:5010] = 7
    for name, options in (("tiles", {"tile": (256, 256)}), ("strips", {"rowsperstrip": 16})):
        path = tiff(tmp_path / f"{name}.tif", array, compression="zlib", **options)
        pixels = open_image(path).pixels
        assert isinstance(pixels, LazyImage)
        np.testing.assert_array_equal(pixels[3990:4020, 4990:5020], array[3990:4020, 4990:5020])


def test_lower_resolutions_come_with_an_ome_zarr(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "x.zarr")
    for level in (0, 1, 2):
        group.create_array(str(level), data=ramp(1, 64 >> level, 64 >> level))
    axes = [{"name": n} for n in "cyx"]
    datasets = [{"path": str(level)} for level in (0, 1, 2)]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    assert [level.shape for level in open_image(tmp_path / "x.zarr").levels] == [(32, 32), (16, 16)]


def test_fields_of_a_plate(tmp_path: Path) -> None:
    plate = zarr.create_group(tmp_path / "p.zarr")
    plate.attrs["ome"] = {"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}
    for well in ("A/1", "B/2"):
        group = plate.create_group(well)
        group.attrs["ome"] = {"well": {"images": [{"path": "0"}]}}
        field = group.create_group("0")
        field.create_array("0", data=ramp(20, 30))
        axes = [{"name": n} for n in "yx"]
        field.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]}
    fields = list_fields(tmp_path / "p.zarr")
    assert list(fields) == ["A/1/0", "B/2/0"]
    np.testing.assert_array_equal(read_image(fields["B/2/0"]), ramp(20, 30))
    with pytest.raises(InputFileError, match=r"found A/1/0, B/2/0: open the part"):
        read_image(tmp_path / "p.zarr")


@pytest.mark.parametrize(
    ("plate", "message"),
    [
        ("A", "must be a table"),
        ({"wells": [{"path": "A/1"}, {"name": "B"}]}, r"needs a plate\.wells\.1\.path"),
        ({"wells": [{"path": "../.."}]}, "cannot be read as .zarr"),
        ({"wells": [{"path": "missing"}]}, "cannot be read as .zarr"),
    ],
)
def test_a_damaged_plate_is_refused(plate: object, message: str, tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "p.zarr").attrs["ome"] = {"plate": plate}
    with pytest.raises(InputFileError, match=message):
        list_fields(tmp_path / "p.zarr")


def test_images_that_a_converter_put_into_one_zarr(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "x.zarr", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    for number in ("0", "1"):
        inner = group.create_group(number)
        inner.create_array("0", data=ramp(20, 30) + np.uint8(number))
        inner.attrs["multiscales"] = [{"axes": ["y", "x"], "datasets": [{"path": "0"}]}]
    with pytest.raises(InputFileError, match="choose one with --series, from 0 to 1"):
        read_image(tmp_path / "x.zarr")
    read = read_image(tmp_path / "x.zarr", ReadOptions(series=1))
    np.testing.assert_array_equal(read, ramp(20, 30) + 1)


def test_a_czi_of_channels(tmp_path: Path) -> None:
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(tmp_path / "x.czi")) as file:
        for channel in (0, 1):
            file.write(ramp(20, 30)[..., None] + np.uint8(channel), plane={"C": channel})
        file.write_metadata(channel_names={0: "DAPI", 1: "GFP"}, scale_x=5e-7, scale_y=5e-7)
    image = open_image(tmp_path / "x.czi", ReadOptions(channels="GFP"))
    np.testing.assert_array_equal(image.pixels, ramp(20, 30) + 1)
    assert image.metadata.scale == pytest.approx((0.5, 0.5))
    assert image.metadata.units == ("micrometer", "micrometer")


@pytest.mark.parametrize("suffix", [".czi", ".nd2", ".lif"])
def test_damaged_files_of_microscopes(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"not one of them")
    with pytest.raises(InputFileError, match=r"cannot be read|pip install"):
        read_image(tmp_path / f"x{suffix}")
