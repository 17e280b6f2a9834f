"""A disk that is full, a folder that cannot be written or vanishes: nothing saved is lost."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.document import (
    Document,
    DocumentImage,
    ImageId,
    ImageInfo,
    ImportLabels,
    Paint,
    PaintBackground,
    Store,
    create_project,
    open_project,
    save_copy,
    verify,
)
from napari_peftsam.errors import ProjectError
from tests.document._project_cases import (
    ROOT,
    SHAPE,
    annotate,
    check_project,
    files_of,
    finished_project,
)

CELLS = ImageId("cells")


def noise() -> np.ndarray:
    """Labels that compress to 50 kB."""
    labels = np.zeros(SHAPE, np.int32)
    labels[:250, :250] = np.random.default_rng(0).integers(0, 50, (250, 250))
    return labels


# --- full disks ---------------------------------------------------------------------


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    connection = sqlite3.connect(path, isolation_level=None)
    store = Store(connection, path)
    document = Document(store)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    before, history = document.image(CELLS).labels.copy(), document.undo_label
    with pytest.raises(ProjectError, match=r"full\): what was saved before is untouched; check"):
        document.do(ImportLabels(CELLS, noise()))
    np.testing.assert_array_equal(document.image(CELLS).labels, before)
    assert document.undo_label == history
    connection.execute(f"PRAGMA max_page_count = {pages * 1000}")
    document.do(ImportLabels(CELLS, noise()))
    assert check_project(store) == []
    assert verify(store)[1] == []
    store.close()


def test_an_image_that_cannot_be_saved_leaves_the_given_labels_alone(tmp_path: Path) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    connection = sqlite3.connect(path, isolation_level=None)
    document = Document(Store(connection, path))
    connection.execute("PRAGMA query_only = ON")
    labels = noise()
    with pytest.raises(ProjectError):
        document.add_image("more", np.zeros(SHAPE), labels=labels)
    np.testing.assert_array_equal(labels, noise())
    document.store.close()


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from napari_peftsam.document import *
from napari_peftsam.errors import ProjectError
from tests.document._project_cases import annotate
from tests.document.test_faults import CELLS, noise
store = create_project(sys.argv[1], vfs=sys.argv[2])
document = annotate(store)
before = document.image(CELLS).labels.copy()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
size = max(path.stat().st_size for path in Path(sys.argv[1]).parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, hard))
try:
    document.do(ImportLabels(CELLS, noise()))
except ProjectError as error:
    print(error)
assert (document.image(CELLS).labels == before).all()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
document.do(Paint(CELLS, np.arange(7), 3))
assert verify(store)[1] == []
store.close()
"""


@pytest.mark.parametrize("vfs", ["", "unix-dotfile"])
def test_a_file_that_may_not_grow_changes_nothing(tmp_path: Path, vfs: str) -> None:
    path = tmp_path / "a.peftsam"
    code = [sys.executable, "-c", LIMITED, str(path), vfs]
    done = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "what was saved before is untouched" in done.stdout
    with closing(open_project(path)) as store:
        assert check_project(store) == []
        assert verify(store)[1] == []
    assert files_of(tmp_path) == ["a.peftsam"]


def test_a_copy_that_does_not_fit_leaves_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "b.peftsam"
    target.write_text("what was there before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with closing(Store.in_memory()) as store:
        annotate(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(ProjectError, match="cannot be written"):
                save_copy(store, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_text() == "what was there before"
    assert files_of(tmp_path) == ["b.peftsam"]


# --- read-only files and folders ----------------------------------------------------

AS_SOMEBODY_ELSE = """
import os, sys
from napari_peftsam.document import *
from napari_peftsam.errors import ProjectError
if os.geteuid() == 0:  # root may write everywhere
    os.setgid(65534)
    os.setuid(65534)
path = sys.argv[1]
store = open_project(path)
print(store.why_read_only)
assert summary(store)["objects"] == 12
assert verify(store)[1] == []
store.close()
for call in (
    lambda: open_project(path, must_write=True),
    lambda: create_project(path + "2"),
    lambda: save_copy(Store.in_memory(), path + "3"),
):
    try:
        call()
    except ProjectError as error:
        print(error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that everybody may enter; pytest's are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "is_locked", "why"),
    [
        (0o444, 0o555, False, "its folder cannot be written (Permission denied)"),
        (0o444, 0o777, False, "you may not write to the file"),
        (0o666, 0o777, True, "its lock file .a.peftsam.lock cannot be written (Permission denied)"),
    ],
    ids=["folder", "file", "lock file of another user's killed process"],
)
def test_what_cannot_be_written_is_read(
    open_folder: Path, file_mode: int, folder_mode: int, is_locked: bool, why: str
) -> None:
    path = finished_project(open_folder / "a.peftsam")
    path.chmod(file_mode)
    if is_locked:
        path.with_name(".a.peftsam.lock").write_text("1\nhere\n")
    open_folder.chmod(folder_mode)
    code = [sys.executable, "-c", AS_SOMEBODY_ELSE, str(path)]
    done = subprocess.run(code, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    reason, must_write, *others = done.stdout.splitlines()
    assert reason == why
    assert must_write.endswith(
        f"can only be read, {why}: choose a copy in a folder you may write to"
    )
    if folder_mode == 0o555:
        assert [line.count("cannot be written (Permission denied)") for line in others] == [1, 1]
        assert files_of(open_folder) == ["a.peftsam"]


# --- folders that vanish ------------------------------------------------------------


def vanish(path: Path) -> None:
    shutil.rmtree(path.parent)


def move(path: Path) -> None:
    path.rename(path.with_name("b.peftsam"))


def replace(path: Path) -> None:
    path.rename(path.with_name("b.peftsam"))
    shutil.copy(path.with_name("b.peftsam"), path)


@pytest.mark.parametrize("happen", [vanish, move, replace])
def test_a_file_that_is_gone_is_not_written_to(tmp_path: Path, happen) -> None:
    path = tmp_path / "folder" / "a.peftsam"
    path.parent.mkdir()
    store = create_project(path)
    document = annotate(store)
    before = document.image(CELLS).labels.copy()
    happen(path)
    with pytest.raises(ProjectError, match=r"is no longer there.*save the project elsewhere"):
        document.do(Paint(CELLS, np.arange(5), 40))
    np.testing.assert_array_equal(document.image(CELLS).labels, before)
    number = store.last_number
    save_copy(store, tmp_path / "saved.peftsam")
    store.close()
    moved = path.with_name("b.peftsam")
    for saved in (tmp_path / "saved.peftsam", *([moved] if moved.exists() else [])):
        with closing(open_project(saved)) as copy:
            assert copy.last_number == number
            assert verify(copy)[1] == []


# --- damaged tiles ------------------------------------------------------------------


def with_damaged_tile(path: Path) -> Path:
    finished_project(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        where = "WHERE plane = 0 AND row = 0 AND col = 0 AND label_set = ''"
        (data,) = connection.execute(f"SELECT data FROM tiles {where}").fetchone()
        damaged = data[:40] + bytes(byte ^ 255 for byte in data[40:44]) + data[44:]
        connection.execute(f"UPDATE tiles SET data = ? {where}", (damaged,))
    return path


@pytest.mark.parametrize(
    "act",
    [
        lambda document: document.do(Paint(CELLS, np.arange(5), 40)),
        lambda document: document.undo(),
        lambda document: document.redo(),
        lambda document: document.image(CELLS).labels,
        lambda document: document.image(CELLS).background,
    ],
    ids=["paint", "undo", "redo", "read labels", "read background"],
)
def test_labels_that_cannot_be_read_are_never_taken_for_empty_ones(tmp_path: Path, act) -> None:
    path = with_damaged_tile(tmp_path / "a.peftsam")
    with closing(open_project(path)) as store:
        document, before = Document(store), stored(store)
        for _ in range(2):  # the first failure must not make the second a success
            with pytest.raises(ProjectError, match="damaged"):
                act(document)
        assert stored(store) == before
        assert document.undo_label == "paint background"


def stored(store: Store) -> tuple[object, ...]:
    return store.last_number, tuple(store.tiles(CELLS)), store.objects(CELLS), store.images()


def test_undoing_a_stroke_of_background_after_reopening_keeps_the_others(tmp_path: Path) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    with closing(open_project(path)) as store:
        document = Document(store)
        document.do(PaintBackground(CELLS, np.arange(9000, 9010)))
    with closing(open_project(path)) as store:
        document = Document(store)
        document.undo()
        background = document.image(CELLS).background
        assert background is not None
        assert np.flatnonzero(background).tolist() == list(range(5000, 5100))
        assert verify(store)[1] == []


def test_an_image_without_stored_content_starts_empty() -> None:
    image = DocumentImage(CELLS, ImageInfo("cells", (3, 4)))
    assert not image.labels.any()
    assert image.background is None


# --- slow disks ---------------------------------------------------------------------


def test_slow_commits_are_counted(tmp_path: Path) -> None:
    with closing(create_project(tmp_path / "a.peftsam")) as store:
        store.slow_seconds = 100.0
        document = annotate(store)
        assert store.slow_commits == 0
        store.slow_seconds = 0.0  # no disk is as fast
        document.do(Paint(CELLS, np.arange(5), 40))
        document.undo()
        assert store.slow_commits == 2


class InterruptedCommit:
    """A connection; an interrupt arrives once the next commit is in the file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.is_due = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: object) -> object:
        result = self._connection.execute(sql, *values)
        if sql == "COMMIT" and self.is_due:
            self.is_due = False
            raise KeyboardInterrupt
        return result


def test_an_action_that_is_interrupted_once_it_is_saved_is_done(tmp_path: Path) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    connection = InterruptedCommit(sqlite3.connect(path, isolation_level=None))
    document = Document(Store(connection, path))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        document.do(Paint(CELLS, np.arange(5), 7))
    document.do(Paint(CELLS, np.arange(5, 9), 7))
    assert verify(document.store)[1] == []
    with closing(sqlite3.connect(path)) as other:
        stored = Document(Store(other, path))
        np.testing.assert_array_equal(stored.image(CELLS).labels, document.image(CELLS).labels)
    document.store.close()


def test_a_closed_project_is_called_closed(tmp_path: Path) -> None:
    store = create_project(tmp_path / "a.peftsam")
    document = Document(store)
    store.close()
    with pytest.raises(ProjectError, match=r"a\.peftsam was closed: open it again"):
        document.add_image("cells", np.zeros(SHAPE))
