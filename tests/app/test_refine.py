"""Rough outlines and centres become objects of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import napari_peftsam as ps
from napari_peftsam.app.refine import refine_objects, refined
from napari_peftsam.app.runner import run
from napari_peftsam.errors import LabelError
from napari_peftsam.geometry import object_windows
from napari_peftsam.types import Box
from tests.training._world import CENTRES, make_plane


def rough() -> np.ndarray:
    """Return the boxes around the true discs, as somebody outlines them in haste."""
    labels = np.zeros_like(make_plane("discs").labels)
    for label, window in object_windows(make_plane("discs").labels).items():
        labels[window] = label
    return labels


def test_rough_objects_are_predicted_from_their_boxes(app: ps.App) -> None:
    image = app.images["discs"]
    app.document.do(ps.ImportLabels(image.id, rough()))
    before = image.labels.copy()
    count = image.refine()
    assert count == sum(record.source == "box" for record in image.objects) > 0
    for record in image.objects:
        here = before == record.label
        if record.source == "imported":  # nothing was found: it stays as it was
            np.testing.assert_array_equal(image.labels == record.label, here)
            continue
        assert record.prompts.box == Box.around(object_windows(before)[record.label])
        assert record.score is not None
        assert record.model == "tiny"
        best = image.prompt(box=record.prompts.box.as_tuple())
        assert not (image.labels == record.label)[~best.whole(0)].any()
        image.discard()


def test_refining_is_one_step(app: ps.App) -> None:
    image = app.images["discs"]
    app.document.do(ps.ImportLabels(image.id, rough()))
    image.refine()
    assert app.undo() == "refine objects"
    np.testing.assert_array_equal(image.labels, rough())
    assert {record.model for record in image.objects} == {"imported"}


def test_the_other_objects_keep_their_pixels(app: ps.App) -> None:
    image = app.images["discs"]
    app.document.do(ps.ImportLabels(image.id, rough()))
    before = image.labels.copy()
    image.refine([1])
    np.testing.assert_array_equal(image.labels[before > 1], before[before > 1])
    assert {record.source for record in image.objects if record.label > 1} == {"imported"}


def test_what_is_changed_meanwhile_stays(app: ps.App) -> None:
    image = app.images["discs"]
    app.document.do(ps.ImportLabels(image.id, rough()))
    predictions = run(refine_objects(app.workspace, image.id))
    app.document.do(ps.Paint(image.id, np.array([0]), 1))
    app.document.do(ps.DeleteObjects(image.id, (2,)))
    mine = image.labels == 1
    drawn = refined(app.document.image(image.id), predictions)
    for action in drawn.actions:
        app.document.do(action)
    np.testing.assert_array_equal(image.labels == 1, mine)
    assert drawn.changed == 1
    assert 2 not in {record.label for record in image.objects}


def test_an_object_of_several_planes_is_refined_in_each(app: ps.App) -> None:
    pixels = make_plane("discs").pixels
    stack = app.add_image(np.stack([pixels, pixels]), "stack")
    app.document.do(ps.ImportLabels(stack.id, np.stack([rough(), rough()])))
    count = stack.refine([2])
    [record] = [record for record in stack.objects if record.label == 2]
    boxes = [plane.prompts.box for plane in record.planes]
    assert len(boxes) == 2
    assert all(box is not None for box in boxes) == bool(count)


def test_without_objects_there_is_nothing_to_refine(app: ps.App) -> None:
    with pytest.raises(LabelError, match="nothing to refine"):
        app.images["discs"].refine()
    with pytest.raises(LabelError, match="has no object 7"):
        app.images["discs"].refine([7])


def test_centres_become_objects(app: ps.App, tmp_path: Path) -> None:
    image = app.images["discs"]
    table = tmp_path / "centres.csv"
    table.write_text("row,col\n" + "".join(f"{row},{col}\n" for row, col in CENTRES[:3]))
    count = image.import_centres(table)
    assert count == len(image.objects) > 0
    assert {record.source for record in image.objects} == {"point"}
    assert all(record.created for record in image.objects)
    app.undo()
    assert image.objects == ()


def test_centres_of_a_stack_are_one_step(app: ps.App, tmp_path: Path) -> None:
    pixels = make_plane("discs").pixels
    stack = app.add_image(np.stack([pixels, pixels]), "stack")
    (row, col), table = CENTRES[0], tmp_path / "centres.csv"
    table.write_text(f"z,row,col\n0,{row},{col}\n1,{row},{col}\n")
    count = stack.import_centres(table)
    assert [record.index for record in stack.objects] == [(0,), (1,)][:count]
    app.undo()
    assert stack.objects == ()
