"""The user's own models: ``models.toml`` in the configuration folder.

One table per model, with a file on this computer or an address to download it from::

    [[model]]
    name = "our_nuclei"
    path = "checkpoints/our_nuclei.pth"   # relative to models.toml; or url = "https://..."
    xxh128 = "0123456789abcdef0123456789abcdef"
    title = "Our nuclei"
    purpose = "Nuclei of our spinning disc, 40x."
    license = "CC-BY-4.0"
    megabytes = 375

Only `name` and one of `path` and `url` are needed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.folders import configuration_folder
from napari_peftsam.models.entry import ModelEntry

__all__ = ["NAME", "own_models_file", "read_own_models"]

# No dot and no slash: what can be a name can never be mistaken for a checkpoint's path.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_TEXTS = ("name", "path", "url", "xxh128", "title", "purpose", "license", "citation")
_KEYS = (*_TEXTS, "megabytes")
_MEGABYTE = 1_000_000
_MANY = 10**9


def own_models_file() -> Path:
    """Return where the user's own models are listed; there need not be such a file."""
    return configuration_folder() / "models.toml"


def read_own_models(taken: Collection[str] = ()) -> tuple[ModelEntry, ...]:
    """Read the user's own models; none if there is no file.

    Parameters
    ----------
    taken
        Names they may not have.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or an entry is wrong; it names the file and the entry.
    """
    file = own_models_file()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no TOML, or no text at all
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
    tables = content.get("model", [])
    if content.keys() - {"model"} or not isinstance(tables, list):
        raise ConfigurationError(f"{file} must hold [[model]] tables and nothing else")
    # Names become file names, and some disks do not tell upper from lower case.
    used = {name.casefold(): "comes with the program" for name in taken}
    entries = []
    for number, table in enumerate(tables, start=1):
        entry = _entry(table, file, number)
        if entry.name.casefold() in used:
            reason = used[entry.name.casefold()]
            raise _error(file, number, entry.name, f"a model of this name {reason}: choose another")
        used[entry.name.casefold()] = "is listed before"
        entries.append(entry)
    return tuple(entries)


def _error(file: Path, number: int, name: object, problem: str) -> ConfigurationError:
    named = f" ({name!r})" if name else ""
    return ConfigurationError(f"{file}, model {number}{named}: {problem}")


def _entry(table: object, file: Path, number: int) -> ModelEntry:
    if not isinstance(table, dict):
        raise _error(file, number, "", "must be a [[model]] table")
    problem = _problem(table)
    if problem:
        raise _error(file, number, table.get("name"), problem)
    name: str = table["name"]
    url: str = table.get("url", "")
    path = _resolve(table["path"], file) if "path" in table else None
    return ModelEntry(
        name,
        table.get("title", name),
        "",
        round(table["megabytes"]) if "megabytes" in table else _size(path),
        table.get("license", ""),
        url or str(path),
        table.get("purpose", ""),
        table.get("citation", ""),
        file=path,
        url=url,
        xxh128=table.get("xxh128", "").lower(),
    )


def _problem(table: dict[str, Any]) -> str:
    """Say what is wrong with an entry's table, nothing if it is right."""
    unknown = sorted(table.keys() - set(_KEYS))
    texts = [k for k in _TEXTS if k in table and not (isinstance(table[k], str) and table[k])]
    if unknown:
        return f"unknown key {unknown[0]!r}, the keys are {', '.join(_KEYS)}"
    if texts:
        return f"{texts[0]} must be a text that is not empty, got {table[texts[0]]!r}"
    megabytes = table.get("megabytes", 0)
    number = isinstance(megabytes, int | float) and not isinstance(megabytes, bool)
    checks = {
        "needs a name of letters, digits, '_' and '-'": NAME.fullmatch(table.get("name", "")),
        "needs either a path or a url": ("path" in table) != ("url" in table),
        f"the url must begin with https:// or http://, got {table.get('url')!r}": (
            "url" not in table or _is_address(table["url"])
        ),
        f"xxh128 must be 32 hexadecimal digits, got {table.get('xxh128')!r}": (
            "xxh128" not in table or _DIGEST.fullmatch(table["xxh128"].lower())
        ),
        f"megabytes must be a number from 0, got {megabytes!r}": number and 0 <= megabytes < _MANY,
    }
    return next((problem for problem, right in checks.items() if not right), "")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:  # e.g. a bracket that is not closed
        return False


def _resolve(path: str, file: Path) -> Path:
    found = Path(path)
    with suppress(RuntimeError):  # the home of nobody: then it is a folder called "~somebody"
        found = found.expanduser()
    return file.parent / found  # an absolute path replaces the parent


def _size(path: Path | None) -> int:
    try:
        return max(1, round(path.stat().st_size / _MEGABYTE)) if path is not None else 0
    except (OSError, ValueError):  # ValueError: no path at all, such as one with a zero in it
        return 0
