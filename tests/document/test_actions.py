"""Actions as values: every kind goes through JSON text and a payload unchanged."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from napari_peftsam.document import (
    Audit,
    AuditPlane,
    AuditTile,
    CompleteRegion,
    ImageId,
    ImageInfo,
    ImageSource,
    NewObject,
    NewProposal,
    ObjectPlane,
    ObjectRecord,
    PlaneKey,
    Run,
    StoredAdapter,
)
from napari_peftsam.document import actions as act
from napari_peftsam.errors import ProjectError
from napari_peftsam.types import Box, Point, Prompts, Window

IMAGE = ImageId("Zellkern 🔬")
PLANE = PlaneKey(ImageId("t-z"), (3, 1))
BOX = Box(1.0, 2.5, 10.0, 20.0)
PROMPTS = Prompts((Point(3.0, 4.0), Point(5.25, 6.0, positive=False)), BOX)
SOURCE = ImageSource("pictures/ä b.tif", 12345678901, 2**60, 2, "abc", "/data/ä b.tif")
INFO = ImageInfo("cells", (4, 6), rgb=True, label_type="uint16", source=SOURCE)
LASSO = CompleteRegion((2,), None, ((0.5, 1.0), (3.0, 2.0), (1.0, 9.0)))
RECORD = ObjectRecord(
    7,
    (ObjectPlane((0,), PROMPTS), ObjectPlane((2,))),
    "builtin",
    "v1",
    0.75,
    2,
    True,
    "2025-01-01T00:00:00+00:00",
    "2025-01-02T00:00:00+00:00",
    "nucleus",
    "membranes",
)
LABELS = np.arange(24, dtype=np.uint16).reshape(4, 6)
MASK = np.eye(3, dtype=np.bool_)
OBJECT = NewObject(PROMPTS, MASK, 0.5, (2, 1), 1, "builtin", "v1")
PROPOSAL = NewProposal(PROMPTS, MASK, (2, 1), 0.5, (0.25, 3.0), "builtin", "v1")
WHERE = np.array([1, 5, 6, 23])

EVERY_KIND: dict[str, act.Action] = {
    "add image": act.AddImage(IMAGE, INFO, LABELS, (RECORD,)),
    "add empty image": act.AddImage(IMAGE, ImageInfo("cells", (4, 6))),
    "remove image": act.RemoveImage(IMAGE),
    "rename": act.RenameImage(IMAGE, "nuclei"),
    "replace pixels": act.ReplacePixels(IMAGE, SOURCE),
    "replace pixels in memory": act.ReplacePixels(IMAGE),
    "locate": act.LocateImage(IMAGE, SOURCE),
    "add point": act.AddPoint(PLANE, Point(3.0, 4.0, positive=False)),
    "set box": act.SetBox(PLANE, BOX),
    "remove box": act.SetBox(PLANE, None),
    "set prompts": act.SetPrompts(PLANE, PROMPTS),
    "reopen": act.Reopen(PLANE, 3),
    "remove last prompt": act.RemoveLastPrompt(),
    "queue": act.QueuePrompts.boxes(PLANE, [BOX, Box(0.0, 0.0, 1.0, 1.0)]),
    "set queue": act.SetQueue(PLANE, (PROMPTS, Prompts())),
    "discard": act.Discard(),
    "discard all": act.Discard(everything=True),
    "choose": act.ChooseCandidate(2),
    "accept": act.Accept("overwrite", OBJECT),
    "accept in place of": act.Accept("keep", replace(OBJECT, label=4)),
    "accept objects": act.AcceptObjects(PLANE, (OBJECT, NewObject(Prompts(), MASK)), "overwrite"),
    "suggest": act.Suggest(PLANE, (PROPOSAL,), Window(3, 1, 40, 50)),
    "suggest nothing": act.Suggest(PLANE, ()),
    "accept proposals": act.AcceptProposals(PLANE, (3, 1)),
    "reject proposals": act.RejectProposals(PLANE, (3,), "wrong outline"),
    "begin to count": act.BeginCount(
        Audit(
            (AuditPlane(PLANE, 3, 1),),
            (0.5,),
            ((IMAGE, 3),),
            (AuditTile(PLANE, Window(0, 0, 4, 4)), AuditTile(PLANE, Window(4, 0, 4, 4), 2)),
            9,
        )
    ),
    "count a tile": act.CountTile(0, 3),
    "delete": act.DeleteObjects(IMAGE, (3, 1)),
    "merge": act.MergeObjects(IMAGE, (3, 1, 2)),
    "categorize": act.Categorize(IMAGE, (3, 1), "nucleus"),
    "use category": act.UseCategory("cell"),
    "paint": act.Paint(IMAGE, WHERE, 4),
    "paint many": act.Paint(IMAGE, WHERE, np.array([1, 0, 2, 2], np.int16)),
    "paint background": act.PaintBackground(IMAGE, WHERE, is_background=False),
    "mark complete": act.MarkComplete(IMAGE),
    "mark a lasso": act.MarkComplete(IMAGE, LASSO, is_complete=False),
    "mark a rectangle": act.MarkComplete(IMAGE, CompleteRegion(box=BOX)),
    "import": act.ImportLabels(IMAGE, LABELS, (RECORD,)),
    "add adapter": act.AddAdapter(StoredAdapter("v1", "digest", "weights", 0.5, from_file=True)),
    "use adapter": act.UseAdapter("v1", 0.25, "builtin"),
    "add run": act.AddRun(
        Run("v1", {"steps": 3, "rate": 1e-4}, {"curve": [0.1, None], "name": "ä"})
    ),
    "undo": act.Undo(),
    "redo": act.Redo(),
}


def assert_same(one: Any, other: Any) -> None:
    """Compare values field by field, arrays with their type; equality skips the arrays."""
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one == other


def test_every_kind_is_listed() -> None:
    assert {type(action) for action in EVERY_KIND.values()} == set(act.Action.__args__)


@pytest.mark.parametrize("action", [pytest.param(a, id=name) for name, a in EVERY_KIND.items()])
def test_round_trip(action: act.Action) -> None:
    kind, text, payload = act.encode_action(action)
    assert kind == type(action).__name__
    assert isinstance(json.loads(text), dict)
    again = act.decode_action(kind, text, payload)
    assert_same(again, action)
    assert act.encode_action(again) == (kind, text, payload)


def test_pixels_of_any_layout_are_stored() -> None:
    labels = np.zeros((6, 4, 2), ">i4")[..., 0].T
    labels[1:3, 2:5] = 70_000
    assert not labels.flags.c_contiguous
    again = act.decode_action(*act.encode_action(act.ImportLabels(IMAGE, labels)))
    assert isinstance(again, act.ImportLabels)
    np.testing.assert_array_equal(again.labels, labels)


def test_labels_before_a_stroke_are_not_stored() -> None:
    """A replay reads them from the labels, so the log need not hold them."""
    given = act.Paint(IMAGE, WHERE, 4, np.array([0, 1, 0, 2]))
    assert act.encode_action(given) == act.encode_action(act.Paint(IMAGE, WHERE, 4))


def test_an_action_of_a_newer_version_is_refused() -> None:
    with pytest.raises(ProjectError, match=r"'Teleport'.*newer version"):
        act.decode_action("Teleport", "{}", b"")


def test_fields_of_a_newer_version_are_left_out() -> None:
    again = act.decode_action("Discard", '{"everything":true,"why":"boredom"}', b"")
    assert again == act.Discard(everything=True)


@pytest.mark.parametrize(
    ("kind", "text", "payload"),
    [
        pytest.param("Discard", "{", b"", id="no JSON"),
        pytest.param("Discard", "3", b"", id="no object"),
        pytest.param("RenameImage", '{"image":"a"}', b"", id="a field is missing"),
        pytest.param("Accept", '{"overlap":"both"}', b"", id="no such choice"),
        pytest.param("Paint", '{"image":"a","where":{"array":0},"new":1}', b"", id="no pixels"),
        pytest.param("Paint", '{"image":"a","where":{"array":0},"new":1}', b"x" * 9, id="damaged"),
        pytest.param(
            "Paint",
            '{"image":"a","where":{"array":0},"new":1}',
            act.encode_action(EVERY_KIND["paint"])[2][:-5],
            id="cut off",
        ),
    ],
)
def test_damaged_actions_are_told(kind: str, text: str, payload: bytes) -> None:
    with pytest.raises(ProjectError, match="part of the project") as told:
        act.decode_action(kind, text, payload)
    assert "\n" not in str(told.value)
