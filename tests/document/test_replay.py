"""The log alone rebuilds a document, and adds up to what `info` shows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.document import (
    Accept,
    AddAdapter,
    AddPoint,
    ChooseCandidate,
    Document,
    ImageId,
    Paint,
    PlaneKey,
    RemoveImage,
    Store,
    StoredAdapter,
    compare,
    open_project,
    replay,
    summary,
    verify,
)
from napari_peftsam.errors import ProjectError
from napari_peftsam.types import Point, Prediction
from tests.document._project_cases import HOLD, annotate, child, finished_project
from tests.document.scripted_session import digest, work

CELLS = ImageId("cells")


@pytest.mark.parametrize("seed", range(4))
def test_every_moment_of_a_session_comes_back(seed: int) -> None:
    document = Document()
    moments = {}
    for _, _ in zip(range(40), work(document, np.random.default_rng(seed)), strict=False):
        moments[document.store.last_number] = digest(document)
    for number, expected in list(moments.items())[:: len(moments) // 4]:
        assert digest(replay(document.store, number)) == expected
    again, differences = verify(document.store)
    assert differences == []
    assert [image.records for image in again.images.values()] == [
        image.records for image in document.images.values()
    ]


def test_the_chosen_candidate_is_what_comes_back() -> None:
    document = Document()
    image = document.add_image("cells", np.zeros((20, 30), np.uint8))
    document.do(AddPoint(PlaneKey(image), Point(3.0, 4.0)))
    masks = np.zeros((2, 20, 30), np.bool_)
    masks[0, :5], masks[1, 5:9] = True, True
    scores, logits = np.array([0.9, 0.5], np.float32), np.zeros((2, 4, 4), np.float32)
    assert document.current is not None
    document.set_candidates(Prediction(masks, scores, logits), document.current.revision)
    document.do(ChooseCandidate(1))
    document.do(Accept())
    document.undo()
    document.redo()
    again, differences = verify(document.store)
    assert differences == []
    assert again.store.last_number == document.store.last_number
    np.testing.assert_array_equal(again.image(image).labels, masks[1])


def change_pixel(document: Document) -> None:
    document.image(CELLS).labels[0, 0] += 1


def change_background(document: Document) -> None:
    background = document.image(CELLS).background
    assert background is not None
    background[0, 0] = 1


def forget_record(document: Document) -> None:
    del document.image(CELLS).records[3]


def add_image(document: Document) -> None:
    document.add_image("other", np.zeros((4, 5)))


def remove_image(document: Document) -> None:
    document.do(RemoveImage(CELLS))


@pytest.mark.parametrize(
    ("act", "difference"),
    [
        (change_pixel, "cells: 1 pixels of the labels differ"),
        (change_background, "cells: 1 pixels of the background differ"),
        (forget_record, "cells: the records of objects [3] differ"),
        (add_image, "the image 'other' is only in the log"),
        (remove_image, "the image 'cells' is only in the project"),
    ],
)
def test_differences_are_named(act, difference: str) -> None:
    with closing(Store.in_memory()) as store:
        annotate(store)
        document = replay(store)
        assert compare(document, store) == []
        act(document)
        assert compare(document, store) == [difference]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DELETE FROM actions WHERE number = 4", "lacks action 4"),
        ("UPDATE actions SET kind = 'Frobnicate' WHERE number = 4", "'Frobnicate'"),
        ("UPDATE actions SET data = '{' WHERE number = 4", "cannot be read"),
        ("UPDATE actions SET kind = 'Redo', data = '{}' WHERE number = 4", "no longer changes"),
        (
            "UPDATE actions SET kind = 'RemoveImage', data = '{\"image\":\"x\"}' WHERE number = 4",
            r"action 4 \(RemoveImage\) cannot be done again",
        ),
    ],
    ids=["missing", "unknown", "damaged", "without effect", "misfit"],
)
def test_a_log_with_a_fault_says_where(tmp_path: Path, damage: str, message: str) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    with closing(open_project(path)) as store, pytest.raises(ProjectError, match=message):
        replay(store)


def test_the_summary_counts_what_is_there() -> None:
    times = iter(f"2026-01-01T00:{minute:02d}:30+00:00" for minute in (0, 0, 0, 1, 9, 8))
    with closing(Store.in_memory()) as store:
        document = Document(store, clock=lambda: next(times))
        cells = document.add_image("cells", np.zeros((9, 9)))
        document.do(Paint(cells, np.arange(9), 1))
        document.do(Paint(cells, np.arange(9, 18), 2))
        document.do(AddAdapter(StoredAdapter("v1", store.put_blob(b"weights"))))
        gone = document.add_image("gone", np.zeros((9, 9)), labels=np.eye(9, dtype=np.int32))
        document.do(RemoveImage(gone))
        # Gaps of 0, 0, 60 and 480 seconds, and a clock that was set back.
        assert summary(store) == {
            "images": 1, "objects": 2, "proposals": 0, "adapters": 1, "actions": 6, "seconds": 120,
        }  # fmt: skip


def test_an_empty_document_adds_up_to_nothing() -> None:
    with closing(Store.in_memory()) as store:
        assert set(summary(store).values()) == {0}
        assert verify(store)[1] == []


BUSY = HOLD.replace("sys.stdin.read()", """
from napari_peftsam.document import Paint
import numpy as np
label = 50
while True:
    document.do(Paint("cells", np.arange(label * 7, label * 7 + 300), label))
    label += 1
""")  # fmt: skip


@pytest.mark.parametrize("vfs", ["", "unix-dotfile"])
def test_a_project_that_is_being_written_can_be_verified(tmp_path: Path, vfs: str) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    code = BUSY.replace("must_write=True", f"must_write=True, vfs={vfs!r}")
    with child(code, path), closing(open_project(path, vfs=vfs)) as store:
        for _ in range(3):
            document, differences = verify(store)
            assert differences == []
        assert store.last_number >= document.store.last_number > 17
