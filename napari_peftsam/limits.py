"""Limits of what a file may cost: its kind, memory, time, and nesting.

Files come by mail and from the web. What reading one will take in memory follows from its
header, and is checked before anything is decoded; so is time as far as it can be known, else a
clock ends what takes too long. Every reader asks here.
"""

from __future__ import annotations

import json
import os
import pickle
import pickletools
import stat
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ValidationError

from napari_peftsam.errors import ConfigurationError, InputFileError, PeftSamError, printable
from napari_peftsam.heap import free_main_memory

BUDGET_VARIABLE = "NAPARI_PEFTSAM_READ_BYTES"
"""Environment variable with the bytes of memory that the content of one file may take."""
TIME_VARIABLE = "NAPARI_PEFTSAM_READ_SECONDS"
"""Environment variable with the seconds of a processor that reading one file may take."""
CONFIGURATION_BYTES = 256 * 1024
"""The most that a configuration may have."""

_SHARE = 1 / 4  # of the free memory
_SMALL = 32 * 1024**2  # bytes, for which looking at the free memory would take too long
_UNSUSPICIOUS = 512 * 1024**2  # bytes that any file may become
_PLAIN = 4  # memory by bytes on disk of what is not compressed, conversions included
_INFLATION = 256  # the same of compressed images; sparse labels reach 200, bombs 1,000
_JSON_INFLATION = 16  # the same of outlines and tables; lists of empty lists reach 27
# Bytes of CPython's objects, by the character that begins or parts them.
_JSON_COSTS = {b"[": 80, b"{": 240, b",": 40, b'"': 30}
_SECONDS, _SECONDS_PER_BYTE = 15.0, 1e-6
_HEADER = 16 * 1024**2  # bytes of a safetensors file; SAM's have 60 KB
_OPERATIONS = 10**6  # of pickles, each of which may make a list; SAM's have 6,000
# Above, Python's hash repeats, and a mapping takes time by the square of such keys. States of
# random generators have a few.
_BITS, _LARGE_NUMBERS = 64, 1000
_HASHED_TUPLES = 1000  # whose hashes may repeat, too
_ELEMENTS = 10**6  # of XML
_DEEPEST = 64  # lists and mappings in each other
ZSTD = b"\x28\xb5\x2f\xfd"
"""First bytes of data that Zstandard compressed."""
_DOTS = 100  # in a line: parts of a TOML key, for whose number parsing takes quadratic time

_NO_JSON = "cannot be read: it is damaged or not valid JSON; write or copy it again"
_NO_FILE = "cannot be read: it is no regular file; copy it to one first"
_SHOWN = 60  # characters of a wrong value
_DIGITS = 19
_UNITS = {
    BUDGET_VARIABLE: ("bytes", "2000000000 for 2 GB"),
    TIME_VARIABLE: ("seconds", "600 for ten minutes"),
}

Error = type[PeftSamError]
Model = TypeVar("Model", bound=BaseModel)
Item = TypeVar("Item")


def read_budget() -> int:
    """Return the bytes of memory that the content of one file may take.

    A quarter of the free memory, unless ``NAPARI_PEFTSAM_READ_BYTES`` says otherwise.
    """
    chosen = _chosen(BUDGET_VARIABLE)
    return int(free_main_memory() * _SHARE) if chosen is None else chosen


def _chosen(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    if not (text.isdecimal() and len(text) < _DIGITS):
        unit, example = _UNITS[variable]
        raise ConfigurationError(
            f"{variable} must be a whole number of {unit}, got {printable(text, _SHOWN)!r}: write "
            f"{example}, or unset it"
        )
    return int(text)


def check_file(path: Path, error: Error = InputFileError) -> None:
    """Raise `error` if a path is no regular file: a pipe or device may never end."""
    if not path.exists():
        raise error(f"{path}: no such file; check the path")
    if not path.is_file():
        raise error(f"{path} {_NO_FILE}")


def check_claim(
    claimed: float,
    stored: float,
    what: object,
    inflation: float = _INFLATION,
    error: Error = InputFileError,
) -> None:
    """Raise `error` if reading takes more memory than the budget, or than the file can justify.

    Parameters
    ----------
    claimed
        Bytes in memory, by the file's header.
    stored
        Bytes on the disk.
    what
        The file, for the message.
    inflation
        Bytes in memory that one byte on the disk may become where they are many.
    error
        Raised.
    """
    chosen = _chosen(BUDGET_VARIABLE)
    if chosen is not None:
        allowed = float(chosen)
    elif claimed <= _SMALL:
        return
    elif claimed <= _PLAIN * stored:  # nothing is hidden in it
        allowed = free_main_memory()
    else:
        allowed = min(read_budget(), max(_UNSUSPICIOUS, inflation * stored))
    if claimed <= allowed:
        return
    raise error(
        f"{what}: its {stored / 1e6:,.1f} MB would take {claimed / 1e6:,.0f} MB of memory, which "
        f"is refused: if the file is right, set {BUDGET_VARIABLE} to more bytes"
    )


def check_time(seconds: float, path: Path) -> None:
    """Raise `InputFileError` if reading a file, by its header, takes longer than it may."""
    if seconds > _allowed_seconds(path):
        raise _too_slow(path)


def in_time(items: Iterable[Item], path: Path) -> Iterator[Item]:
    """Yield what a file holds; raise `InputFileError` as soon as that takes longer than it may.

    Seconds of the processor count, not those for which a busy computer does something else.
    """
    end = time.thread_time() + _allowed_seconds(path)
    for each in items:
        if time.thread_time() >= end:
            raise _too_slow(path)
        yield each


def _allowed_seconds(path: Path) -> float:
    chosen = _chosen(TIME_VARIABLE)
    return _SECONDS + _SECONDS_PER_BYTE * stored_bytes(path) if chosen is None else float(chosen)


def _too_slow(path: Path) -> InputFileError:
    return InputFileError(
        f"{path}: takes longer to read than a file of {stored_bytes(path) / 1e6:,.1f} MB may: if "
        f"it is right, set {TIME_VARIABLE} to more seconds"
    )


def stored_bytes(path: Path) -> int:
    """Return the disk space of a file or folder; holes take none."""
    files = (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else (path,)
    return sum(allocated_bytes(file.stat()) for file in files)


def allocated_bytes(found: os.stat_result) -> int:
    """Return the disk space of a file by its status."""
    # Blocks have 512 bytes. Windows and some network file systems count none.
    blocks = getattr(found, "st_blocks", 0)
    return found.st_size if not blocks else min(found.st_size, 512 * blocks)


def check_safetensors(path: Path, error: Error) -> None:
    """Raise `error` if a safetensors file lies in holes, or its header is too large."""
    size = path.stat().st_size
    check_claim(size, stored_bytes(path), path, error=error)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if _HEADER < length <= size:  # else it is no such file at all
        raise error(f"{path} describes its tensors in {length / 1e6:,.0f} MB, which is too much")


def safetensors_header(content: bytes, what: object, error: Error) -> Any:
    """Return what a safetensors file says of its tensors, by name."""
    length = int.from_bytes(content[:8], "little")
    return parse_json(content[8 : 8 + length], what, error)


def zstd_bytes(data: bytes) -> int | None:
    """Return the size that compressed data claims to have, None if it claims none."""
    if len(data) < 6 or data[:4] != ZSTD:
        return None
    flags = data[4]
    single = bool(flags & 0x20)
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    length = (int(single), 2, 4, 8)[flags >> 6]
    offset = 256 if length == 2 else 0  # bytes, by its format
    return offset + int.from_bytes(data[at : at + length], "little") if length else None


def check_zip(path: Path, error: Error = InputFileError) -> list[zipfile.ZipInfo]:
    """Return the entries of a zip file whose content may be read."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as broken:
        raise error(f"{path} cannot be read: it is damaged ({broken}); copy it again") from broken
    check_claim(sum(each.file_size for each in entries), stored_bytes(path), path, error=error)
    return entries


def check_pickles(file: IO[bytes], count: int, what: object, error: Error) -> None:
    """Raise `error` if the next pickles of a file make too many or too large objects.

    None of those is made; what is no pickle raises `ValueError` or the like.
    """
    start = file.tell()
    found = (arg for _ in range(count) for _, arg, _ in pickletools.genops(file))
    operations = large = 0
    for argument in islice(found, _OPERATIONS + 1):
        operations += 1
        large += isinstance(argument, int) and argument.bit_length() > _BITS
    if operations > _OPERATIONS:
        raise error(f"{what} holds more than {_OPERATIONS:,} plain values: save arrays alone")
    if large > _LARGE_NUMBERS:
        raise error(f"{what} holds more than {_LARGE_NUMBERS:,} large numbers: save arrays alone")
    stored = file.tell() - start
    file.seek(start)
    copied = 0
    for _ in range(count):
        trial = _Trial(file)
        trial.load()
        copied += trial.copied
        check_claim(copied, stored, what, _JSON_INFLATION, error)


_LOADS: dict[int, Any] = pickle._Unpickler.dispatch  # noqa: SLF001


class _Trial(pickle._Unpickler):  # noqa: SLF001  # that in C cannot be changed
    """Unpickler that makes texts, numbers and containers, and a stand-in for all else.

    It refuses calls that make more of a value than the file holds, and counts what calls copy:
    a file may copy the same value again and again.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(_LOADS)

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.copied = self.tuples = 0

    def find_class(self, module: str, name: str) -> Any:
        if name in ("encode", "bytearray"):
            return self._copy
        return _StandIn

    def persistent_load(self, pid: object) -> Any:
        return _StandIn()

    def _copy(self, value: object = b"", codec: object = "latin1") -> object:
        """Count what `_codecs.encode` and `bytearray` copy, as for bytes in older pickles."""
        if not (isinstance(value, (bytes, str)) and codec in ("latin1", "latin-1")):
            raise pickle.UnpicklingError("a value is made in a way that no program writes")
        self.copied += sys.getsizeof(value)
        return value

    def _count(self) -> None:
        taken = self.stack[-1]
        self.copied += sum(map(sys.getsizeof, taken if isinstance(taken, tuple) else [taken]))

    def _hash(self, keys: Sequence[object]) -> None:
        """Count tuples that are hashed: as keys of one hash they take time by their square."""
        self.tuples += sum(isinstance(key, tuple) for key in keys)
        if self.tuples > _HASHED_TUPLES:
            raise pickle.UnpicklingError(f"more than {_HASHED_TUPLES:,} tuples are keys")

    def load_setitem(self) -> None:
        self._hash(self.stack[-2:-1])
        _LOADS[pickle.SETITEM[0]](self)

    def load_setitems(self) -> None:
        self._hash(self.stack[::2])
        _LOADS[pickle.SETITEMS[0]](self)

    def load_dict(self) -> None:
        self._hash(self.stack[::2])
        _LOADS[pickle.DICT[0]](self)

    def load_additems(self) -> None:
        self._hash(self.stack)
        _LOADS[pickle.ADDITEMS[0]](self)

    def load_frozenset(self) -> None:
        self._hash(self.stack)
        _LOADS[pickle.FROZENSET[0]](self)

    def load_build(self) -> None:
        self._count()
        self.stack.pop()

    def load_reduce(self) -> None:
        self._count()
        _LOADS[pickle.REDUCE[0]](self)

    def load_newobj(self) -> None:
        self._count()
        _LOADS[pickle.NEWOBJ[0]](self)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj


class _StandIn:
    """Takes what the place of an object takes, and forgets it."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def _forget(self, *_: object) -> Self:
        return self

    __call__ = __setitem__ = append = extend = add = _forget


# --- text ---------------------------------------------------------------------------


def read_text(path: Path, most: int = 0, error: Error = InputFileError) -> str:
    """Return the text of a regular file in UTF-8; with `most`, of at most so many bytes.

    Raises `OSError` and `UnicodeDecodeError` besides `error`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path} {_NO_FILE}")
    size = status.st_size
    check_claim(2 * size, allocated_bytes(status), path, error=error)
    if size > (most or read_budget()):
        raise error(f"{path}: has {size / 1e6:,.1f} MB, which is too much for a file of its kind")
    with path.open("rb") as file:
        if file.read(1) == b"\0":  # perhaps nothing but a hole, which some file systems count
            raise error(f"{path} cannot be read: it is damaged or no text; copy it again")
    return path.read_text(encoding="utf-8-sig")


def check_json(data: bytes, what: object, error: Error = InputFileError) -> None:
    """Raise `error` if a JSON text becomes too large."""
    claimed = len(data) + sum(cost * data.count(sign) for sign, cost in _JSON_COSTS.items())
    check_claim(claimed, len(data), what, _JSON_INFLATION, error)


def parse_json(
    text: str | bytes, what: object, error: Error = InputFileError, unique: bool = False
) -> Any:
    """Return the value of a JSON text.

    Parameters
    ----------
    text
        The text.
    what
        Where it is from, for the message.
    error
        Raised if it is no JSON, nested too deeply, or becomes too large.
    unique
        Refuse tables that name a key twice, of which other programs may take the other value.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    check_json(data, what, error)
    try:
        return _shallow(json.loads(data, object_pairs_hook=_once if unique else None))
    except RecursionError:
        raise error(f"{what} cannot be read: its lists are nested too deeply") from None
    except ValueError as broken:
        raise error(f"{what} {_NO_JSON} ({broken})") from broken


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a key is named twice")
    return found


def read_json(path: Path, error: Error = InputFileError, most: int = 0) -> Any:
    """Return the content of a JSON file of at most `most` bytes; see `parse_json`."""
    try:
        text = read_text(path, most, error)
    except OSError as broken:
        raise error(f"{path}: {broken.strerror or broken}; check the path") from broken
    except UnicodeDecodeError as broken:
        raise error(f"{path} {_NO_JSON} ({broken})") from broken
    return parse_json(text, path, error)


def check_xml(text: str, what: object, error: Error = InputFileError) -> None:
    """Raise `error` if an XML text holds too many elements, or too many in each other."""
    from xml.parsers import expat

    depth = number = 0

    def start(*_: object) -> None:
        nonlocal depth, number
        depth, number = depth + 1, number + 1
        if depth > _DEEPEST or number > _ELEMENTS:
            raise error(f"{what}: its XML holds too many elements, or too many in each other")

    def end(*_: object) -> None:
        nonlocal depth
        depth -= 1

    if text.count("<") > _DEEPEST:
        parser = expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = start, end
        with suppress(expat.ExpatError):  # no XML, as reading it will tell
            parser.Parse(text, True)


def parse_toml(text: str, what: object, error: Error) -> dict[str, Any]:
    """Return the tables of a TOML text of at most 256 KB; see `parse_json`."""
    deep = any(line.count(".") > _DOTS for line in text.splitlines())
    if deep or len(text) > CONFIGURATION_BYTES:
        raise error(f"{what} is not valid TOML: it is too {'deeply nested' if deep else 'long'}")
    try:
        found: dict[str, Any] = _shallow(tomllib.loads(text))
    except RecursionError:
        raise error(f"{what} is not valid TOML: lists are nested too deeply") from None
    except ValueError as broken:
        raise error(f"{what} is not valid TOML: {broken}") from broken
    return found


def validated(
    schema: type[Model], content: Any, what: object, error: Error = ConfigurationError
) -> Model:
    """Return the content of a configuration as a model; raise `error` with the first problem."""
    try:
        return schema.model_validate(content)
    except ValidationError as broken:
        first = broken.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        got = f", got {printable(repr(first['input']), _SHOWN)}"
        problem = {
            "extra_forbidden": f"unknown key {key!r}, the keys are "
            f"{', '.join(schema.model_fields)}",
            "missing": f"needs a {key}",
            "model_type": f"must be a table{got}",
            "string_type": f"{key} must be a text that is not empty{got}",
            "string_too_short": f"{key} must be a text that is not empty{got}",
            "value_error": first["msg"].removeprefix("Value error, "),
        }.get(first["type"])
        other = first["msg"].replace("Input should be", "must be")
        raise error(f"{what}: {problem or f'{key} {other}{got}'}") from broken


def _shallow(content: Any) -> Any:
    """Return parsed content, or raise `RecursionError`: what walks it would go as deep."""
    level, depth = [content] if isinstance(content, dict | list) else [], 0
    while level:
        depth += 1
        if depth > _DEEPEST:
            raise RecursionError
        held = (each.values() if isinstance(each, dict) else each for each in level)
        level = [inner for each in held for inner in each if isinstance(inner, dict | list)]
    return content
