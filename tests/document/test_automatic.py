"""Projects without a name: one for each viewer, offered again, and not too many of them."""

from __future__ import annotations

import stat
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.document import (
    Document,
    create_automatic,
    create_project,
    delete_automatic,
    list_automatic,
    newest_automatic,
    open_project,
    prune_automatic,
    summary,
)
from napari_peftsam.errors import ProjectError
from napari_peftsam.folders import PROJECTS_VARIABLE, project_folder
from tests.document._project_cases import HOLD, annotate, child, kill

MINUTES = count()


def closed_project(name: str = "cells") -> Path:
    """An automatic project with one image, one minute younger than the one before."""
    with closing(create_automatic()) as store:
        assert store.path is not None
        minute = next(MINUTES)
        time = f"2026-01-01T{minute // 60:02d}:{minute % 60:02d}:00.000+00:00"
        Document(store, clock=lambda: time).add_image(name, np.zeros((4, 5), np.uint8))
        return store.path


def paths() -> list[Path]:
    return [project.path for project in list_automatic()]


def test_two_viewers_have_two_projects_that_only_the_user_can_read() -> None:
    with closing(create_automatic()) as first, closing(create_automatic()) as second:
        annotate(first)
        annotate(second, objects=3)
        assert first.path != second.path
        assert {summary(store)["objects"] for store in (first, second)} == {12, 3}
        assert not stat.S_IMODE(project_folder().stat().st_mode) & 0o077
        modes = {stat.S_IMODE(path.stat().st_mode) for path in project_folder().glob("2*")}
        assert modes == {0o600}
        assert [project.is_open for project in list_automatic()] == [True, True]


def test_the_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECTS_VARIABLE, str(tmp_path / "mine"))
    assert closed_project().parent == tmp_path / "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(PROJECTS_VARIABLE, str(tmp_path / "file" / "projects"))
    with pytest.raises(ProjectError, match="save the project under a name"):
        create_automatic()
    assert list_automatic() == []
    assert newest_automatic() is None


def test_the_list_says_what_is_in_them() -> None:
    older, newer = closed_project("older"), closed_project("newer")
    first, second = list_automatic()
    assert (first.path, first.images, first.actions) == (newer, ("newer",), 1)
    assert (second.path, second.images, second.objects) == (older, ("older",), 0)
    assert (first.is_open, first.is_interrupted, first.problem) == (False, False, "")
    assert first.time > second.time


def test_the_newest_with_content_is_offered() -> None:
    assert newest_automatic() is None
    expected = closed_project()
    create_automatic().close()
    with closing(create_automatic()) as used:
        annotate(used)
        found = newest_automatic()
    assert found is not None
    assert found.path == expected


def test_a_killed_viewers_project_is_offered_with_all_that_was_done() -> None:
    with closing(create_automatic()) as store:
        path = store.path
    assert path is not None
    with child(HOLD, path, "annotate") as process:
        assert newest_automatic() is None  # it is in use
        kill(process)
    found = newest_automatic()
    assert found is not None
    assert (found.path, found.objects, found.is_interrupted) == (path, 12, True)
    with closing(open_project(path, must_write=True)) as store:
        assert summary(store)["objects"] == 12


def test_empty_ones_and_all_but_the_last_are_removed() -> None:
    projects = [closed_project() for _ in range(5)]
    create_automatic().close()
    with closing(create_automatic()) as empty_but_open:
        prune_automatic(kept=3)
        assert set(paths()) == {*projects[-3:], empty_but_open.path}
    prune_automatic(kept=0)
    assert list(project_folder().iterdir()) == []


def test_what_a_live_process_holds_or_nobody_can_read_is_kept() -> None:
    path, unreadable = closed_project(), closed_project()
    unreadable.write_bytes(b"damaged")
    with child(HOLD, path):
        prune_automatic(kept=0)
        with pytest.raises(ProjectError, match="is open in process"):
            delete_automatic(path)
        assert set(paths()) == {path, unreadable}
    (problem,) = [project.problem for project in list_automatic() if project.path == unreadable]
    assert "is no project" in problem
    assert newest_automatic() is not None
    delete_automatic(unreadable)
    assert paths() == [path]


def test_only_automatic_projects_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    create_project(path).close()
    with pytest.raises(ProjectError, match="was saved under a name"):
        delete_automatic(path)
    assert path.exists()
