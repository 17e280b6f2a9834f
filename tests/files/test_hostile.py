"""Images of strangers: refused in one line, with nothing run and nothing inflated."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from skimage.draw import polygon2mask

from napari_peftsam.errors import ConfigurationError, InputFileError, PeftSamError
from napari_peftsam.files import open_image, read_image, read_labels, read_objects
from napari_peftsam.limits import BUDGET_VARIABLE, TIME_VARIABLE

VALUES = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
Make = Callable[[Path], Path]
ZEROS = bytes(10**8)
GZIP_BOMB = gzip.compress(ZEROS)


class _Code:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def zarr2(chunk: bytes = VALUES.tobytes(), **metadata: object) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "x.zarr"
        path.mkdir()
        content = {
            "zarr_format": 2, "shape": [64, 64], "chunks": [64, 64], "dtype": "|u1",
            "compressor": None, "fill_value": 0, "order": "C", "filters": None, **metadata,
        }  # fmt: skip
        (path / ".zarray").write_text(json.dumps(content))
        (path / "0.0").write_bytes(chunk or pickle.dumps(_Code(folder / "canary")))
        return path

    return make


def zarr3(*codecs: object, chunk: bytes = b"") -> Make:
    def make(folder: Path) -> Path:
        path = folder / "x.zarr"
        zarr.create_array(path, data=VALUES, chunks=(64, 64), compressors=None)
        content = json.loads((path / "zarr.json").read_text())
        content["codecs"] = list(codecs)
        (path / "zarr.json").write_text(json.dumps(content))
        (path / "c/0/0").write_bytes(chunk or pickle.dumps(_Code(folder / "canary")))
        return path

    return make


def pipe_in_zarr(folder: Path) -> Path:
    path = zarr2()(folder)
    (path / "0.0").unlink()
    os.mkfifo(path / "0.0")
    return path


def sparse_zarr(folder: Path) -> Path:
    path = zarr2()(folder)
    os.truncate(path / "0.0", 20_000_000)
    return path


def ome_zarr_of_many_resolutions(folder: Path) -> Path:
    datasets = {"axes": ["y", "x"], "datasets": [{"path": "0"}] * 101}
    zarr.create_group(folder / "x.zarr", attributes={"multiscales": [datasets]}, zarr_format=2)
    return folder / "x.zarr"


def without_size(frame: bytes) -> bytes:
    """Return a frame of Zstandard whose header tells a window in place of the size."""
    flags = frame[4]
    start = 5 + (not flags & 0x20) + {0: 1, 1: 2, 2: 4, 3: 8}[flags >> 6]
    return frame[:4] + bytes([flags & 4]) + b"\x60" + frame[start:]


def tiff_of_one_strip(folder: Path) -> Path:
    path = folder / "x.tif"
    tifffile.imwrite(path, np.zeros((9000, 9000), np.uint8), compression="zlib", rowsperstrip=9000)
    return path


def tiff_of_many_tiles(folder: Path) -> Path:
    path = folder / "x.tif"
    n = 14_062_500
    tags = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (259, 3, 1, 1),
            (262, 3, 1, 1), (277, 3, 1, 1), (322, 4, 1, 16), (323, 4, 1, 16), (324, 4, n, 300),
            (325, 4, n, 300)]  # fmt: skip
    listed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(head + listed + bytes(4) + b"\1" * 3000)
    return path


def directory(*tags: tuple[int, int, int, int], following: int = 0) -> bytes:
    listed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<H", len(tags)) + listed + struct.pack("<I", following)


SMALL_PAGE = ((256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (273, 4, 1, 8), (279, 4, 1, 256))


def tiff_of_a_hole(folder: Path) -> Path:
    path = folder / "x.tif"
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 264) + bytes(256)
        + directory(*SMALL_PAGE[:3], (270, 2, 100_000_000, 4096), *SMALL_PAGE[3:])
    )  # fmt: skip
    os.truncate(path, 200_000_000)
    return path


def tiff_of_a_hole_in_a_part(folder: Path) -> Path:
    path = folder / "x.tif"
    first = directory(*SMALL_PAGE, (330, 4, 1, 400)).ljust(136, b"\0")
    second = directory(*SMALL_PAGE, (700, 1, 100_000_000, 4096))
    path.write_bytes(b"II*\0" + struct.pack("<I", 264) + bytes(256) + first + second)
    os.truncate(path, 200_000_000)
    return path


def tiff_of_many_pages(folder: Path) -> Path:
    path, size = folder / "x.tif", len(directory(*SMALL_PAGE))
    pages = (directory(*SMALL_PAGE, following=8 + (n + 1) * size) for n in range(100_001))
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(pages))
    return path


def tiff_of_a_large_part(compression: str, kind: str = "uint8", **options: Any) -> Make:
    def make(folder: Path) -> Path:
        path = folder / "x.tif"
        tifffile.imwrite(
            path, np.zeros((2000, 2110, 3), kind), photometric="rgb", rowsperstrip=2000,
            compression=compression, compressionargs=options,
        )  # fmt: skip
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                tiff.pages.first.tags[name].overwrite(16)
        return path

    return make


def ome_tiff(xml: str) -> Make:
    def make(folder: Path) -> Path:
        description = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{xml}</OME>'
        tifffile.imwrite(folder / "x.ome.tif", VALUES, description=description, metadata=None)
        os.mkfifo(folder / "pipe.ome.tif")
        return folder / "x.ome.tif"

    return make


def pixels(inside: str = "<TiffData/>", **sizes: int) -> str:
    shape = {"X": 64, "Y": 64, "Z": 1, "C": 1, "T": 1} | sizes
    said = " ".join(f'Size{axis}="{size}"' for axis, size in shape.items())
    return (
        f'<Image ID="Image:0"><Pixels ID="P" DimensionOrder="XYZCT" {said} Type="uint8">{inside}'
        "</Pixels></Image>"
    )


MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/'
    'modulo"><Value><Modulo><ModuloAlongZ Start="0" End="1" Step="1e-9"/></Modulo></Value>'
    "</XMLAnnotation></StructuredAnnotations>"
)


def tiff_of_micro_manager(folder: Path) -> Path:
    tifffile.imwrite(
        folder / "x.tif", VALUES, extratags=[(51123, "s", 0, json.dumps({"Prefix": "x"}), True)]
    )
    os.mkfifo(folder / "NDTiff.index")
    return folder / "x.tif"


PIPE = "".join(
    f'<TiffData IFD="0" FirstT="{t}"><UUID FileName="{name}">urn:uuid:{t}</UUID></TiffData>'
    for t, name in enumerate(["x.ome.tif", "pipe.ome.tif"])
)
SET = pixels(PIPE, T=2)


def webp(folder: Path) -> Path:
    Image.new("RGB", (1800, 1800)).save(folder / "x.webp", lossless=True, quality=0, method=0)
    return folder / "x.webp"


def jpeg_of_many_scans(folder: Path) -> Path:
    path = folder / "x.jpg"
    Image.new("L", (64, 64)).save(path, progressive=True)
    path.write_bytes(path.read_bytes()[:-2] + b"\xff\xda\0\2" * 100)
    return path


def png(width: int, height: int) -> Make:
    def make(folder: Path) -> Path:
        def part(kind: bytes, data: bytes) -> bytes:
            return (
                struct.pack(">I", len(data))
                + kind
                + data
                + struct.pack(">I", zlib.crc32(kind + data))
            )

        header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
        rows = part(b"IDAT", zlib.compress(bytes(4 * width + 1) * 10))
        path = folder / "x.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + rows + part(b"IEND", b""))
        return path

    return make


def postscript(folder: Path) -> Path:
    path = folder / "x.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n%%EOF\n")
    return path


DOUBTFUL = {
    "entities": ("x.ome.tif", '<!DOCTYPE a [<!ENTITY b "&c;">]><OME>&b;</OME>', "OME metadata"),
    "too many planes": ("x.tif", "ImageJ=1.54f\nimages=100000000\n", "100,000,000 images, but h"),
}


@pytest.mark.parametrize(("name", "text", "message"), DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_doubtful_descriptions_are_told_and_pixels_read(
    name: str, text: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tifffile.imwrite(tmp_path / name, VALUES, description=text, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / name), VALUES)
    assert message in caplog.text


BYTES = {"name": "bytes"}
HOSTILE: dict[str, tuple[Make, str]] = {
    "zarr 2, pickle as filter": (zarr2(b"", filters=[{"id": "pickle"}]), "'pickle'"),
    "zarr 2, pickle as compressor": (zarr2(b"", compressor={"id": "pickle"}), "'pickle'"),
    "zarr 2, json as filter": (zarr2(filters=[{"id": "json2"}]), "'json2'"),
    "zarr 2, objects": (zarr2(b"", dtype="|O", fill_value=None), "."),
    "zarr 3, pickle": (zarr3({"name": "numcodecs.pickle", "configuration": {}}, BYTES), "."),
    "zarr 3, unknown codec": (zarr3(BYTES, {"name": "\x1b[31mevil", "configuration": {}}), "."),
    "zarr 2, gzip bomb": (zarr2(GZIP_BOMB, compressor={"id": "gzip", "level": 1}), "larger"),
    "zarr 2, zlib bomb": (
        zarr2(zlib.compress(ZEROS), compressor={"id": "zlib", "level": 1}), "larger",
    ),
    "zarr 2, zstd bomb": (
        zarr2(numcodecs.Zstd().encode(ZEROS), compressor={"id": "zstd", "level": 1}), "larger",
    ),
    "zarr 2, zstd bomb behind a frame that is skipped": (
        zarr2(b"\x50\x2a\x4d\x18\4\0\0\0abcd" + without_size(numcodecs.Zstd().encode(ZEROS)),
              compressor={"id": "zstd", "level": 1}), "larger",
    ),
    "zarr 2, texts in a filter": (
        zarr2(filters=[{"id": "fixedscaleoffset", "offset": 0, "scale": 1, "dtype": "<U200000",
                        "astype": "|u1"}]), "is filtered as <U200000",
    ),
    "zarr 2, a chain of filters": (
        zarr2(bytes(1_500_000), filters=[{"id": "packbits"}] * 3), "larger",
    ),
    "zarr with a chunk that is a hole": (sparse_zarr, "larger"),
    "zarr 2, blosc bomb": (
        zarr2(numcodecs.Blosc().encode(ZEROS), compressor={
            "id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}), "larger",
    ),
    "zarr 2, lz4 bomb": (
        zarr2(numcodecs.LZ4().encode(ZEROS), compressor={"id": "lz4", "acceleration": 1}), "larger",
    ),
    "zarr 3, gzip bomb": (
        zarr3(BYTES, {"name": "gzip", "configuration": {"level": 1}}, chunk=GZIP_BOMB), "larger",
    ),
    "zarr of tiny chunks": (zarr2(shape=[9000, 9000], chunks=[1, 1]), "81,000,000 chunks"),
    "zarr of a huge chunk": (zarr2(shape=[10**6, 10**6], chunks=[10**6, 10**6]), "would take"),
    "zarr of tiny chunks that nobody wrote": (
        zarr2(shape=[5000, 5000], chunks=[16, 16]), "takes longer to read than a file of 0.0 MB",
    ),
    "OME-Zarr of many resolutions": (ome_zarr_of_many_resolutions, "at most 100 items"),
    "zarr with a pipe": (pipe_in_zarr, "no regular file"),
    "TIFF of one strip that inflates": (tiff_of_one_strip, "a part of .* would take"),
    "TIFF of a billion planes": (ome_tiff(pixels(Z=10**9)), "claims 1,000,000,000 planes"),
    "OME-TIFF of planes in many images": (ome_tiff(pixels(Z=10**6) * 3), "claims 3,000,000 planes"),
    "OME-TIFF of a part with many planes": (
        ome_tiff(pixels('<TiffData PlaneCount="1000000000"/>', Z=9)), "claims 1,000,000,000",
    ),
    "OME-TIFF of an image that is not its pages": (ome_tiff(pixels(X=10**9)), "claims 15,625,000"),
    "OME-TIFF of an axis in an axis": (ome_tiff(pixels() + MODULO), "claims 1,000,000,000"),
    "OME-TIFF of an axis without steps": (
        ome_tiff(pixels() + MODULO.replace("1e-9", "0")), "claims 1,000,001 planes",
    ),
    "TIFF of tiles it does not have": (tiff_of_many_tiles, "14,062,500 parts"),
    "TIFF whose description is a hole": (tiff_of_a_hole, "describes its pages in 100 MB"),
    "TIFF with a hole in a part": (tiff_of_a_hole_in_a_part, "describes its pages in 100 MB"),
    "TIFF of many pages": (tiff_of_many_pages, "more than 100,000 pages"),
    "TIFF of a large JPEG": (tiff_of_a_large_part("jpeg"), "part of 2110 x 2000"),
    "TIFF of a large PNG": (tiff_of_a_large_part("png"), "part of 2110 x 2000"),
    "TIFF of a large WebP": (tiff_of_a_large_part("webp"), "part of 2110 x 2000"),
    "TIFF of a large WebP without loss": (
        tiff_of_a_large_part("webp", lossless=True), "part of 2110 x 2000",
    ),
    "TIFF of a large JPEG 2000": (tiff_of_a_large_part("jpeg2000"), "part of 2110 x 2000"),
    "TIFF of a large JPEG XL": (tiff_of_a_large_part("jpegxl"), "part of 2000 x 2110 x 3"),
    "TIFF of a large JPEG XR": (tiff_of_a_large_part("jpegxr"), "part of 2000 x 2110 x 3"),
    "TIFF of a large LERC": (tiff_of_a_large_part("lerc"), "part of 2000 x 2110 x 3"),
    "TIFF of a large JPEG XL of fractions": (
        tiff_of_a_large_part("jpegxl", "float32"), "part of 2000 x 2110 x 3",
    ),
    "TIFF of a large JPEG XR of 16 bits": (
        tiff_of_a_large_part("jpegxr", "uint16"), "part of 2000 x 2110 x 3",
    ),
    "TIFF of a large LERC of 16 bits": (
        tiff_of_a_large_part("lerc", "uint16"), "part of 2000 x 2110 x 3",
    ),
    "OME-TIFF of a set with a pipe": (ome_tiff(SET), "no regular file"),
    "TIFF of Micro-Manager with a pipe": (tiff_of_micro_manager, "no regular file"),
    "OME-TIFF of many elements": (ome_tiff("<a/>" * 1_000_000), "too many elements"),
    "OME-TIFF of elements in each other": (ome_tiff("<a>" * 99 + "</a>" * 99), "in each other"),
    "WebP that inflates": (webp, "would take"),
    "JPEG of many scans": (jpeg_of_many_scans, "more than 100 scans"),
    "PNG that inflates": (png(4000, 4000), "would take"),
    "PNG that is PostScript": (postscript, "cannot be read"),
    "PNG of more pixels than it can hold": (png(2000, 2000), "too short for 2000 x 2000"),
}  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="makes pipes")
@pytest.mark.parametrize(("make", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_images_are_refused_before_they_are_decoded(
    make: Make, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "40000000")
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho > {tmp_path / 'canary'}\n")
    (tmp_path / "gs").chmod(0o755)
    with pytest.raises(PeftSamError, match=message) as caught:
        read_image(make(tmp_path))
    assert str(caught.value).isprintable()
    assert not (tmp_path / "canary").exists(), "something was run"


ALLOWED: list[Any] = [
    None, numcodecs.Blosc("zstd"), numcodecs.GZip(1), numcodecs.LZ4(), numcodecs.Zlib(1),
    numcodecs.Zstd(1),
]  # fmt: skip


@pytest.mark.parametrize("compressor", ALLOWED, ids=lambda c: getattr(c, "codec_id", "none"))
def test_what_microscopes_write_in_zarr_2_is_read(compressor: Any, tmp_path: Path) -> None:
    array = zarr.create_array(
        tmp_path / "x.zarr", shape=(64, 64), chunks=(32, 64), dtype=np.uint16, zarr_format=2,
        compressors=compressor, filters=[numcodecs.Delta("<u2")],
    )  # fmt: skip
    array[:] = VALUES
    np.testing.assert_array_equal(read_image(tmp_path / "x.zarr"), VALUES)


@pytest.mark.parametrize("shards", [None, (64, 64)], ids=["chunks", "shards"])
@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc"])
def test_what_microscopes_write_in_zarr_3_is_read(
    codec: str, shards: tuple[int, int] | None, tmp_path: Path
) -> None:
    kinds = {
        "gzip": zarr.codecs.GzipCodec(), "zstd": zarr.codecs.ZstdCodec(checksum=True),
        "blosc": zarr.codecs.BloscCodec(),
    }  # fmt: skip
    zarr.create_array(
        tmp_path / "x.zarr", data=VALUES, chunks=(16, 32), shards=shards, compressors=kinds[codec]
    )
    np.testing.assert_array_equal(read_image(tmp_path / "x.zarr"), VALUES)
    pickle.loads(pickle.dumps(open_image(tmp_path / "x.zarr").pixels))  # workers get it


def test_a_bomb_in_a_shard_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    zarr.create_array(
        path, data=VALUES, chunks=(64, 64), shards=(64, 64), compressors=zarr.codecs.GzipCodec()
    )
    shard = path / "c/0/0"
    index = struct.pack("<QQ", 0, len(GZIP_BOMB))
    checksum = struct.pack("<I", numcodecs.checksum32.CRC32C().checksum(index))
    shard.write_bytes(GZIP_BOMB + index + checksum)
    with pytest.raises(InputFileError, match="larger than the image says"):
        read_image(path)


def outline(*corners: tuple[int, int], **properties: object) -> dict[str, object]:
    geometry = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def coco(*masks: tuple[list[int], list[int]]) -> dict[str, object]:
    found = [{"image_id": 1, "segmentation": {"size": s, "counts": c}} for s, c in masks]
    return {"images": [{"id": 1, "file_name": "x"}], "annotations": found}


ALL = ((0, 0), (0, 2000), (2000, 2000), (2000, 0))
ZIGZAG = [(x, 2000 * (x % 2)) for x in range(5000)]
COSTLY: dict[str, tuple[object, str, str]] = {
    "the same outline again and again": ([outline(*ALL)] * 200, "x.geojson", "many times over"),
    "the same mask again and again": (
        coco(*[([2000, 2000], [0, 4_000_000])] * 200), "x.json", "many times over",
    ),
    "a mask that is larger than the image": (
        coco(([60_000, 60_000], [0, 3_600_000_000])), "x.json", "60000 x 60000 pixels, not",
    ),
    "an outline up and down": ([outline(*ZIGZAG)], "x.geojson", "an outline: .* would take"),
    "a class for each object": (
        [outline((0, 0), (0, 9), (9, 9), classification=f"c{n}") for n in range(200)],
        "x.geojson", "the classes in .* would take",
    ),
    "lists in place of masks": (
        b"]" * 1_000_001, "x_seg.npy", "more than 1,000,000 plain values",
    ),
    "lists behind a name that is no ASCII": (
        b"cpathlib\n\xc3\xa9Path\n" + b"]" * 1_000_001, "x_seg.npy", "codec can't decode",
    ),
    "bytes that are not there": (
        b"\x80\x05\x96" + struct.pack("<Q", 4 * 10**9) + b".", "x_seg.npy", "but only 1 remain",
    ),
    "text that doubles": (
        b"\x80\x04" + 33 * b"c_codecs\nencode\n" + b"C\x04aaaa" + 33 * b"\x8c\x03hex\x86R" + b".",
        "x_seg.npy", "in a way that no program writes",
    ),
    "text in a slow code": (
        b"c_codecs\nencode\nX\x01\x00\x00\x00x\x8c\x08punycode\x86R.", "x_seg.npy", "in a way",
    ),
    "a number of two gigabytes": (
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n\x8c\x0bV1900000000\x85RC\x01a\x86R.",
        "x_seg.npy", "buffer is smaller",
    ),
    "an array of nothing": (
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01J" + struct.pack("<i", 2 * 10**9)
        + b"\x85cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R\x89]tb.",
        "x_seg.npy", "larger than its values",
    ),
    "the same values again and again": (
        b"(B\x00\x00\x10\x00" + bytes(2**20) + b"q\x00"
        + 600 * b"c_codecs\nencode\nh\x00\x85R" + b"t.", "x_seg.npy", "would take",
    ),
    "the same values in many arrays": (
        b"(B\x00\x00\x10\x00" + bytes(2**20) + b"q\x00"
        + 600 * b"cnumpy.core.multiarray\n_reconstruct\n)R(h\x00tb" + b"t.",
        "x_seg.npy", "would take",
    ),
    "masks that are no array": (
        pickle.dumps({"masks": [[0, 1]]}), "x_seg.npy", "has no masks of Cellpose",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "name", "message"), COSTLY.values(), ids=COSTLY.keys())
def test_objects_that_take_much_more_than_their_image_are_refused(
    content: object, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "500000000")
    path = tmp_path / name
    if isinstance(content, bytes):
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"shape": (), "fortran_order": False, "descr": "|O"}
            )
            file.write(content)
    else:
        path.write_text(json.dumps(content))
    with pytest.raises(PeftSamError, match=message):
        read_objects(path, (2000, 2000), "x")


TIMED: dict[str, object] = {
    "x.geojson": [outline((0, 0), (0, 9), (9, 9))],
    "x.json": coco(([64, 64], [0, 9, 4087])),
}


@pytest.mark.parametrize("name", TIMED)
def test_objects_are_read_for_no_longer_than_is_allowed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(json.dumps(TIMED[name]))
    monkeypatch.setenv(TIME_VARIABLE, "0")
    with pytest.raises(InputFileError, match=f"takes longer .* set {TIME_VARIABLE} to more"):
        read_objects(tmp_path / name, (64, 64))
    monkeypatch.setenv(TIME_VARIABLE, "600")
    assert read_objects(tmp_path / name, (64, 64)).labels.any()


def test_compressed_bmp_is_read_for_no_longer_than_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = b"\x40\x05\0\0" * 64 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(rows), 1, 1, 256, 0)
    palette = b"".join(struct.pack("<I", grey * 0x10101) for grey in range(256))
    start = struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024)
    (tmp_path / "x.bmp").write_bytes(b"BM" + start + head + palette + rows)
    assert (read_image(tmp_path / "x.bmp") == 5).all()
    monkeypatch.setenv(TIME_VARIABLE, "0")
    with pytest.raises(InputFileError, match="takes longer"):
        read_image(tmp_path / "x.bmp")


@pytest.mark.parametrize("variable", [BUDGET_VARIABLE, TIME_VARIABLE])
def test_a_limit_that_is_no_number_is_told(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.geojson").write_text(json.dumps(TIMED["x.geojson"]))
    monkeypatch.setenv(variable, "much")
    with pytest.raises(ConfigurationError, match=f"{variable} must be a whole number of .*'much'"):
        read_objects(tmp_path / "x.geojson", (64, 64))


def test_outlines_of_many_corners_are_filled_as_those_of_few(tmp_path: Path) -> None:
    around = np.linspace(0, 2 * np.pi, 2000, endpoint=False)
    radii = 150 + 40 * np.sin(9 * around)
    corners = 200 + np.stack([radii * np.cos(around), radii * np.sin(around)], 1)
    (tmp_path / "x.geojson").write_text(json.dumps([outline(*corners.tolist())]))
    filled = read_objects(tmp_path / "x.geojson", (400, 400)).labels
    expected = polygon2mask((400, 400), corners[:, ::-1] - 0.5)
    np.testing.assert_array_equal(filled, expected)


OBJECTS = {
    "x.json": "[" * 100_000,
    "x.geojson": '{"features": [' + "[]," * 10**6 + "[]]}",
    "p.zip": "PK",
}


@pytest.mark.parametrize("name", OBJECTS)
def test_hostile_outlines_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "40000000")
    (tmp_path / name).write_text(OBJECTS[name])
    with pytest.raises(InputFileError):
        read_objects(tmp_path / name, (64, 64))


def test_labels_that_inflate_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((9000, 9000), np.uint8), compression="zlib")
    monkeypatch.setenv(BUDGET_VARIABLE, "40000000")
    with pytest.raises(InputFileError, match="would take"):
        read_labels(tmp_path / "x.tif")
