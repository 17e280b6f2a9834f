"""Zarr folders of strangers: names of codecs, sizes of chunks and kinds of files are checked.

zarr makes any codec that an array's metadata names, of whatever package, and some run code that
a chunk holds. Chunks that are compressed may become any size.
"""

from __future__ import annotations

import math
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import imagecodecs
import numpy as np
import zarr
from numcodecs.abc import Codec
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec
from zarr.storage import LocalStore, StorePath

from napari_peftsam.errors import InputFileError, PeftSamError
from napari_peftsam.limits import allocated_bytes, check_claim, check_json, zstd_bytes

_COMPRESSORS = {"blosc", "gzip", "lz4", "zlib", "zstd"}
_FILTERS = {"bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"}
_CODECS = {"bytes", "crc32c", "sharding_indexed", "transpose"} | _COMPRESSORS - {"lz4", "zlib"}
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_SLACK = 16 * 1024**2  # bytes that any chunk may become
_TINY, _MANY = 256, 10_000  # values of a chunk, and chunks, of which each takes a millisecond
_PIECE = 1 << 20
_LARGEST_NUMBER = 8  # bytes
_LARGE = "a chunk is damaged or becomes larger than the image says"
_DEFLATE = 1032  # bytes that one of gzip or zlib may become


def open_zarr(path: Path) -> Any:
    """Return an array or a group, of which only regular files are read; see `checked_array`."""
    with reading_zarr(path):
        return zarr.open(_RegularFiles(path, read_only=True), mode="r")


@contextmanager
def reading_zarr(path: Path) -> Iterator[None]:
    """Raise `InputFileError` for all that zarr raises on damaged metadata."""
    try:
        yield
    except PeftSamError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputFileError(
            f"{path}: cannot be read as .zarr ({reason}): copy it again"
        ) from error


def checked_array(array: Any, path: Path) -> Any:
    """Return an array that reads the same, of known codecs only.

    Raises `InputFileError` for other codecs, objects in place of numbers, and chunks that are
    too large, or too small for their number.
    """
    metadata, values = array.metadata, math.prod(array.chunks)
    size = values * array.dtype.itemsize
    place = array.store_path
    if array.dtype.kind in "OT":
        raise InputFileError(f"{path}: holds objects, not numbers: save it as numbers")
    check_claim(size, 0, f"a chunk of {path}")
    chunks = math.prod(-(-n // max(c, 1)) for n, c in zip(array.shape, array.chunks, strict=True))
    if chunks > _MANY and values < _TINY:
        raise InputFileError(
            f"{path}: is cut into {chunks:,} chunks of {values} values, which would "
            "take hours to read: save it in chunks of 256 x 256"
        )
    most = max(2 * size, _SLACK)
    if metadata.zarr_format == 2:
        named = [*(metadata.filters or ())]
        _check_names((codec.codec_id for codec in named), _FILTERS | _COMPRESSORS, path)
        _check_numbers(named, path)
        # A filter makes up to eight bytes of one, and a chain of them more, so none gets much.
        changes = {"filters": tuple(
            _Guard(codec, most if codec.codec_id in _COMPRESSORS else 2 * size + _PIECE)
            for codec in named
        ) or None}  # fmt: skip
        if metadata.compressor is not None:
            _check_names([metadata.compressor.codec_id], _COMPRESSORS, path)
            changes["compressor"] = _Guard(metadata.compressor, most)
    else:
        changes = {"codecs": _all_guarded(metadata.codecs, most, path)}
    if isinstance(place.store, _RegularFiles):
        stored = math.prod(array.shards or array.chunks) * array.dtype.itemsize
        place = StorePath(place.store.limited(2 * stored + _SLACK), place.path)
    return zarr.Array(zarr.AsyncArray(replace(metadata, **changes), place))


def _check_names(names: Iterable[str], allowed: set[str], path: Path) -> None:
    for name in names:
        if name not in allowed:
            raise InputFileError(
                f"{path}: is stored with {name!r}, which could run code or is unknown: save it "
                f"with one of {', '.join(sorted(allowed & _COMPRESSORS))}"
            )


def _check_numbers(codecs: Iterable[Any], path: Path) -> None:
    """Raise `InputFileError` for filters of values that are no numbers, and may have any size."""
    for codec in codecs:
        found = codec.get_config()
        for kind in (np.dtype(found[key]) for key in ("dtype", "astype") if found.get(key)):
            if kind.kind not in "biuf" or kind.itemsize > _LARGEST_NUMBER:
                raise InputFileError(f"{path}: is filtered as {kind}, not numbers: save it anew")


def _all_guarded(codecs: Iterable[Any], most: int, path: Path) -> tuple[Any, ...]:
    """Return version 3's codecs with a guard after each that decompresses."""
    found: list[Any] = []
    for codec in codecs:
        name = str(codec.to_dict().get("name"))
        _check_names([name], _CODECS, path)
        if isinstance(codec, ShardingCodec):
            _check_names((str(c.to_dict()["name"]) for c in codec.index_codecs), _CODECS, path)
            codec = replace(codec, codecs=_all_guarded(codec.codecs, most, path))  # noqa: PLW2901
        found.append(codec)
        if name in _COMPRESSORS:
            found.append(_ChunkGuard(name, most))
    return tuple(found)


class _Guard(Codec):  # type: ignore[misc]  # numcodecs is untyped
    """A codec of version 2 that refuses what is larger than `most` bytes, or becomes it."""

    codec_id = "napari_peftsam_guard"

    def __init__(self, codec: Any, most: int) -> None:
        self.codec, self.most, self.codec_id = codec, most, codec.codec_id

    def encode(self, buf: Any) -> Any:
        return self.codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        if self.codec_id in _COMPRESSORS:
            _check_inflation(self.codec_id, bytes(buf), self.most)
        elif memoryview(buf).nbytes > self.most:
            raise ValueError(_LARGE)
        return self.codec.decode(buf, out)

    def get_config(self) -> Any:
        return self.codec.get_config()


@dataclass(frozen=True)
class _ChunkGuard(BytesBytesCodec):
    """The same for version 3: it stands behind the codec `name` and changes nothing."""

    name: str
    most: int
    is_fixed_size = True

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        _check_inflation(self.name, chunk_data.to_bytes(), self.most)
        return chunk_data

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        return chunk_data

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        return input_byte_length

    def to_dict(self) -> dict[str, Any]:
        return {"name": "napari_peftsam_guard"}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        raise NotImplementedError(data)


def _check_inflation(name: str, data: bytes, most: int) -> None:
    """Raise `ValueError` if a compressed chunk becomes more than `most` bytes."""
    if name in ("gzip", "zlib"):
        large = _deflates_beyond(data, most)
    elif name == "zstd":
        size = zstd_bytes(data)
        large = _zstd_beyond(data, most) if size is None else size > most
    else:
        at = 4 if name == "blosc" else 0
        large = int.from_bytes(data[at : at + 4], "little") > most
    if large:
        raise ValueError(_LARGE)


def _zstd_beyond(data: bytes, most: int) -> bool:
    """Return whether data without a size at its begin finds no room in `most` bytes."""
    try:
        imagecodecs.zstd_decode(data, out=most)
    except imagecodecs.ZstdError:  # also of frames that are skipped
        return True
    return False


def _deflates_beyond(data: bytes, most: int) -> bool:
    size = 0
    if len(data) * _DEFLATE <= most:
        return False
    while data:  # a file may have several members
        stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # of gzip or of zlib
        while not stream.eof:
            piece = stream.decompress(data, _PIECE)
            data, size = stream.unconsumed_tail, size + len(piece)
            if size > most or not (piece or data or stream.eof):
                return size > most  # else cut short, which the codec itself finds
        data = stream.unused_data.lstrip(b"\0")
    return False


class _RegularFiles(LocalStore):
    """A folder of which only regular files of at most `most` bytes are read."""

    most: float = math.inf

    def limited(self, most: float) -> Self:
        """Return the same for an array whose chunks have at most so many bytes."""
        other = type(self)(self.root, read_only=True)
        other.most = most
        return other

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        path = Path(self.root, key)
        with suppress(FileNotFoundError, NotADirectoryError):
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InputFileError(f"{path}: is no regular file")
            check_claim(status.st_size, allocated_bytes(status), path)
            if path.name not in _METADATA and status.st_size > self.most:
                raise InputFileError(f"{path}: {_LARGE}")
        found = await super().get(key, prototype, byte_range)
        if found is not None and path.name in _METADATA:
            check_json(found.to_bytes(), path)
        return found
