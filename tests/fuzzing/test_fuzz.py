"""Damaged files of every format are read, or refused in one line."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("files are read in forks with bounded memory", allow_module_level=True)

from tests.fuzzing.formats import FORMATS
from tests.fuzzing.fuzz import fuzz

FILES = 8


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    found = fuzz({name: FORMATS[name]}, iter(range(FILES)), tmp_path, until=lambda: False)
    assert found == {}


def test_what_is_found_is_kept(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        if path.read_bytes() != valid:
            raise ZeroDivisionError

    valid = FORMATS["prompts"].write(tmp_path / "valid").read_bytes()
    bad = type(FORMATS["prompts"])("a.json", FORMATS["prompts"].make, fails)
    found = fuzz({"prompts": bad}, itertools.count(), tmp_path / "kept", until=_after(9))
    ((name, kind), kept) = next(iter(found.items()))
    assert len(found) == 1
    assert name == "prompts"
    assert kind.startswith("ZeroDivisionError")
    assert kept.read_bytes() != valid
    assert "ZeroDivisionError" in (kept.parent / "reason.txt").read_text()


def _after(calls: int):
    left = iter(range(calls))
    return lambda: next(left, None) is None
