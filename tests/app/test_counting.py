"""Counting objects: what is to be looked at, the number, and what is written of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage

import napari_peftsam as ps
from napari_peftsam.app.counting import (
    BACKGROUND,
    OBJECT,
    ToLookAt,
    begin_count,
    count_by,
    count_objects,
    export_count,
    states,
    to_look_at,
    undrawn,
)
from napari_peftsam.document import Document, NewObject, NewProposal, PlaneKey, open_project
from napari_peftsam.errors import ConfigurationError, LabelError

SIDE, STEP = 10, 20


def grid(rows: int = 6, cols: int = 10) -> tuple[Document, PlaneKey, np.ndarray]:
    """Return a document with proposals in a grid: odd ones are objects; and where objects are."""
    document = Document()
    image = document.add_image("cells", np.zeros((rows * STEP, cols * STEP), np.uint8))
    plane, mask = PlaneKey(image), np.ones((SIDE, SIDE), np.bool_)
    places = [(STEP * r + 5, STEP * c + 5) for r in range(rows) for c in range(cols)]
    found = [
        NewProposal(ps.Prompts((ps.Point(r + 4.0, c + 4.0),)), mask, (r, c), 0.3 + 0.5 * (n % 2))
        for n, (r, c) in enumerate(places)
    ]
    document.do(ps.Suggest(plane, tuple(found)))
    truth = np.zeros((rows * STEP, cols * STEP), np.bool_)
    for row, col in places[1::2]:
        truth[row : row + SIDE, col : col + SIDE] = True
    return document, plane, truth


def judge_of(truth: np.ndarray, missed: int = 0) -> object:
    def judge(each: ToLookAt) -> int:
        if not each.number:
            return missed
        row, col = (a + b // 2 for a, b in zip(
            (each.window.row, each.window.col), each.window.shape, strict=True))  # fmt: skip
        return int(truth[row, col])

    return judge


def test_proposals_and_tiles_are_looked_at() -> None:
    document, plane, truth = grid()
    count = count_by(document, [plane], judge_of(truth), proposals=30, tiles=5)
    assert (count.looked_at, count.tiles) == (30, 5)
    assert count.known == len(document.records(plane.image)) > 0
    assert count.objects == pytest.approx(30)
    assert count.low < 30 < count.high
    assert count_objects(document) == count


def test_all_of_few_are_looked_at_without_an_error() -> None:
    document, plane, truth = grid(2, 4)
    count = count_by(document, [plane], judge_of(truth), proposals=30, tiles=50)
    assert (count.objects, count.low, count.high) == (4, 4, 4)


def test_missed_objects_are_part_of_the_number() -> None:
    document, plane, truth = grid()
    begin_count(document, [plane])
    tiles = document.audit.of_tiles
    count = count_by(document, [plane], judge_of(truth, missed=1))
    assert count.missed == pytest.approx(tiles)
    document.do(
        ps.AcceptObjects(plane, (NewObject(ps.Prompts(), np.ones((2, 3), bool), None, (0, 0)),))
    )
    added = count_objects(document)
    assert added.known == count.known + 1
    assert added.objects == pytest.approx(count.objects)


def test_the_second_object_in_an_outline_is_one_without_an_outline_of_its_own() -> None:
    document, plane, truth = grid(2, 4)
    seconds = np.argwhere(ndimage.label(truth)[0] == 2).mean(axis=0), (28.0, 28.0)
    one = judge_of(truth)

    def judge(each: ToLookAt) -> int:
        if each.number:
            return one(each)  # an outline around two is an object all the same
        return sum(each.window.contains(*at) for at in seconds)

    count = count_by(document, [plane], judge, proposals=30, tiles=50)
    assert (count.known, count.missed) == (4, 2)
    [label] = document.do(ps.AcceptObjects(
        plane, (NewObject(ps.Prompts(), np.ones((2, 3), bool), None, (0, 0)),)
    ))  # fmt: skip
    assert label
    assert count_objects(document).objects == count.objects


def test_what_is_judged_already_is_known() -> None:
    document, plane, truth = grid()
    document.do(ps.AcceptProposals(plane, (2, 4)))
    document.do(ps.RejectProposals(plane, (1, 3)))
    document.do(ps.RejectProposals(plane, (6,), "wrong outline"))
    count = count_by(document, [plane], judge_of(truth))
    assert count.objects == pytest.approx(30)
    sampled = {number for _, number in document.audit.proposals}
    assert not sampled & {1, 2, 3, 4, 6}


def test_a_wrong_outline_is_an_object_until_it_is_drawn() -> None:
    document, plane, truth = grid()
    count = count_by(document, [plane], judge_of(truth))
    open_one = next(n for n in document.image(plane.image).open_proposals(plane) if not n % 2)
    window = document.image(plane.image).proposal_window(open_one)
    document.do(ps.RejectProposals(plane, (open_one,), "wrong outline"))
    outlined = count_objects(document)
    assert outlined.known == count.known + 1
    mask = np.ones((SIDE, SIDE), np.bool_)
    drawn = NewObject(ps.Prompts(), mask, None, (window.row, window.col))
    document.do(ps.AcceptObjects(plane, (drawn,)))
    assert count_objects(document).known == outlined.known


def test_accepting_the_others_in_bulk_changes_no_number() -> None:
    document, plane, truth = grid()
    count = count_by(document, [plane], judge_of(truth))
    left = tuple(document.image(plane.image).open_proposals(plane))
    labels = document.do(ps.AcceptProposals(plane, left))
    assert len(labels) == len(left) == 30
    assert count_objects(document) == count
    document.undo()
    document.do(ps.AcceptProposals(plane, left[:1]))
    assert count_objects(document).known == count.known + 1


def test_a_queue_is_counted_together() -> None:
    document, plane, _truth = grid()
    other = PlaneKey(document.add_image("more", np.zeros((60, 60), np.uint8)))
    document.do(ps.Suggest(other, (NewProposal(ps.Prompts(), np.ones((4, 4), bool), (2, 2), 0.8),)))
    begin_count(document, [plane, other], proposals=61, tiles=2)
    order = [each.plane for each in to_look_at(document)]
    assert order == sorted(order, key=[plane, other].index)
    assert {number for image, number in document.audit.proposals if image == other.image} == {1}


def test_it_goes_on_after_undo_and_after_reopening(tmp_path: Path) -> None:
    document = Document(ps.create_project(tmp_path / "cells.peftsam"))
    plane = PlaneKey(document.add_image("cells", np.zeros((60, 60), np.uint8)))
    masks = [NewProposal(ps.Prompts(), np.ones((4, 4), bool), (9 * n, 2), 0.8) for n in range(4)]
    document.do(ps.Suggest(plane, tuple(masks)))
    begin_count(document, [plane], proposals=2, tiles=1)
    first, *left = to_look_at(document)
    document.do(ps.AcceptProposals(plane, (first.number,)))
    assert to_look_at(document) == tuple(left)
    assert document.undo() == "accept proposal"
    assert to_look_at(document)[0] == first
    document.do(ps.AcceptProposals(plane, (first.number,)))
    document.do(ps.CountTile(0, 3))
    document.store.close()
    again = Document(open_project(tmp_path / "cells.peftsam"))
    assert to_look_at(again) == (left[0],)
    assert again.audit.tiles[0].seen == 3
    assert again.undo_label == "count a tile"


@pytest.mark.parametrize("how", ["suggested anew", "accepted unseen", "image removed"])
def test_a_sample_that_is_none_any_more_is_forgotten(how: str) -> None:
    document, plane, truth = grid()
    count_by(document, [plane], judge_of(truth))
    if how == "suggested anew":
        mask = np.ones((4, 4), bool)
        document.do(ps.Suggest(plane, (NewProposal(ps.Prompts(), mask, (0, 0), 0.5),)))
    elif how == "image removed":
        document.do(ps.RemoveImage(plane.image))
    else:
        begin_count(document, [plane], seed=1)
        document.do(
            ps.AcceptProposals(plane, tuple(document.image(plane.image).open_proposals(plane)))
        )
    assert count_objects(document) is None
    assert to_look_at(document) == ()


@pytest.mark.parametrize(
    ("action", "error"),
    [
        pytest.param(ps.CountTile(9, 1), "no tile 9", id="no such tile"),
        pytest.param(ps.CountTile(0, -1), "-1 is no number", id="fewer than none"),
        pytest.param(ps.CountTile(0, 1.5), "1.5 is no number", id="a part of one"),
    ],
)
def test_what_cannot_be_counted(action: ps.CountTile, error: str) -> None:
    document, plane, _ = grid()
    begin_count(document, [plane])
    with pytest.raises(LabelError, match=error):
        document.do(action)


def test_nothing_to_count() -> None:
    document, _plane, _ = grid()
    with pytest.raises(ConfigurationError, match="open an image"):
        begin_count(document, [])
    with pytest.raises(ConfigurationError, match="there is no count yet"):
        export_count(document, Path())


def test_what_was_looked_at_is_written(tmp_path: Path) -> None:
    document, plane, truth = grid()
    count = count_by(document, [plane], judge_of(truth))
    path, labels = export_count(document, tmp_path)
    report = json.loads(path.read_text())
    assert report["objects"] == count.objects
    assert (report["low"], report["high"]) == (count.low, count.high)
    assert len(report["proposals_looked_at"]) == 30
    assert [each["missed"] for each in report["tiles_looked_at"]] == [0] * 5
    written = np.asarray(zarr.open_array(labels / "labels" / "known" / "s0", mode="r"))
    known = states(document, plane)
    np.testing.assert_array_equal(written, known)
    np.testing.assert_array_equal(known == OBJECT, document.labels(plane) > 0)
    tile = document.audit.tiles[0].window
    inside = known[tile.slices]
    assert (inside[document.labels(plane, "proposals")[tile.slices] == 0] > 0).all()
    assert (known == 0).any()
    assert (known == BACKGROUND).any()


@pytest.mark.parametrize("has_box", [True, False], ids=["with a box", "with a point only"])
def test_an_object_that_nobody_has_drawn_is_unknown(has_box: bool) -> None:
    document = Document()
    plane = PlaneKey(document.add_image("cells", np.zeros((200, 200), np.uint8)))
    box = ps.Box(100, 100, 120, 130) if has_box else None
    prompts = ps.Prompts((ps.Point(110.0, 115.0),), box)
    mask = np.ones((20, 30), np.bool_)
    document.do(ps.Suggest(plane, (NewProposal(prompts, mask, (100, 100), 0.5),)))
    count_by(document, [plane], lambda each: "wrong outline" if each.number else 0, tiles=50)
    known = states(document, plane)
    assert not known[100:120, 100:130].any()
    assert known[0, 0] == BACKGROUND
    assert [each.contains(110, 115) for each in undrawn(document, plane)] == [True]
    document.do(ps.AcceptObjects(plane, (NewObject(ps.Prompts(), mask, None, (98, 95)),)))
    known = states(document, plane)
    assert (known[98:118, 95:125] == OBJECT).all()
    assert (known > 0).all()
    assert undrawn(document, plane) == ()


@pytest.mark.parametrize(
    ("of_proposal", "of_tile", "error"),
    [
        pytest.param(1, 1.5, "1.5: return a whole number from 0 on", id="a tile of 1.5"),
        pytest.param(1, -1, "-1: return a whole number", id="a tile with less than none"),
        pytest.param(1, None, "None: return a whole number", id="a tile of nothing"),
        pytest.param(1, float("nan"), "nan: return a whole number", id="a tile of nan"),
        pytest.param(1, "wrong outline", "return a whole number", id="a tile with an outline"),
        pytest.param(
            2, 0, '2: return 1 .an object., 0 .+ or "wrong outline"', id="a proposal of 2"
        ),
        pytest.param("wrong", 0, "'wrong': return 1", id="no reason"),
    ],
)
def test_judge_returns_what_it_may(of_proposal: object, of_tile: object, error: str) -> None:
    document, plane, _ = grid(1, 2)
    with pytest.raises(LabelError, match=f"judge returned .*{error}"):
        count_by(document, [plane], lambda each: of_proposal if each.number else of_tile)


@pytest.mark.parametrize(
    ("answer", "objects"),
    [
        pytest.param(np.True_, 8, id="a flag"),
        pytest.param(np.int64(1), 8, id="a number"),
        pytest.param("wrong outline", 8, id="another outline"),
        pytest.param("nothing here", 0, id="nothing"),
    ],
)
def test_how_proposals_are_judged(answer: object, objects: int) -> None:
    document, plane, _ = grid(2, 4)
    judge = {True: answer, False: np.float64(2.0)}
    count = count_by(document, [plane], lambda each: judge[each.number > 0], tiles=1)
    assert (count.known, [each.seen for each in document.audit.tiles]) == (objects, [2])
    is_background = (states(document, plane) == BACKGROUND).any()
    assert is_background == (answer == "nothing here")


def test_nothing_is_counted_before_something_is_proposed() -> None:
    with ps.App() as app:
        image = app.add_image(np.zeros((60, 60), np.uint8), "cells")
        for count in (image.count, app.count):
            with pytest.raises(ConfigurationError, match="Suggest the rest first"):
                count(lambda _: 0)
        assert app.document.audit is None


def test_images_of_similar_names_have_a_map_each(tmp_path: Path) -> None:
    document, mask = Document(), np.ones((4, 4), bool)
    names = "a b", "a_b", "A_b"
    for n, name in enumerate(names):
        plane = PlaneKey(document.add_image(name, np.zeros((60 + n, 60), np.uint8)))
        document.do(ps.Suggest(plane, (NewProposal(ps.Prompts(), mask, (2, 2), 0.8),)))
    planes = [PlaneKey(image) for image in document.images]
    count_by(document, planes, lambda each: each.number > 0)
    path, *maps = export_count(document, tmp_path)
    written = [zarr.open_array(each / "labels" / "known" / "s0", mode="r") for each in maps]
    assert [each.shape[0] for each in written] == [60, 61, 62]
    assert len({str(each).lower() for each in maps}) == 3
    told = {"a b": maps[0].name, "a_b": maps[1].name, "A_b": maps[2].name}
    assert json.loads(path.read_text())["maps"] == told


def test_in_python() -> None:
    with ps.App() as app:
        image = app.add_image(np.zeros((60, 60), np.uint8), "cells")
        plane = PlaneKey(image.id)
        mask = np.ones((4, 4), bool)
        app.document.do(ps.Suggest(plane, (NewProposal(ps.Prompts(), mask, (2, 2), 0.8),)))
        count = image.count(lambda each: int(each.number > 0), tiles=50)
        assert count.text == "about 1 objects (1–1)"
        assert app.count(lambda _: 0, tiles=50) == count.__class__(1, 0, 0, 1, 1, 0, 1)
