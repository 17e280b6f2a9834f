"""Damaged projects: what is readable is recovered into a copy, the original stays."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.document import (
    AcceptObjects,
    AddAdapter,
    Document,
    ImageId,
    ImageSource,
    MarkComplete,
    NewObject,
    PlaneKey,
    Recovery,
    RemoveImage,
    SetBox,
    StoredAdapter,
    create_project,
    open_project,
    recover_project,
    verify,
)
from napari_peftsam.errors import ProjectError
from napari_peftsam.types import Box, Point, Prompts
from tests.document._project_cases import (
    HOLD,
    annotate,
    check_project,
    child,
    files_of,
    finished_project,
    kill,
)

CELLS = ImageId("cells")
PAGE = 4096
Content = dict[str, object]


def rich_project(path: Path) -> None:
    """A project with an image removed, an adapter, a complete region and a prompt."""
    store = create_project(path)
    document = annotate(store)
    extra = document.add_image(
        "extra", np.zeros((20, 30), np.uint8), labels=np.eye(20, 30, dtype=np.int32),
        source=ImageSource("images/extra.tif"),
    )  # fmt: skip
    document.do(MarkComplete(CELLS))
    document.do(AddAdapter(StoredAdapter("v1", store.put_blob(bytes(range(256)) * 40))))
    document.do(SetBox(PlaneKey(extra), Box(1, 2, 3, 4)))
    gone = document.add_image("gone", np.zeros((9, 9), np.uint8))
    document.do(RemoveImage(gone))
    store.close()


def content(path: Path) -> Content:
    """Everything that a recovery is to bring back."""
    with closing(open_project(path)) as store:
        document = Document(store)
        images = {
            image.name: (
                image.labels.tobytes(),
                {n: (r.planes, r.score, r.model) for n, r in image.records.items()},
                None if image.background is None else image.background.tobytes(),
                image.info.complete,
                image.info.source,
            )
            for image in document.images.values()
        }
        return {"images": images, "queue": document.queue, "adapters": document.adapters}


def recovered(path: Path) -> tuple[Recovery, Content]:
    """Recover a project, see that the copy is sound and the original as it was."""
    before, files = path.read_bytes(), files_of(path.parent)
    target = path.parent / "recovered.peftsam"
    report = recover_project(path, target)
    assert path.read_bytes() == before
    with closing(open_project(target, must_write=True)) as store:
        assert check_project(store) == []
        assert verify(store)[1] == []
        assert report.actions <= store.last_number
    assert files_of(path.parent) == sorted([*files, "recovered.peftsam"])
    return report, content(target)


def test_a_whole_project_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    report, found = recovered(path)
    assert report.text == "Recovered; nothing was lost."
    assert found == content(path)


def test_any_page_may_be_damaged(tmp_path: Path) -> None:
    """The present state survives any one page; history and blobs may not, and that is told."""
    path = tmp_path / "a.peftsam"
    rich_project(path)
    whole, expected = path.read_bytes(), content(path)
    lost_history = 0
    for start in range(0, len(whole), PAGE):
        damaged = tmp_path / str(start) / "a.peftsam"
        damaged.parent.mkdir()
        damaged.write_bytes(whole[:start] + b"\xa5" * PAGE + whole[start + PAGE :])
        report, found = recovered(damaged)
        assert found["images"] == expected["images"], f"page {start // PAGE}"
        assert (report.lost_tiles, report.lost_records, report.lost_images) == ([], [], [])
        lost_history += not report.is_history_whole
        assert ("history" in report.text) == (not report.is_history_whole)
    assert lost_history < len(whole) / PAGE / 2


def damage_value(table: str, column: str, where: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            select = f"SELECT {column} FROM {table} WHERE {where}"
            (data,) = connection.execute(select).fetchone()
            data = data.encode() if isinstance(data, str) else data
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (data,))

    return damage


@pytest.mark.parametrize("share", [0.35, 0.5, 0.75])
def test_what_may_be_lost_behind_a_cut_is_said(tmp_path: Path, share: float) -> None:
    path, target = tmp_path / "a.peftsam", tmp_path / "b.peftsam"
    wide_project(path)
    size = path.stat().st_size
    os.truncate(path, int(size * share))
    report = recover_project(path, target)
    with closing(open_project(target)) as store:
        left = sum(len(image.records) for image in Document(store).images.values())
    assert 0 < left < 14
    assert (report.images, report.objects) == (2, left)
    assert report.has_losses
    assert report.text == (
        f"Recovered {left} objects in 2 images; lost: a part of the history. More may be lost: "
        f"up to {14 - left} objects, parts of labels; compare with a backup copy."
    )


def wide_project(path: Path) -> None:
    """Two images with 7 objects each, of which every one takes pages of all tables."""
    rng = np.random.default_rng(3)
    with closing(create_project(path)) as store:
        document = Document(store)
        for name in ("a", "b"):
            plane = PlaneKey(document.add_image(name, np.zeros((200, 200), np.uint8)))
            for row in range(0, 140, 20):
                points = tuple(Point(row + i, j) for i in range(20) for j in range(7))
                new = NewObject(Prompts(points), rng.random((20, 200)) > 0.5, 0.9, (row, 0))
                document.do(AcceptObjects(plane, (new,), "overwrite"))


TILE = damage_value("tiles", "data", "image = 'cells' AND row = 0 AND col = 0 AND label_set = ''")
RECORD = damage_value("objects", "record", "image = 'cells' AND label = 5")
PAYLOAD = damage_value("actions", "payload", "number = 6")
PATCH = damage_value("actions", "pixels", "number = 6")
BLOB = damage_value("blobs", "data", "part = 0")
INFO = damage_value("images", "info", "id = 'cells'")


def test_a_damaged_tile_is_rebuilt_from_the_history(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    expected = content(path)
    TILE(path)
    report, found = recovered(path)
    assert [(key.row, key.col) for key in report.rebuilt_tiles] == [(0, 0)]
    assert report.text == "Recovered; nothing was lost."
    assert found == expected


@pytest.mark.parametrize("damage", [RECORD, PATCH, INFO], ids=["record", "patch", "image"])
def test_the_history_brings_back_the_present_state(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    expected = content(path)
    damage(path)
    report, found = recovered(path)
    assert report.text == "Recovered; nothing was lost."
    assert found == expected


def test_a_damaged_action_costs_the_history_but_not_the_present_state(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    expected = content(path)
    PAYLOAD(path)
    report, found = recovered(path)
    assert (report.actions, report.is_history_whole) == (5, False)
    assert not report.has_losses
    assert report.text == "Recovered; lost: a part of the history."
    assert found == expected


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (RECORD, "1 record of an object."),
        (INFO, "a part of the history. More may be lost: images; compare with a backup copy."),
    ],
    ids=["record", "image"],
)
def test_what_is_damaged_beside_the_history_counts_as_lost(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    damage(path)
    damage_value("actions", "payload", "number = 3")(path)
    report, _ = recovered(path)
    assert report.has_losses
    assert report.text.endswith(words)


def test_what_was_taken_back_last_stays_so_without_its_action(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    with closing(create_project(path)) as store:
        document = annotate(store)
        document.do(MarkComplete(CELLS))
        document.do(RemoveImage(CELLS))
        number = store.next_number
        document.undo()
        document.undo()
    expected = content(path)
    for lost in (number, number + 1):
        damage_value("actions", "data", f"number = {lost}")(path)
    report, found = recovered(path)
    assert report.text == "Recovered; lost: a part of the history."
    assert found == expected


def test_a_damaged_tile_without_its_history_is_lost_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    with closing(open_project(path)) as store:
        labels = Document(store).image(CELLS).labels.copy()
    TILE(path)
    PAYLOAD(path)
    report, _ = recovered(path)
    assert [(key.row, key.col) for key in report.lost_tiles] == [(0, 0)]
    assert report.text == "Recovered; lost: a part of the history, 1 tile of labels, 6 objects."
    with closing(open_project(tmp_path / "recovered.peftsam")) as store:
        found = Document(store).image(CELLS).labels
    np.testing.assert_array_equal(found[512:], labels[512:])
    np.testing.assert_array_equal(found[:, 512:], labels[:, 512:])
    assert (found[:512, :512] != labels[:512, :512]).any()


def test_a_damaged_adapter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    with closing(open_project(path)) as store:
        digest = Document(store).adapters[0].digest
    BLOB(path)
    with closing(open_project(path)) as store:
        assert "is damaged" in check_project(store)[0]
        with pytest.raises(ProjectError, match="is damaged"):
            store.blob(digest)
    target = tmp_path / "b.peftsam"
    assert recover_project(path, target).lost_blobs == (digest,)
    with closing(open_project(target)) as store, pytest.raises(ProjectError, match="is missing"):
        store.blob(digest)


@pytest.mark.parametrize("damage", [TILE, RECORD, PAYLOAD, PATCH, BLOB, INFO])
def test_a_check_finds_damage(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "a.peftsam"
    rich_project(path)
    damage(path)
    with closing(open_project(path, read_only=True)) as store:
        assert len(check_project(store)) == 1


def test_a_killed_project_is_recovered_with_what_was_committed_last(tmp_path: Path) -> None:
    path = tmp_path / "a.peftsam"
    create_project(path).close()
    with child(HOLD, path, "annotate") as process:
        with pytest.raises(ProjectError, match=f"open in process {process.pid}"):
            recover_project(path, tmp_path / "b.peftsam")
        kill(process)
    report = recover_project(path, tmp_path / "b.peftsam")
    assert (report.actions, report.is_history_whole) == (17, True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"x" * 50_000), "nothing that can be read"),
        (lambda path: path.write_bytes(b"x"), "nothing that can be read"),
        (Path.touch, "nothing that can be read"),
        (lambda path: None, "cannot be read"),
    ],
    ids=["no project", "one byte", "empty", "missing"],
)
def test_what_cannot_be_recovered(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "a.peftsam"
    make(path)
    with pytest.raises(ProjectError, match=message):
        recover_project(path, tmp_path / "b.peftsam")
    assert not (tmp_path / "b.peftsam").exists()


def test_a_recovery_does_not_overwrite_its_source(tmp_path: Path) -> None:
    path = finished_project(tmp_path / "a.peftsam")
    with pytest.raises(ProjectError, match="choose another name"):
        recover_project(path, path)
