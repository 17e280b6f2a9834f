"""Rough outlines and centres become objects of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import napari_peftsam as ps
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
    kept = image.refine()
    changed = [record for record in image.objects if record.label not in kept]
    assert {record.source for record in changed} == {"box"}
    assert {record.model for record in image.objects if record.label in kept} <= {"imported"}
    for record in changed:
        window = object_windows(before)[record.label]
        assert record.prompts.box == Box.around(window)
        assert record.score is not None
        alone = image.prompt(box=record.prompts.box.as_tuple())
        expected = np.zeros(before.shape, bool)
        best = alone.trimmed()
        row, col = best.offset or (0, 0)
        height, width = best.masks[0].shape
        expected[row : row + height, col : col + width] = best.masks[0]
        assert not (image.labels == record.label)[~expected].any()
        image.discard()
    for label in kept:
        np.testing.assert_array_equal(image.labels == label, before == label)


def test_refining_is_one_step(app: ps.App) -> None:
    image = app.images["discs"]
    app.document.do(ps.ImportLabels(image.id, rough()))
    image.refine()
    assert app.undo() == "refine objects"
    np.testing.assert_array_equal(image.labels, rough())


def test_the_other_objects_keep_their_pixels(app: ps.App) -> None:
    image = app.images["discs"]
    app.document.do(ps.ImportLabels(image.id, rough()))
    before = image.labels.copy()
    image.refine([1])
    np.testing.assert_array_equal(image.labels[before > 1], before[before > 1])
    assert {record.source for record in image.objects if record.label > 1} == {"imported"}


def test_an_object_of_several_planes_is_refined_in_each(app: ps.App) -> None:
    pixels = make_plane("discs").pixels
    stack = app.add_image(np.stack([pixels, pixels]), "stack")
    app.document.do(ps.ImportLabels(stack.id, np.stack([rough(), rough()])))
    kept = stack.refine([2])
    if not kept:
        [record] = [record for record in stack.objects if record.label == 2]
        assert all(plane.prompts.box is not None for plane in record.planes)


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
    app.undo()
    assert image.objects == ()
