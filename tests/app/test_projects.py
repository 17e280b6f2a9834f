"""Projects as the docks describe them, and the objects that are read from another one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_peftsam.app.projects import (
    describe_offer,
    explain_offer,
    project_note,
    project_title,
    read_images,
    read_objects,
)
from napari_peftsam.document import (
    AutomaticProject,
    Document,
    ImportLabels,
    Store,
    create_project,
    open_project,
)


def _labels(side: int = 20) -> Any:
    labels = np.zeros((side, side), np.int32)
    labels[2:6, 2:6], labels[10:15, 10:15] = 1, 2
    return labels


def _project(path: Path, **images: Any) -> Path:
    document = Document(create_project(path))
    for name, labels in images.items():
        image = document.add_image(name, np.ones(labels.shape, np.float32))
        document.do(ImportLabels(image, labels))
    document.store.close()
    return path


@pytest.mark.parametrize(
    ("names", "expected"),
    [([], "project"), (["cells"], "cells"), (["cells", "nuclei", "phase"], "cells +2")],
)
def test_a_project_is_called_by_its_images(names: list[str], expected: str) -> None:
    assert project_title(names) == expected


def test_an_offer_says_what_is_in_the_project_and_why() -> None:
    now = datetime.now(UTC)
    offered = AutomaticProject(Path("a.peftsam"), now.isoformat(), ("cells", "nuclei"), objects=1)
    assert describe_offer(offered) == f"cells +1 ({now.astimezone():%H:%M}, 1 object)"
    assert "cells, nuclei: the last session was closed" in explain_offer(offered)
    then = now - timedelta(days=3)
    killed = AutomaticProject(
        Path("a.peftsam"), then.isoformat(), ("cells",), objects=5, is_interrupted=True
    )
    assert describe_offer(killed) == f"cells ({then.astimezone():%d %b %H:%M}, 5 objects)"
    assert "ended unexpectedly" in explain_offer(killed)


@pytest.mark.parametrize(
    ("progress", "missing", "expected"),
    [
        pytest.param("", (), "", id="all is well"),
        pytest.param("Reading 2 images…", ("cells",), "◌ Reading 2 images…", id="busy"),
        pytest.param("", ("cells", "nuclei"), "⚠ Not found: cells +1. Project ▾", id="missing"),
    ],
)
def test_the_note_names_what_the_user_should_know(
    progress: str, missing: tuple[str, ...], expected: str
) -> None:
    note = project_note(Store.in_memory(), progress, missing)
    assert note.startswith(expected)
    assert bool(note) == bool(expected)


def test_a_project_that_can_only_be_read_asks_for_another_name(tmp_path: Path) -> None:
    store = open_project(_project(tmp_path / "p.peftsam"), read_only=True)
    note = project_note(store, "", ())
    store.close()
    assert note.startswith("⚠ Read-only: ")
    assert note.endswith("Save it under another name.")


def test_objects_are_read_for_images_of_the_same_name_and_shape(tmp_path: Path) -> None:
    path = _project(tmp_path / "p.peftsam", cells=_labels(), nuclei=_labels(30), phase=_labels())
    document = Document()
    own = document.add_image("cells", np.ones((20, 20), np.float32))
    document.add_image("nuclei", np.ones((20, 20), np.float32))
    covering = np.zeros((20, 20), np.int32)
    covering[:8, :8] = 1
    document.do(ImportLabels(own, covering))
    found = read_objects(document, path)
    assert found.report == (
        "1 object imported into 1 image; 1 are covered by objects that were there; skipped, "
        "as no image here has their name and shape: nuclei, phase"
    )
    for action in found.actions:
        document.do(action)
    assert len(document.image(own).records) == 2


def test_an_image_that_cannot_be_read_comes_with_the_reason(tmp_path: Path) -> None:
    path = _project(tmp_path / "p.peftsam", cells=_labels())  # its pixels were never saved
    document = Document(open_project(path, read_only=True))
    [read] = read_images(document, tuple(document.images.values()))
    document.store.close()
    assert read.pixels is None
    assert read.note == "cells: its pixels were never saved: locate a file that has them"
