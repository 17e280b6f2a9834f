"""What can be wrong with a project: exit code 2, one line that says what, nothing changed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import napari_peftsam as ps
from tests.cli._cases import Inputs, Outcome, Program
from tests.cli._project_cases import held_open, make_project

Command = Callable[[Inputs], tuple[object, ...]]
Spoil = Callable[[Inputs], object]
PROJECT = "cells.peftsam"


def info(i: Inputs, *more: object) -> tuple[object, ...]:
    return ("info", i / PROJECT, *more)


def replay(i: Inputs, *more: object) -> tuple[object, ...]:
    return ("replay", i / PROJECT, *more)


def recover(i: Inputs, *more: object) -> tuple[object, ...]:
    return ("recover", i / PROJECT, "--output", i / "whole.peftsam", *more)


def finetune(i: Inputs, *more: object) -> tuple[object, ...]:
    return ("finetune", "--project", i / PROJECT, *i.model(), "--steps", "1", *more)


def evaluate(i: Inputs, *more: object) -> tuple[object, ...]:
    return ("evaluate", "--project", i / PROJECT, *i.model(), *more)


def export(i: Inputs, *more: object) -> tuple[object, ...]:
    return ("export", i / PROJECT, "--format", "tiff", "--output", i / "out.tif", *more)


def export_a0(i: Inputs) -> tuple[object, ...]:
    return export(i, "--image", "a0")


def write(data: bytes) -> Spoil:
    return lambda i: (i / PROJECT).write_bytes(data)


def remove(i: Inputs) -> None:
    (i / PROJECT).unlink()


def make_folder(i: Inputs) -> None:
    remove(i)
    (i / PROJECT).mkdir()


def link_in_a_circle(i: Inputs) -> None:
    remove(i)
    (i / PROJECT).symlink_to(PROJECT)


def pipe_beside(i: Inputs) -> None:
    os.mkfifo(i / f"{PROJECT}-journal")


def of_another_program(i: Inputs) -> None:
    remove(i)
    with closing(sqlite3.connect(i / PROJECT)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")


def of_a_newer_version(i: Inputs) -> None:
    with closing(sqlite3.connect(i / PROJECT)) as connection:
        connection.execute("PRAGMA user_version = 99")


def damage(i: Inputs) -> None:
    """Overwrite all pages but the first one."""
    with (i / PROJECT).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * ((i / PROJECT).stat().st_size - 4096))


def change(statement: str) -> Spoil:
    def spoil(i: Inputs) -> None:
        with closing(sqlite3.connect(i / PROJECT)) as connection, connection:
            connection.execute(statement)

    return spoil


def nothing(i: Inputs) -> None:
    pass


# --- files that are no projects -----------------------------------------------------

READERS: dict[str, Command] = {
    "info": info, "replay": replay, "finetune": finetune, "evaluate": evaluate,
    "export": export_a0,
}  # fmt: skip
FILES: dict[str, tuple[Spoil, str]] = {
    "missing": (remove, "there is no file"),
    "empty": (write(b""), "is empty (0 bytes)"),
    "random bytes": (write(np.random.default_rng(0).bytes(9000)), "is no project"),
    "folder": (make_folder, "is a folder"),
    "pipe beside it": (pipe_beside, "-journal is no regular file"),
    "link in a circle": (link_in_a_circle, "there is no file"),
    "other database": (of_another_program, "is a database of another program"),
    "newer version": (of_a_newer_version, "has version 99, this program reads up to"),
    "damaged": (damage, "malformed"),
}
RECOVERY: dict[str, tuple[Spoil, str]] = {
    "missing": (remove, "cannot be read (No such file or directory)"),
    "empty": (write(b""), "holds nothing that can be read"),
    "random bytes": (write(np.random.default_rng(0).bytes(9000)), "nothing that can be read"),
    "folder": (make_folder, "is no regular file"),
    "link in a circle": (link_in_a_circle, "cannot be read (Too many levels of symbolic links"),
    "other database": (of_another_program, "holds nothing that can be read"),
    "nothing readable": (damage, "holds nothing that can be read"),
}


@pytest.mark.parametrize(("spoil", "words"), FILES.values(), ids=FILES.keys())
@pytest.mark.parametrize("command", READERS.values(), ids=READERS.keys())
def test_a_file_that_cannot_be_opened(
    command: Command, spoil: Spoil, words: str, inputs: Inputs, program: Program
) -> None:
    make_project(inputs)
    check_refused(command, spoil, words, inputs, program)


@pytest.mark.parametrize(("spoil", "words"), RECOVERY.values(), ids=RECOVERY.keys())
def test_a_file_that_cannot_be_recovered(
    spoil: Spoil, words: str, inputs: Inputs, program: Program
) -> None:
    make_project(inputs)
    check_refused(recover, spoil, words, inputs, program)


def check_refused(
    command: Command, spoil: Spoil, words: str, inputs: Inputs, program: Program
) -> Outcome:
    spoil(inputs)
    before = contents(inputs)
    outcome = program(*command(inputs))
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert contents(inputs) == before
    return outcome


def contents(inputs: Inputs) -> dict[str, bytes]:
    """Return every file with its content, without SQLite's counter of changes and readers."""
    found = {k: v for k, v in inputs.contents().items() if not k.endswith("-shm")}
    data = found.get(PROJECT, b"")
    if data.startswith(b"SQLite"):
        found[PROJECT] = data[:24] + data[28:92] + data[96:]
    return found


# --- projects that hold something else ----------------------------------------------


def edit(change: Callable[[ps.Document], object]) -> Spoil:
    def spoil(i: Inputs) -> None:
        with closing(ps.open_project(i / PROJECT)) as store:
            change(ps.Document(store))

    return spoil


def delete_objects(document: ps.Document) -> None:
    for image in document.images.values():
        document.do(ps.DeleteObjects(image.id, tuple(image.records)))


def remove_images(document: ps.Document) -> None:
    for image in tuple(document.images):
        document.do(ps.RemoveImage(image))


def remove_files(i: Inputs) -> None:
    for path in (i / "images").iterdir():
        path.unlink()


CASES: dict[str, tuple[Spoil, Command, str]] = {
    "no objects to train on": (edit(delete_objects), finetune, "holds no object: annotate some"),
    "no objects to evaluate": (edit(delete_objects), evaluate, "holds no object: annotate some"),
    "no objects to export": (edit(delete_objects), export_a0, "a0 holds no object"),
    "no image to export": (edit(remove_images), export, "holds no image"),
    "no images to train on": (remove_files, finetune, "a0.tif is not there: locate it"),
    "no images to evaluate": (remove_files, evaluate, "a1.tif is not there: locate it"),
    "several images to export": (nothing, export, "holds 2 images: choose one of a0, a1"),
    "unknown image": (
        nothing, lambda i: export(i, "--image", "b"), "holds no image 'b': choose one of a0, a1",
    ),
    "an image of a label file": (
        nothing,
        lambda i: ("export", i / "labels.tif", "--image", "a", "--format", "tiff", "--output", "o"),
        "labels.tif is no project",
    ),
    "unknown format": (nothing, lambda i: export(i, "--format", "bmp"), "'bmp': choose one of ti"),
    "an export over the project": (
        lambda i: (i / PROJECT).rename(i / "cells.tif"),
        lambda i: ("export", i / "cells.tif", "--format", "tiff", "--output", i / "cells.tif"),
        "is an input of this command",
    ),
    "unknown model": (nothing, lambda i: finetune(i, "--model", "vit_x"), "unknown model 'vit_x'"),
    "another model's adapter": (
        nothing,
        lambda i: evaluate(i, "--model", i / "other.pth", "--adapter", i / "adapter.safetensors"),
        "was trained on",
    ),
    "folders and project": (
        nothing, lambda i: finetune(i, *i.folders()),
        "got --images and --labels and --project: give either --project or both",
    ),
    "images and project": (
        nothing, lambda i: evaluate(i, "--images", i / "images"), "got --images and --project",
    ),
    "images without labels": (
        nothing, lambda i: ("evaluate", "--images", i / "images"), "got --images: give either",
    ),
    "no input": (nothing, lambda i: ("finetune", "--output", "o.safetensors"), "got no input"),
    "folders without output": (
        nothing, lambda i: ("finetune", *i.folders()), "name the adapter file to write by --output",
    ),
    "wrong ending of the adapter": (
        nothing, lambda i: finetune(i, "--output", i / "a.pth"), ".safetensors",
    ),
    "more actions than there are": (
        nothing, lambda i: replay(i, "--until", "99"), "holds 6 actions, not 99",
    ),
    "a negative action": (nothing, lambda i: replay(i, "--until", "-1"), "--until"),
    "labels into a file": (nothing, lambda i: replay(i, "--output", i / "image.tif"), "is a file"),
    "labels into no folder": (
        nothing, lambda i: replay(i, "--output", i / "no" / "where"), "there is no folder",
    ),
    "labels over the images": (
        nothing, lambda i: replay(i, "--output", i / "images"), "a0.tif is an image of the project",
    ),
    "unknown image to check on": (
        nothing, lambda i: finetune(i, "--check-on", "nix"),
        "there is no image 'nix' to check on: choose one of 'a0', 'a1'",
    ),
    "unknown image to leave out": (
        nothing, lambda i: finetune(i, "--leave-out", "nix"),
        "there is no image 'nix' to leave out: choose one of 'a0', 'a1'",
    ),
    "a tile that is a number": (change("UPDATE tiles SET data = 5"), export_a0, "a tile of"),
    "a tile in no plane": (change("UPDATE tiles SET plane = -1"), export_a0, "a tile of"),
    "an image of one axis": (
        change("UPDATE images SET info = json_set(info, '$.shape', json('[5]'))"), export_a0,
        "an image cannot have the shape (5,)",
    ),
    "damaged proposals": (
        change("INSERT INTO objects SELECT id, 'proposals', 1, '{' FROM images"), info,
        "copy with `napari-peftsam recover`",
    ),
    "recovery over a file": (
        nothing, lambda i: recover(i, "--output", i / "labels.tif"), "exists already",
    ),
    "recovery over itself": (
        nothing, lambda i: recover(i, "--output", i / PROJECT), "exists already",
    ),
    "recovery into no folder": (
        nothing, lambda i: recover(i, "--output", i / "no" / "a.peftsam"), "there is no folder",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "command", "words"), CASES.values(), ids=CASES.keys())
def test_one_line_and_nothing_changed(
    spoil: Spoil, command: Command, words: str, inputs: Inputs, program: Program
) -> None:
    make_project(inputs)
    check_refused(command, spoil, words, inputs, program)


# --- projects that are open elsewhere -----------------------------------------------


@pytest.mark.parametrize("command", [finetune, recover], ids=["finetune", "recover"])
def test_who_has_a_project_open_is_told(command: Command, inputs: Inputs, program: Program) -> None:
    project = make_project(inputs)
    with held_open(project) as process:
        check_refused(command, nothing, f"open in process {process} on ", inputs, program)


def test_several_processes_do_not_train_one_project(
    inputs: Inputs, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_project(inputs)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_refused(finetune, nothing, "one alone can train a project", inputs, program)


def test_a_project_whose_model_is_gone_names_it(
    inputs: Inputs, program: Program, tmp_path: Path
) -> None:
    with ps.App(make_project(inputs)) as app:
        app.load_model(inputs / "tiny.pth", "cpu")
    (inputs / "tiny.pth").unlink()
    outcome = program("evaluate", "--project", inputs / PROJECT)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "tiny.pth" in outcome.err
