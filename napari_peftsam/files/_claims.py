"""Claims of TIFF directories and of coded images, checked before a library relies on them."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

from napari_peftsam.errors import InputFileError
from napari_peftsam.geometry import sizes
from napari_peftsam.limits import check_file, stored_bytes

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
          16: 8, 17: 8, 18: 8}  # fmt: skip
"""Bytes of a value by the type of a tag."""
_CLASSIC, _BIG, _SUBIFDS = 42, 43, 330
_MOST_TAGS, _MOST_SUBIFDS = 4096, 1000  # of a page
_MANY, _SMALL = 100_000, 1024  # pages, and bytes of each: one takes 0.1 ms
_SLACK, _HOLES = 16 * 1024**2, 16  # bytes of tags that any file may have, or by its own bytes
_MOST_SCANS = 100  # of a JPEG; programs write up to 20
_MOST_MARKERS, _UNKNOWN = 10_000, 2**16  # before the size of a JPEG, and what it is without one
_ROUNDED, _OVERSIZE = 2**22, 4  # pixels of a segment that any may have, or by those of the page
_JPEG, _J2K, _JP2 = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_DECODERS = {
    b"\xff\x0a": "jpegxl_decode", b"\0\0\0\x0cJXL ": "jpegxl_decode", b"II\xbc": "jpegxr_decode",
    b"Lerc2 ": "lerc_decode", b"CntZImage ": "lerc_decode",
}  # fmt: skip
"""Functions of imagecodecs, by the first bytes, for formats whose headers are not read here."""
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xDA)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers before the size


def check_tiff(path: Path) -> None:
    """Raise `InputFileError` if a TIFF has too many pages, or tags that lie in holes."""
    check_file(path)
    stored, size = stored_bytes(path), path.stat().st_size
    tags = 0
    with path.open("rb") as file:
        for pages, entries in _directories(file, size):
            tags += sum(min(count, max(size - at, 0)) for count, at in entries)
            if pages * _SMALL > max(stored, _MANY * _SMALL):
                raise InputFileError(
                    f"{path}: has more than {_MANY:,} pages of less than a kilobyte: save it as a "
                    "stack of fewer or larger ones"
                )
            if tags > _SLACK + _HOLES * stored:
                raise InputFileError(
                    f"{path}: describes its pages in {tags / 1e6:,.0f} MB, but has "
                    f"{stored / 1e6:,.1f} MB on the disk: it is damaged; copy it again"
                )


def _directories(file: IO[bytes], end: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield how many pages are known so far, and length and place of the values of one's tags.

    Values inside a tag are left out.
    Damaged files have fewer pages, as they have for the library.
    """
    order: Literal["little", "big"] = "little" if file.read(1) == b"I" else "big"
    sign = "<" if order == "little" else ">"
    file.seek(2)
    version = int.from_bytes(file.read(2), order)
    if version not in (_CLASSIC, _BIG):
        return
    number, long, inside = (8, "Q", 8) if version == _BIG else (2, "I", 4)
    entry = struct.Struct(f"{sign}HH{long}{inside}s")
    file.seek(8 if version == _BIG else 4)
    waiting = [int.from_bytes(file.read(inside), order)]
    seen = {0, *waiting}
    while waiting:
        file.seek(min(waiting.pop(), end))
        count = int.from_bytes(file.read(number), order)
        data = file.read(min(count, _MOST_TAGS) * entry.size + inside)
        if count > _MOST_TAGS or len(data) < count * entry.size:
            continue
        found, following = [], [data[count * entry.size :]]
        for code, kind, length, value in entry.iter_unpack(data[: count * entry.size]):
            each = _SIZES.get(kind, 1)
            start = int.from_bytes(value, order)
            if length * each > inside:
                found.append((length * each, start))
            if code == _SUBIFDS and length <= _MOST_SUBIFDS:
                if length * each > inside:
                    file.seek(min(start, end))
                    value = file.read(length * each)  # noqa: PLW2901
                following += [value[n * each : (n + 1) * each] for n in range(length)]
        new = {int.from_bytes(place, order) for place in following} - seen
        seen |= new
        waiting += new
        yield len(seen), found


def check_coded(data: bytes, pixels: float, what: object) -> None:
    """Raise `InputFileError` if a coded image is much larger than `pixels`, or takes long.

    Knows JPEG, PNG, WebP, JPEG 2000, JPEG XL, JPEG XR and LERC.
    """
    size: tuple[int, ...] = (0, 0)
    if data.startswith(_JPEG):
        size = _jpeg_size(data)
        if data.count(b"\xff\xda") > _MOST_SCANS:
            raise InputFileError(
                f"{what}: is a JPEG of more than {_MOST_SCANS} scans: save it anew"
            )
    elif data.startswith(b"\x89PNG"):
        size = _numbers(">II", data, 16)
    elif data.startswith(b"RIFF"):
        size = _webp_size(data)
    elif data.startswith((_J2K, _JP2)):
        size = _numbers(">II", data, _codestream(data) + 8)
    elif known := next((name for start, name in _DECODERS.items() if data.startswith(start)), ""):
        size = _shape_from_error(known, data)
    if math.prod(size) > _OVERSIZE * pixels + _ROUNDED:
        raise InputFileError(
            f"{what}: holds a part of {sizes(size)} pixels, many more than it says: it is "
            "damaged; save it again"
        )


def _numbers(form: str, data: bytes, at: int) -> tuple[int, ...]:
    part = data[at : at + struct.calcsize(form)]
    return struct.unpack(form, part) if len(part) == struct.calcsize(form) else (0, 0)


def _shape_from_error(decoder: str, data: bytes) -> tuple[int, ...]:
    """Return the shape that a decoder names as it refuses an array without room for any image.

    It includes frames and channels, and is known before anything is decoded. An array of another
    type is refused for its type, so all are tried.
    """
    import imagecodecs

    for kind in "BbHhIiQqefd?":
        try:
            getattr(imagecodecs, decoder)(data, out=np.empty((0, 0), kind))
        except ValueError as error:
            if shapes := re.findall(r"\(([\d, ]+)\)", str(error)):
                return tuple(int(n) for n in re.findall(r"\d+", shapes[-1]))
        except RuntimeError:  # damaged, as decoding it will tell
            break
    return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, ...]:
    at = 0
    for _ in range(_MOST_MARKERS):
        if (at := data.find(b"\xff", at)) < 0:
            return 0, 0
        marker = re.compile(b"\xff+").match(data, at).end()  # type: ignore[union-attr]
        kind = data[marker] if marker < len(data) else 0
        if kind in _FRAMES:
            return _numbers(">HH", data, marker + 4)[::-1]
        at = marker
        if kind and kind not in _WITHOUT_LENGTH:
            at += 1 + max(_numbers(">H", data, marker + 1)[0], 2)
    return _UNKNOWN, _UNKNOWN


def _webp_size(data: bytes) -> tuple[int, ...]:
    kind = data[12:16]
    if kind == b"VP8X":
        return tuple(1 + int.from_bytes(data[n : n + 3], "little") for n in (24, 27))
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return tuple(n & 0x3FFF for n in _numbers("<HH", data, 26))


def _codestream(data: bytes) -> int:
    """Return where the codestream begins, behind the boxes of a file of JPEG 2000."""
    at = 0
    while data.startswith(_JP2) and at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        if kind == b"jp2c":
            return at + (16 if length == 1 else 8)
        at += _numbers(">Q", data, at + 8)[0] if length == 1 else length or len(data)
        # A box that is shorter than its head would be read for ever.
        if length < 8 and length != 1:
            break
    return 0
