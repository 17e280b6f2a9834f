"""Values as JSON text and compressed bytes, one mechanism for all that a project stores."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import prod
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import Zstd
from pydantic import ConfigDict, TypeAdapter

from napari_peftsam.errors import ProjectError

__all__ = ["compress", "decode", "decompress", "dump", "encode", "from_json", "to_json"]

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


def encode(value: object) -> tuple[str, bytes]:
    """Return a value as JSON text, and its arrays as compressed bytes (none: no bytes)."""
    arrays: list[Array] = []
    text = _text(to_json(value, arrays))
    if not arrays:
        return text, b""
    header = _text([[array.dtype.str, array.shape] for array in arrays]).encode()
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return text, compress(_HEADER.pack(len(header)) + header + body)


def decode(hint: Any, text: str, payload: bytes = b"") -> Any:
    """Rebuild a value of the type `hint` from `dump` or `encode`, or raise `ProjectError`."""
    try:
        arrays = _arrays(payload) if payload else []
        return from_json(hint, json.loads(text, object_hook=_placing(arrays) if arrays else None))
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


def _placing(arrays: list[Array]) -> Callable[[dict[str, Any]], Any]:
    """Return the function that puts arrays in place of their numbers."""
    return lambda value: arrays[value[_ARRAY]] if value.keys() == {_ARRAY} else value


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


def from_json(hint: Any, value: Any) -> Any:
    """Rebuild a value of the type `hint` from JSON types and arrays; skip unknown fields."""
    return _adapter(hint).validate_python((value,))[0]


_PLAIN = frozenset((NoneType, bool, int, float, str))


@cache
def _adapter(hint: Any) -> TypeAdapter[tuple[Any]]:
    # A tuple around it, because pydantic takes no options for a dataclass.
    return TypeAdapter(tuple[hint], config=ConfigDict(arbitrary_types_allowed=True))


@cache
def _stored_fields(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """Return names and default values (MISSING: none) of the fields that are stored."""
    return tuple((f.name, f.default) for f in fields(kind) if f.metadata.get("stored", True))


def _differs(value: Any, default: Any) -> bool:
    if default is MISSING or isinstance(value, np.ndarray):
        return True
    return type(value) is not type(default) or bool(value != default)


def _text(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
