"""Values as JSON text and compressed bytes, one mechanism for all that a project stores."""

from __future__ import annotations

import json
import struct
from collections.abc import Hashable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
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


def dump(value: object) -> str:
    """Return a value without arrays as JSON text."""
    return _text(to_json(value, []))


def load(hint: type[T], text: str) -> T:
    """Read back what `dump` wrote from a value of the type `hint`.

    Raises
    ------
    ProjectError
        If the text does not describe such a value.
    """
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
    """Read back what `encode` wrote from a value of the type `hint`; as `load` otherwise."""
    try:
        return from_json(hint, json.loads(text), _arrays(payload) if payload else [])
    except (KeyError, TypeError, ValueError, IndexError, RecursionError, struct.error) as error:
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


def compress(data: bytes) -> bytes:
    """Return the bytes compressed, with a checksum."""
    return bytes(_ZSTD.encode(data))


def decompress(data: bytes) -> bytes:
    """Return what `compress` was given; damaged bytes are a `ProjectError`."""
    try:
        return bytes(_ZSTD.decode(data))
    except (RuntimeError, ValueError) as error:
        raise ProjectError(f"a part of the project is damaged ({error})") from error


def to_json(value: Any, arrays: list[Array]) -> Any:
    """Return a value as JSON types; its arrays go to `arrays`, in their place stands a number.

    Of a dataclass, fields that have their default value and fields with the metadata
    ``stored=False`` are left out.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {_ARRAY: len(arrays) - 1}
    if is_dataclass(value):
        return {
            field.name: to_json(given, arrays)
            for field in fields(value)
            if _is_stored(field, given := getattr(value, field.name))
        }
    if isinstance(value, dict):
        return {str(key): to_json(each, arrays) for key, each in value.items()}
    return [to_json(each, arrays) for each in value]


def from_json(hint: Any, value: Any, arrays: Sequence[Array]) -> Any:
    """Rebuild a value of the type `hint` from what `to_json` returned."""
    if isinstance(hint, NewType):
        hint = hint.__supertype__
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _one_of(options, value, arrays)
    if origin is tuple:
        of_each = options[:1] * len(value) if options[-1] is Ellipsis else options
        return tuple(from_json(h, v, arrays) for h, v in zip(of_each, value, strict=True))
    if origin is dict:
        return {options[0](k): from_json(options[1], v, arrays) for k, v in value.items()}
    if origin is np.ndarray:
        return arrays[value[_ARRAY]]
    return _plain(hint, options, value, arrays)


def _plain(hint: Any, options: tuple[Any, ...], value: Any, arrays: Sequence[Array]) -> Any:
    """Rebuild a dataclass, one of the values of a literal, or a number or text."""
    if options:
        if value not in options:
            raise ValueError(f"{value!r} is none of {options}")
        return value
    if is_dataclass(hint):
        kind = cast("type[Any]", hint)
        known = _hints(cast("Hashable", kind))
        return kind(**{k: from_json(known[k], v, arrays) for k, v in value.items() if k in known})
    return value if hint is Any else hint(value)


def _one_of(options: tuple[Any, ...], value: Any, arrays: Sequence[Array]) -> Any:
    """Rebuild a value of a union: nothing, an array, or the one other type."""
    if value is None:
        return None
    is_array = isinstance(value, dict) and value.keys() == {_ARRAY}
    rest = [h for h in options if h is not NoneType and (get_origin(h) is np.ndarray) == is_array]
    return from_json(rest[0], value, arrays)


def _is_stored(field: Field[Any], value: Any) -> bool:
    if not field.metadata.get("stored", True):
        return False
    if field.default is MISSING or isinstance(value, np.ndarray):
        return True
    return type(value) is not type(field.default) or bool(value != field.default)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _text(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
