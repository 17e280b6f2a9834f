"""Sessions and records survive being written and read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.annotation import (
    ObjectRecord,
    Session,
    load_session,
    read_session,
    save_session,
)
from napari_peftsam.errors import ExportError, InputFileError
from napari_peftsam.types import Box, Point, Prompts
from tests.annotation._annotation_cases import (
    CELLS,
    SHAPE,
    STACK,
    answer,
    check_invariants,
    make_session,
    rectangle,
)


@pytest.fixture
def annotated(session: Session) -> Session:
    for plane in (CELLS, STACK):
        session.set_box(plane, Box(1, 1, 7, 7))
        session.add_point(plane, Point(3, 3, positive=False))
        answer(session, rectangle(2, 2, 6, 6))
        session.accept(model="tiny", adapter="v1")
    session.accept_objects(CELLS, [(Prompts(), rectangle(8, 8, 12, 12), None)], model="tiny")
    session.queue_boxes(CELLS, [Box(10, 10, 14, 14), Box(16, 16, 20, 20)])
    return session


def save_array(path: Path) -> Path:
    np.save(path, np.zeros(3))
    return path


def contents(session: Session) -> object:
    return {
        name: (image.labels.tolist(), session.records(name), image.rgb)
        for name, image in session.images.items()
    }


def test_round_trip(annotated: Session, tmp_path: Path) -> None:
    path = save_session(annotated, tmp_path / "annotations.npz")
    pixels = {name: image.pixels for name, image in annotated.images.items()}
    loaded = load_session(path, pixels)
    assert contents(loaded) == contents(annotated)
    assert loaded.queue == annotated.queue
    assert loaded.current is not None
    assert loaded.current.plane == CELLS
    assert not loaded.can_undo
    assert [f.name for f in tmp_path.iterdir()] == ["annotations.npz"]
    check_invariants(loaded)


def test_restore_into_open_images_can_be_undone(annotated: Session, tmp_path: Path) -> None:
    path = save_session(annotated, tmp_path / "annotations.npz")
    session = make_session()
    session.remove_image("stack")
    assert read_session(path).restore(session) == ("cells",)
    assert session.records("cells") == annotated.records("cells")
    check_invariants(session)
    while session.undo():
        pass
    assert not session.records("cells")


def test_records_are_json(annotated: Session) -> None:
    for record in annotated.records("cells"):
        values = json.loads(json.dumps(record.to_dict()))
        assert ObjectRecord.from_dict(values) == record
    with pytest.raises(InputFileError, match="'plane'"):
        ObjectRecord.from_dict({"label": 1, "score": None})


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda p: p.unlink(), id="missing"),
        pytest.param(lambda p: p.write_bytes(b""), id="empty"),
        pytest.param(lambda p: p.write_text("no zip"), id="text"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:300]), id="cut off"),
        pytest.param(lambda p: np.savez(p, starts_0=np.zeros(3)), id="foreign"),
        pytest.param(lambda p: np.savez(p, session=np.array("[1]")), id="other json"),
        pytest.param(lambda p: shutil.move(save_array(p.with_suffix(".npy")), p), id="npy"),
    ],
)
def test_unreadable_files(annotated: Session, tmp_path: Path, damage) -> None:
    path = save_session(annotated, tmp_path / "annotations.npz")
    damage(path)
    with pytest.raises(InputFileError, match=r"annotations\.npz"):
        read_session(path)


def test_a_failed_save_leaves_the_old_file(
    annotated: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_session(annotated, tmp_path / "annotations.npz")
    old = path.read_bytes()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(ExportError, match="No space left"):
        save_session(annotated, path)
    assert path.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_missing_pixels(annotated: Session, tmp_path: Path) -> None:
    path = save_session(annotated, tmp_path / "annotations.npz")
    with pytest.raises(InputFileError, match="'stack', which was not given"):
        load_session(path, {"cells": np.zeros(SHAPE)})
