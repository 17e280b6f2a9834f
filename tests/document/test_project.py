"""Project files: created, opened, locked, copied, and refused in one line."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.document import (
    Document,
    ImageId,
    ImportLabels,
    Paint,
    Store,
    StoredAdapter,
    UseAdapter,
    compare,
    create_project,
    open_project,
    replay,
    save_copy,
    summary,
    verify,
)
from napari_peftsam.document.filesystem import is_network
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.document.tables import APPLICATION_ID, VERSION, create_tables, migrate
from napari_peftsam.errors import ProjectError
from tests.document._project_cases import (
    HOLD,
    annotate,
    check_project,
    child,
    files_of,
    finished_project,
    kill,
)

FIRST_VERSION = Path(__file__).parent / "data" / "version_1.peftsam"
VFS = ["", "unix-dotfile"]


def header(path: Path) -> tuple[int, int, str]:
    with closing(sqlite3.connect(path)) as connection:
        return tuple(  # type: ignore[return-value]
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version", "journal_mode")
        )


# --- create, close, open ------------------------------------------------------------


@pytest.mark.parametrize("vfs", VFS)
def test_a_closed_project_is_one_file_that_holds_everything(tmp_path: Path, vfs: str) -> None:
    path = tmp_path / "a.peftsam"
    store = create_project(path, vfs=vfs)
    document = annotate(store)
    before = {image.id: image.labels.copy() for image in document.images.values()}
    store.close()
    assert files_of(tmp_path) == ["a.peftsam"]
    assert header(path) == (APPLICATION_ID, VERSION, "delete")
    store = open_project(path, vfs=vfs)
    again = Document(store)
    assert not store.read_only
    for image, labels in before.items():
        np.testing.assert_array_equal(again.image(image).labels, labels)
    assert again.undo_label == "paint background"
    assert again.redo_label == "paint"
    assert check_project(store) == []
    store.close()


@pytest.mark.parametrize(("vfs", "journal"), [("", "wal"), ("unix-dotfile", "truncate")])
def test_the_journal_is_the_file_systems(tmp_path: Path, vfs: str, journal: str) -> None:
    with closing(create_project(tmp_path / "a.peftsam", vfs=vfs)) as store:
        annotate(store)
        assert ("a.peftsam-wal" in files_of(tmp_path)) == (journal == "wal")
        assert ("a.peftsam-journal" in files_of(tmp_path)) == (journal == "truncate")


def test_a_checkpoint_moves_what_was_committed_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    with closing(create_project(path)) as store:
        annotate(store)
        size = path.stat().st_size
        store.checkpoint()
        assert path.stat().st_size > size


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    store = create_project(tmp_path / "a.peftsam")
    store.close()
    store.close()


NETWORK = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/me/local\\040disk xfs rw 0 0
//nas/share /mnt/share cifs rw 0 0
me@host:/ /mnt/ssh fuse.sshfs rw 0 0
/dev/sdc1 /mnt/usb fuseblk rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/data", False),
        ("/home/me", True),
        ("/home/me/local disk/x", False),
        ("/mnt/share", True),
        ("/mnt/ssh/a", True),
        ("/mnt/usb", False),
        ("/homework", False),
    ],
)
def test_network_folders(folder: str, expected: bool) -> None:
    assert is_network(Path(folder), NETWORK) == expected


# --- what is no project -------------------------------------------------------------


def not_sqlite(path: Path) -> None:
    path.write_text("label,area\n" * 500)


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")


def newer(path: Path) -> None:
    finished_project(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")


def changed(*statements: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        finished_project(path, 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return make


ENDLESS = "WITH RECURSIVE q(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM q) SELECT x FROM q"
COMPUTED = "ALTER TABLE images ADD COLUMN more AS/**/(hex(zeroblob(100000)))"
INDEX = "CREATE INDEX more ON images (hex(zeroblob(100000)))"
GARBLED = (
    "UPDATE sqlite_master SET name = CAST(X'8b' AS TEXT), sql = 'CREATE' WHERE name = 'images'"
)
TRIGGER = "CREATE TRIGGER more AFTER INSERT ON images BEGIN SELECT 1; END"


def without_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


def cut(path: Path) -> None:
    finished_project(path)
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_sqlite, "is no project"),
        (foreign, "another program"),
        (newer, f"has version 7, this program reads up to {VERSION}: update"),
        (changed("PRAGMA user_version = -7"), "not made by this program, or is damaged"),
        (changed("DROP TABLE images", f"CREATE VIEW images AS {ENDLESS}"), "not made by"),
        (changed(COMPUTED), "not made by"),
        (changed(INDEX), "not made by"),
        (changed("PRAGMA writable_schema = ON", GARBLED), "is damaged"),
        (changed(TRIGGER, "PRAGMA user_version = 7"), "has version 7"),
        (without_tables, "is damaged"),
        (cut, "damaged"),
        (Path.touch, "is empty"),
        (Path.mkdir, "is a folder"),
        (lambda path: None, "there is no file"),
    ],
    ids=[
        "text",
        "other program",
        "newer",
        "no version",
        "view",
        "computed",
        "index",
        "garbled schema",
        "newer with triggers",
        "no tables",
        "cut",
        "empty",
        "folder",
        "missing",
    ],
)
@pytest.mark.parametrize("read_only", [False, True], ids=["write", "read"])
def test_what_cannot_be_opened_is_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], message: str, read_only: bool
) -> None:
    path = tmp_path / "a.peftsam"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    files = files_of(tmp_path)
    with pytest.raises(ProjectError, match=message) as caught:
        check_open(path, read_only)
    assert "\n" not in str(caught.value)
    assert files_of(tmp_path) == files
    assert before is None or path.read_bytes() == before


def check_open(path: Path, read_only: bool) -> None:
    with closing(open_project(path, read_only)) as store:
        raise ProjectError("; ".join(check_project(store)))


@pytest.mark.parametrize("time", ["yesterday", b"\xff", "2026-01-01", "9" * 40])
def test_an_action_without_a_time_is_told(tmp_path: Path, time: str | bytes) -> None:
    path = finished_project(tmp_path / "a.peftsam", 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE actions SET time = ? WHERE number = 1", (time,))
    with (
        closing(open_project(path, read_only=True)) as store,
        pytest.raises(ProjectError, match="is damaged: an action has no time"),
    ):
        summary(store)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: open_project(path / "none" / "a.peftsam"), "there is no folder"),
        (lambda path: create_project(path / "none" / "a.peftsam"), "there is no folder"),
        (create_project, "exists already"),
        (lambda path: create_project(finished_project(path / "a.peftsam")), "exists already"),
        (lambda path: save_copy(Store.in_memory(), path / "none" / "b"), "there is no folder"),
        (lambda path: save_copy(Store.in_memory(), path), "is a folder"),
    ],
    ids=["open", "create", "folder", "existing", "copy to no folder", "copy to a folder"],
)
def test_where_nothing_can_be_made(
    tmp_path: Path, call: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(ProjectError, match=message):
        call(tmp_path)


# --- versions -----------------------------------------------------------------------


def test_a_project_of_the_first_version_opens(tmp_path: Path) -> None:
    path = Path(shutil.copy(FIRST_VERSION, tmp_path / "a.peftsam"))
    store = open_project(path, must_write=True)
    document = Document(store)
    assert [image.name for image in document.images.values()] == ["cells", "stack"]
    cells, stack = document.images.values()
    assert (cells.area(1), stack.area(3), cells.records[1].score) == (150, 40, 0.875)
    assert cells.info.source is not None
    assert cells.info.source.path == "images/cells.tif"
    assert cells.background is not None
    assert np.count_nonzero(cells.background) == 100
    assert store.blob(document.adapters[0].digest) == b"weights"
    assert document.runs[0].report == {"losses": [1.0, 0.5]}
    assert document.undo() == "set box"
    assert document.undo() == "mark complete"
    assert check_project(store) == []
    assert verify(store)[1] == []
    store.close()


def test_a_project_of_the_first_version_is_read_where_it_cannot_be_written(tmp_path: Path) -> None:
    path = Path(shutil.copy(FIRST_VERSION, tmp_path / "a.peftsam"))
    with closing(open_project(path, read_only=True)) as store:
        assert summary(store)["objects"] == 2
    assert path.read_bytes() == FIRST_VERSION.read_bytes()


def rename_column(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE fields RENAME COLUMN value TO text")


def fail(connection: sqlite3.Connection) -> None:
    rename_column(connection)
    raise sqlite3.OperationalError("disk I/O error")


def test_migrations_run_in_one_transaction() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection, {1: rename_column, 2: fail}, 3)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        connection.execute("SELECT value FROM fields")
        migrate(connection, {1: rename_column, 2: lambda _: None}, 3)
        assert connection.execute("PRAGMA user_version").fetchone() == (3,)
        connection.execute("SELECT text FROM fields")


# --- open elsewhere -----------------------------------------------------------------


@pytest.mark.parametrize("vfs", VFS)
def test_a_second_opener_reads_and_names_the_first(tmp_path: Path, vfs: str) -> None:
    path = tmp_path / "a.peftsam"
    first = create_project(path, vfs=vfs)
    document = annotate(first)
    second = open_project(path, vfs=vfs)
    assert "it is open in process" in second.why_read_only
    seen = Document(second)
    document.do(Paint("cells", np.arange(5), 40))  # type: ignore[arg-type]
    assert summary(second) == summary(first)
    assert verify(second)[1] == []
    with pytest.raises(ProjectError, match="can only be read, it is open in process"):
        seen.do(Paint("cells", np.arange(9), 3))  # type: ignore[arg-type]
    with pytest.raises(ProjectError, match=r"it is open in process .*: close it there$"):
        open_project(path, must_write=True, vfs=vfs)
    second.close()
    first.close()
    assert files_of(tmp_path) == ["a.peftsam"]


def test_a_project_open_in_another_process_can_be_read_and_taken_over_when_it_dies(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.peftsam"
    create_project(path).close()
    with child(HOLD, path, "annotate") as process:
        reader = open_project(path)
        assert f"process {process.pid} on " in reader.why_read_only
        assert summary(reader)["objects"] == 12
        assert verify(reader)[1] == []
        with pytest.raises(ProjectError, match=f"process {process.pid} on "):
            save_copy(Store.in_memory(), path)
        save_copy(reader, tmp_path / "copy.peftsam")
        reader.close()
        kill(process)
        with closing(open_project(path, must_write=True)) as store:
            assert summary(store)["objects"] == 12
            assert verify(store)[1] == []
    assert files_of(tmp_path) == ["a.peftsam", "copy.peftsam"]
    with closing(open_project(tmp_path / "copy.peftsam")) as copy:
        assert verify(copy)[1] == []


def test_a_project_closed_while_it_is_read_elsewhere_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    store = create_project(path)
    annotate(store)
    with closing(open_project(path)) as reader:
        before = summary(reader)
        store.close()
        (tmp_path / "copies").mkdir()
        shutil.copy(path, tmp_path / "copies")  # the one file, without what lies beside it
        assert summary(reader) == before
    with closing(open_project(tmp_path / "copies" / "a.peftsam")) as copy:
        assert summary(copy) == before
        assert verify(copy)[1] == []
    open_project(path).close()
    assert files_of(tmp_path) == ["a.peftsam", "copies"]


def test_a_killed_project_opens_where_there_is_no_shared_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    create_project(path).close()
    with child(HOLD, path, "annotate") as process:
        kill(process)
    assert "a.peftsam-wal" in files_of(tmp_path)
    with closing(open_project(path, must_write=True, vfs="unix-dotfile")) as store:
        assert summary(store)["objects"] == 12
        assert verify(store)[1] == []
    assert files_of(tmp_path) == ["a.peftsam"]


def test_a_killed_project_can_be_read_without_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    create_project(path).close()
    with child(HOLD, path, "annotate") as process:
        kill(process)
    before = path.read_bytes()
    with closing(open_project(path, read_only=True)) as store:
        assert summary(store)["objects"] == 12
    assert path.read_bytes() == before


# --- copies -------------------------------------------------------------------------


def in_memory(folder: Path) -> Store:
    store = Store.in_memory()
    annotate(store)
    return store


def in_a_file(folder: Path) -> Store:
    store = create_project(folder / "a.peftsam")
    annotate(store)
    return store


@pytest.mark.parametrize("make", [in_memory, in_a_file])
def test_a_copy_is_whole_and_one_file(tmp_path: Path, make: Callable[[Path], Store]) -> None:
    (tmp_path / "copies").mkdir()
    path = tmp_path / "copies" / "b.peftsam"
    path.write_text("an older file of this name")
    with closing(make(tmp_path)) as store:
        save_copy(store, path)
        assert files_of(path.parent) == ["b.peftsam"]
        with closing(open_project(path)) as copy:
            assert check_project(copy) == []
            assert summary(copy) == summary(store)
            assert compare(Document(store), copy) == []
            assert Document(copy).undo() == "paint background"


def test_the_copy_of_a_closed_project_is_whole(tmp_path: Path) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "elsewhere"))
    with closing(open_project(copy)) as store:
        assert check_project(store) == []
        assert verify(store)[1] == []


COPY = """
import sys
from pathlib import Path
import numpy as np
from napari_peftsam.document import Document, Store, save_copy
class Pixels:
    shape, dtype = (8, 8), np.dtype("u1")
    def __array__(self, dtype=None, copy=None):
        print("ready", flush=True)
        sys.stdin.read()
store = Store.in_memory()
image = Document(store).add_image("cells", np.zeros((8, 8), np.uint8))
save_copy(store, Path(sys.argv[1]), {image: Pixels()})
"""
"""Stop in the middle of a copy."""


def test_the_next_copy_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    with child(COPY, path) as process:
        kill(process)
    assert [name[:5] for name in files_of(tmp_path) if name.endswith(".peftsam")] == [".tmp-"]
    save_copy(Store.in_memory(), path)
    assert files_of(tmp_path) == ["a.peftsam"]


def test_a_project_is_not_copied_onto_itself(tmp_path: Path) -> None:
    with closing(in_a_file(tmp_path)) as store:
        with pytest.raises(ProjectError, match="is the project itself"):
            save_copy(store, tmp_path / "a.peftsam")
        assert check_project(store) == []


def test_a_damaged_project_tells_so_in_one_line(tmp_path: Path) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=r"is damaged .* `napari-peftsam recover`"):
        open_project(path)
    assert path.read_bytes() == content
    assert files_of(tmp_path) == ["a.peftsam"]


@pytest.mark.parametrize(
    ("record", "read"),
    [(b'{"iou":', Store.count_proposals), (b"\xff", Store.proposals)],
    ids=["JSON", "text"],
)
def test_damage_that_a_statement_meets_is_no_fault_of_the_disk(
    tmp_path: Path, record: bytes, read: Callable[[Store, ImageId], object]
) -> None:
    path = finished_project(tmp_path / "a.peftsam", 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO objects SELECT id, ?, 1, CAST(? AS TEXT) FROM images", (PROPOSALS, record)
        )
    with (
        closing(open_project(path, read_only=True)) as store,
        pytest.raises(ProjectError, match=r"is damaged \(.*\): .* `napari-peftsam recover`"),
    ):
        read(store, *store.images())


def test_replays_end_where_they_are_told(tmp_path: Path) -> None:
    with closing(in_a_file(tmp_path)) as store:
        assert len(replay(store, 5).records("cells")) == 4  # type: ignore[arg-type]
        assert [len(replay(store, n).images) for n in (0, 1)] == [0, 1]


def test_a_copy_that_lacks_an_action_is_not_gone_on_in(tmp_path: Path) -> None:
    document = Document()
    store = create_project(tmp_path / "a.peftsam")
    store.fill_from(document.store)
    document.do(UseAdapter("", 1.0, "builtin"))  # by a worker
    assert not document.move_to(store)
    assert document.store.path is None
    store.fill_from(document.store)
    assert document.move_to(store)
    assert Document(document.store).live == document.live
    document.store.close()


def test_an_adapter_is_whole_where_the_document_has_moved_to(tmp_path: Path) -> None:
    document = Document()
    store = create_project(tmp_path / "a.peftsam")
    memory = document.store
    put = memory.put_blob

    def move_meanwhile(data: bytes) -> str:
        digest = put(data)
        assert document.move_to(store)
        return digest

    memory.put_blob = move_meanwhile  # type: ignore[method-assign]
    document.add_adapter(b"weights", StoredAdapter("v1"))
    assert document.store is store
    assert store.blob(document.adapters[0].digest) == b"weights"
    store.close()


def test_an_image_of_a_project_that_was_left_never_shows_the_other_ones_labels(
    tmp_path: Path,
) -> None:
    for name in ("one", "two"):
        document = Document(create_project(tmp_path / f"{name}.peftsam"))
        image = document.add_image("cells", np.zeros((8, 9), np.uint8))
        if name == "two":
            document.do(ImportLabels(image, np.ones((8, 9), np.int32)))
        document.store.close()
    document = Document(open_project(tmp_path / "one.peftsam"))
    left = document.find_image("cells")
    document.open(open_project(tmp_path / "two.peftsam"))
    assert left is not None
    with pytest.raises(ProjectError, match="was closed"):
        left.labels  # noqa: B018
    document.store.close()
