"""Values as JSON text and compressed bytes, one mechanism for all that a project stores."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import prod
from types import NoneType, UnionType
from typing import Any, NewType, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
from numcodecs import Zstd

from napari_peftsam.errors import ProjectError

__all__ = ["compress", "decode", "decompress", "dump", "encode", "from_json", "load", "to_json"]

T = TypeVar("T")
Array = npt.NDArray[Any]

# Level 1 costs 0.3 ms for a tile of labels; the checksum finds damage that SQLite does not see.
_ZSTD = Zstd(level=1, checksum=True)
_HEADER = struct.Struct("<I")
_ARRAY = "array"
_UNREADABLE = (
    AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError, struct.error
)  # fmt: skip


def dump(value: object) -> str:
    """Return a value without arrays as JSON text."""
    return _text(to_json(value, []))


def load(hint: type[T], text: str) -> T:
    """Rebuild a value of the type `hint` from the text of `dump`, or raise `ProjectError`."""
    return cast("T", decode(hint, text, b""))


def encode(value: object) -> tuple[str, bytes]:
    """Return a value as JSON text, and its arrays as compressed bytes (none: no bytes)."""
    arrays: list[Array] = []
    text = _text(to_json(value, arrays))
    if not arrays:
        return text, b""
    header = _text([[array.dtype.str, array.shape] for array in arrays]).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return text, compress(_HEADER.pack(len(header)) + header + body)


def decode(hint: Any, text: str, payload: bytes) -> Any:
    """Rebuild a value of the type `hint` from the output of `encode`; errors as in `load`."""
    try:
        return from_json(hint, json.loads(text), _arrays(payload) if payload else [])
    except _UNREADABLE as error:
        raise ProjectError(f"a part of the project cannot be read ({error!r})") from error


def _arrays(payload: bytes) -> list[Array]:
    plain = decompress(payload)
    (length,) = _HEADER.unpack_from(plain)
    start = _HEADER.size + length
    arrays = []
    for kind, shape in json.loads(plain[_HEADER.size : start]):
        array = np.frombuffer(plain, np.dtype(kind), prod(shape), start).reshape(shape)
        start += array.nbytes
        arrays.append(array)
    return arrays


def compress(data: bytes | Array) -> bytes:
    """Return the bytes (of a contiguous array) compressed, with a checksum."""
    return bytes(_ZSTD.encode(data))


def decompress(data: bytes) -> bytes:
    """Decompress the bytes of `compress`; raise `ProjectError` if they are damaged."""
    try:
        return bytes(_ZSTD.decode(data))
    except (RuntimeError, ValueError) as error:
        raise ProjectError(f"a part of the project is damaged ({error})") from error


def to_json(value: Any, arrays: list[Array]) -> Any:
    """Return a value as JSON types; its arrays go to `arrays`, replaced by their numbers.

    Of a dataclass, fields that have their default value and fields with the metadata
    ``stored=False`` are left out.
    """
    if isinstance(value, np.generic):
        value = value.item()
    kind = type(value)
    if kind in _PLAIN:
        return value
    if is_dataclass(kind):
        return {
            name: to_json(given, arrays)
            for name, default in _stored_fields(kind)
            if _differs(given := getattr(value, name), default)
        }
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {_ARRAY: len(arrays) - 1}
    if isinstance(value, dict):
        return {str(key): to_json(each, arrays) for key, each in value.items()}
    return [to_json(each, arrays) for each in value]


def from_json(hint: Any, value: Any, arrays: Sequence[Array]) -> Any:
    """Rebuild a value of the type `hint` from the output of `to_json`."""
    return _reader(hint)(value, arrays)


_PLAIN = frozenset((NoneType, bool, int, float, str))
_Reader = Callable[[Any, Sequence[Array]], Any]


@cache
def _stored_fields(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """Return names and default values (MISSING: none) of the fields that are stored."""
    return tuple((f.name, f.default) for f in fields(kind) if f.metadata.get("stored", True))


def _differs(value: Any, default: Any) -> bool:
    if default is MISSING or isinstance(value, np.ndarray):
        return True
    return type(value) is not type(default) or bool(value != default)


@cache
def _reader(hint: Any) -> _Reader:
    """Return the function that rebuilds values of a type; looking at types takes long."""
    if isinstance(hint, NewType):
        hint = hint.__supertype__
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _union_reader(options)
    if origin is tuple:
        return _tuple_reader(options)
    if origin is dict:
        key, read = options[0], _reader(options[1])
        return lambda value, arrays: {key(k): read(v, arrays) for k, v in value.items()}
    if origin is np.ndarray:
        return lambda value, arrays: arrays[value[_ARRAY]]
    if options:
        return lambda value, _: options[options.index(value)]  # of a Literal, or a ValueError
    return _plain_reader(hint)


def _plain_reader(hint: Any) -> _Reader:
    if is_dataclass(hint):
        readers = {name: _reader(each) for name, each in get_type_hints(hint).items()}
        # Fields of a newer version are left out.
        return lambda value, arrays: cast("type[Any]", hint)(
            **{k: readers[k](v, arrays) for k, v in value.items() if k in readers}
        )
    return lambda value, _: value if hint is Any else hint(value)


def _union_reader(options: tuple[Any, ...]) -> _Reader:
    """Read nothing, an array, or the one other type."""
    readers: dict[bool, _Reader] = {}
    for hint in options:
        if hint is not NoneType:
            readers.setdefault(get_origin(hint) is np.ndarray, _reader(hint))

    def read(value: Any, arrays: Sequence[Array]) -> Any:
        if value is None:
            return None
        return readers[isinstance(value, dict) and value.keys() == {_ARRAY}](value, arrays)

    return read


def _tuple_reader(options: tuple[Any, ...]) -> _Reader:
    if options[-1] is Ellipsis:
        each = _reader(options[0])
        return lambda value, arrays: tuple([each(v, arrays) for v in value])
    readers = [_reader(hint) for hint in options]
    return lambda value, arrays: tuple(
        [read(v, arrays) for read, v in zip(readers, value, strict=True)]
    )


def _text(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
