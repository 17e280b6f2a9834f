"""A reader sees the old file or the new one, whatever goes wrong in between."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from napari_peftsam.errors import ExportError, LabelError
from napari_peftsam.files import atomic_path
from napari_peftsam.outputs import check_output


def write_file(path: Path, text: str) -> None:
    path.write_text(text)


def write_folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "inner").mkdir()
    (path / "inner" / "chunk").write_text(text)


def read(path: Path) -> str:
    return (path / "inner" / "chunk" if path.is_dir() else path).read_text()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def fail_halfway(target: Path, write: Any, error: BaseException) -> None:
    with atomic_path(target) as temporary:
        write(temporary, "half")
        raise error


KINDS = pytest.mark.parametrize(
    ("write", "name"), [(write_file, "x.tif"), (write_folder, "x.ome.zarr")], ids=["file", "folder"]
)


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work as on a system that cannot exchange two folders."""
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())


@KINDS
@pytest.mark.parametrize("before", [None, "old"], ids=["new", "over an old one"])
def test_success_replaces_the_target(
    tmp_path: Path, write: Any, name: str, before: str | None
) -> None:
    target = tmp_path / name
    if before:
        write(target, before)
    with atomic_path(str(target)) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(name[1:])
        write(temporary, "new")
        assert target.exists() == bool(before)
    assert read(target) == "new"
    assert names(tmp_path) == [name]


@KINDS
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ExportError),
        (PermissionError(errno.EACCES, "Permission denied"), ExportError),
        (LabelError("wrong"), LabelError),
        (ValueError("wrong"), ValueError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (GeneratorExit(), GeneratorExit),
    ],
    ids=lambda e: type(e).__name__ if isinstance(e, BaseException) else "",
)
def test_failure_leaves_the_old_one_whole(
    tmp_path: Path, write: Any, name: str, error: BaseException, expected: type[BaseException]
) -> None:
    target = tmp_path / name
    write(target, "old")
    with pytest.raises(expected):
        fail_halfway(target, write, error)
    assert read(target) == "old"
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    ("write", "name", "step"),
    [
        (write_file, "x.tif", "fsync"),
        (write_file, "x.tif", "replace"),
        (write_folder, "x.zarr", "fsync"),
        (write_folder, "x.zarr", "rename"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("no_exchange")
def test_a_full_disk_at_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, name: str, step: str
) -> None:
    target = tmp_path / name
    write(target, "old")
    real = getattr(os, step)

    def full(source: Any, *others: Any) -> Any:
        # Moving the old one aside works, putting the new one in its place does not.
        if others and Path(others[0]) != target:
            return real(source, *others)
        if others and Path(source).name.startswith(".old-"):
            return real(source, *others)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with (
        pytest.raises(ExportError, match=r"cannot write .*: No space left .*; free some disk"),
        atomic_path(target) as temporary,
    ):
        write(temporary, "new")
    assert read(target) == "old"
    assert names(tmp_path) == [name]


@pytest.mark.parametrize(
    ("parent", "message"),
    [("missing", "create the folder first"), ("file", "a part of the path is a file")],
)
def test_a_target_that_cannot_be(tmp_path: Path, parent: str, message: str) -> None:
    (tmp_path / "file").touch()
    target = tmp_path / parent / "x.tif"
    with pytest.raises(ExportError, match=message) as caught, atomic_path(target):
        pytest.fail("the block must not run")
    assert str(target) in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="makes pipes")
@pytest.mark.parametrize("name", ["pipe", "link"])
def test_pipes_and_devices_stay(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(ExportError, match="it is a pipe or a device"), atomic_path(tmp_path / name):
        pytest.fail("the block must not run")
    with pytest.raises(ExportError, match="it is a pipe or a device"):
        check_output(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"\xff.tif")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_nothing_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nothing was written"), atomic_path(tmp_path / "x"):
        pass


@pytest.mark.parametrize(("old", "new"), [(write_file, write_folder), (write_folder, write_file)])
def test_a_file_and_a_folder_do_not_replace_each_other(tmp_path: Path, old: Any, new: Any) -> None:
    old(tmp_path / "x", "old")
    with (
        pytest.raises(ExportError, match="cannot replace it"),
        atomic_path(tmp_path / "x") as temporary,
    ):
        new(temporary, "new")
    assert read(tmp_path / "x") == "old"
    assert names(tmp_path) == ["x"]


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.zarr") as first, atomic_path(tmp_path / "x.zarr") as second:
        assert first != second
        write_folder(first, "first")
        write_folder(second, "second")
    assert read(tmp_path / "x.zarr") == "first"
    assert names(tmp_path) == ["x.zarr"]


@pytest.mark.usefixtures("no_exchange")
def test_a_folder_put_there_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real, calls = tmp_path / "x.zarr", os.rename, []

    def overtaken(source: Any, destination: Any) -> None:
        if Path(destination) == target and not calls:
            calls.append(source)
            write_folder(target, "of another process")
        real(source, destination)

    monkeypatch.setattr(os, "rename", overtaken)
    with atomic_path(target) as temporary:
        write_folder(temporary, "new")
    assert read(target) == "new"
    assert names(tmp_path) == ["x.zarr"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real.tif", tmp_path / "link.tif"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_long_name_keeps_its_suffix(tmp_path: Path) -> None:
    target = tmp_path / ("a" * 240 + ".ome.zarr")
    with atomic_path(target) as temporary:
        write_folder(temporary, "new")
    assert read(target) == "new"


# --- processes that are killed ------------------------------------------------------

WRITER = """
import ctypes, os, sys
from pathlib import Path
from napari_peftsam.files import atomic_path

target, text, killed_at = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if killed_at == "between two renames":
    ctypes.CDLL = lambda *_, **__: object()
    sys.addaudithook(
        lambda event, args: os.kill(os.getpid(), 9)
        if event == "os.rename" and str(args[1]) == str(target) else None
    )
with atomic_path(target) as temporary:
    temporary.mkdir()
    (temporary / "inner").mkdir()
    (temporary / "inner" / "chunk").write_text(text)
    if killed_at == "while it writes":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes are ended in another way there")
@pytest.mark.parametrize("killed_at", ["while it writes", "between two renames"])
def test_what_a_killed_process_leaves(tmp_path: Path, killed_at: str) -> None:
    target = tmp_path / "x.ome.zarr"

    def write(text: str, killed_at: str) -> int:
        command = [sys.executable, "-c", WRITER, str(target), text, killed_at]
        return subprocess.run(command, check=False).returncode

    assert write("old", "") == 0
    assert write("killed", killed_at) < 0
    (tmp_path / ".tmp-of-somebody-else").mkdir()
    with suppress(RuntimeError), atomic_path(target):
        assert read(target) == "old"
        raise RuntimeError
    assert read(target) == "old"
    assert write("new", "") == 0
    assert read(target) == "new"
    assert names(tmp_path) == [".tmp-of-somebody-else", "x.ome.zarr"]
