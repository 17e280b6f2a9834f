"""The viewer and the command line train on the same planes of the same arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_peftsam.app.annotated import annotated_planes, planned_split
from napari_peftsam.app.app import predict_pending
from napari_peftsam.app.folders import folder_planes
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import AcceptObjects, AddPoint, ImportLabels, NewObject, PlaneKey
from napari_peftsam.models import build_tiny
from napari_peftsam.peft import LoraConfig, capture, inject
from napari_peftsam.training import AnnotatedPlane, TrainingConfig, split_objects
from napari_peftsam.types import Point, Prompts
from tests.training._world import make_plane
from tests.workspace._steps import accept

SIDE = 64


def stack(*planes: int, number: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and labels ``(4, 64, 64)``: one object through these planes."""
    pixels = np.random.default_rng(0).integers(0, 255, (number, SIDE, SIDE)).astype(np.uint8)
    labels = np.zeros((number, SIDE, SIDE), np.uint16)
    for z in planes:
        labels[z, 8 + z : 24 + z, 8:24] = 1
    return pixels, labels


def from_folders(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> list[AnnotatedPlane]:
    for name, array in (("images", pixels), ("labels", labels)):
        (folder / name).mkdir()
        axes = "ZYX"[-array.ndim :]
        path = folder / name / "stack.tif"
        tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": axes})
    return list(folder_planes(folder / "images", folder / "labels"))


@pytest.mark.parametrize(
    "planes",
    [
        pytest.param((0, 1, 2), id="one object through three planes"),
        pytest.param((3,), id="one plane"),
        pytest.param((0, 3), id="planes apart"),
    ],
)
@pytest.mark.parametrize("added", [True, False], ids=["with the image", "imported later"])
def test_viewer_and_folders_train_on_the_same_planes(
    workspace: Workspace, tmp_path: Path, planes: tuple[int, ...], added: bool
) -> None:
    pixels, labels = stack(*planes)
    document = workspace.document
    image = document.add_image("stack", pixels, labels=labels.copy() if added else None)
    if not added:
        document.do(ImportLabels(image, labels))
    given = list(annotated_planes(document, workspace.engine)())
    read = from_folders(tmp_path, pixels, labels)
    assert [p.name for p in given] == [p.name for p in read] == [f"stack[{z}]" for z in planes]
    assert [p.image for p in given] == [p.image for p in read] == ["stack"] * len(planes)
    for mine, theirs in zip(given, read, strict=True):
        np.testing.assert_array_equal(mine.pixels, theirs.pixels)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
    assert document.planes_with_objects() == tuple(PlaneKey(image, (z,)) for z in planes)


def test_a_training_is_given_all_planes(workspace: Workspace) -> None:
    pixels, labels = stack(0, 1, 2)
    workspace.document.add_image("stack", pixels, labels=labels)
    job = workspace.prepare_training(TrainingConfig(steps=1))()
    assert [plane.name for plane in job.planes] == ["stack[0]", "stack[1]", "stack[2]"]


def test_prompts_go_to_the_plane_they_were_given_in(workspace: Workspace) -> None:
    pixels, _ = stack(0, 1, 2)
    document = workspace.document
    image = document.add_image("stack", pixels)
    document.do(AddPoint(PlaneKey(image, (1,)), Point(16, 16)))
    predict_pending(workspace)
    label = accept(workspace)
    inside = np.repeat(document.images[image].labels[1:2] == label, 4, axis=0)
    document.do(ImportLabels(image, inside * label, document.records(image)))
    prompts = [dict(a.prompts) for a in annotated_planes(document, workspace.engine)()]
    assert prompts == [{}, {label: Prompts((Point(16, 16),))}, {}, {}]


def test_objects_of_another_class_are_no_background(workspace: Workspace) -> None:
    pixels, labels = stack(0, 1)
    document = workspace.document
    image = document.add_image("stack", pixels)
    masks = labels[0] > 0, labels[1, ::-1] > 0
    made = [
        NewObject(Prompts(), mask, category=name)
        for name, mask in zip(("cell", "nucleus"), masks, strict=True)
    ]
    document.do(AcceptObjects(PlaneKey(image, (0,)), tuple(made)))
    cells, nuclei = annotated_planes(document, workspace.engine)()
    for one, other in ((cells, nuclei), (nuclei, cells)):
        np.testing.assert_array_equal(one.others, other.labels > 0)


def test_a_renamed_image_is_named_so_in_training(workspace: Workspace) -> None:
    from napari_peftsam.document import RenameImage

    document = workspace.document
    image = next(iter(document.images))
    document.do(ImportLabels(image, make_plane("discs").labels))
    document.do(RenameImage(image, "renamed"))
    (plane,) = workspace.prepare_training(TrainingConfig(steps=1))().planes
    assert plane.name == "renamed"


@pytest.mark.parametrize(
    ("trained", "by"),
    [
        pytest.param({}, "image", id="nothing"),
        pytest.param({"a": [1, 2, 3, 4]}, "region", id="one image"),
        pytest.param({"a": [1], "b": [1, 2]}, "region", id="some of both"),
        pytest.param({"a [0, 0]": [1, 2, 3, 4]}, "region", id="a tile"),
        pytest.param({"a c": [1, 2, 3, 4]}, "image", id="an image of another name"),
    ],
)
def test_the_planned_split_leaves_out_what_the_live_adapter_was_trained_on(
    workspace: Workspace, trained: dict[str, list[int]], by: str
) -> None:
    document, config = workspace.document, TrainingConfig(steps=1)
    for name in "ab":
        plane = make_plane(name)
        document.do(ImportLabels(document.add_image(name, plane.pixels), plane.labels))
    adapter = capture(inject(build_tiny(), LoraConfig(rank=2)), {"trained_on": trained})
    planned = planned_split(document, config, adapter)()
    assert planned is not None
    assert planned.by == by
    if "a [0, 0]" not in trained:
        planes = [*annotated_planes(document, workspace.engine)()]
        assert planned == split_objects(planes, config.held_out, config.seed, trained)
