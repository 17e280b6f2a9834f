"""Large images shared by workers: what one process writes, whoever writes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from distributed import LocalCluster

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.exchange import segment_file
from napari_peftsam.batch import embed, large_image
from napari_peftsam.batch.cluster import ClusterChoice
from napari_peftsam.batch.embed import embed_batch
from napari_peftsam.batch.large_image import segment_large_image
from napari_peftsam.batch.plan import BatchFinished, BatchPlan
from napari_peftsam.batch.run import TaskDone
from napari_peftsam.errors import ConfigurationError, PromptError
from napari_peftsam.files import read_labels
from tests.segmentation._slides import Slide

SHAPE = (1100, 2200)
PLACES = [(60, 60), (1023, 1024), (1010, 2100), (80, 90)]
HERE = ClusterChoice(workers=0)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several tasks of a small image."""
    monkeypatch.setattr("napari_peftsam.files._read._READ_AT_ONCE", 0)
    monkeypatch.setattr(large_image, "_REGION", 1024)  # one chunk
    monkeypatch.setattr(large_image, "_PLACE", 1024)
    monkeypatch.setattr(large_image, "_TOGETHER", 2)
    monkeypatch.setattr(embed, "_PART", 10_000)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    slide = Slide(SHAPE, [(row, col, 14, 12) for row, col in PLACES])
    path = tmp_path / "slide.zarr"
    zarr.create_array(path, data=slide[0 : SHAPE[0], 0 : SHAPE[1]], chunks=(256, 256))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.json"
    objects = [{"points": [place]} for place in PLACES]
    box = [PLACES[1][0] - 15, PLACES[1][1] - 13, PLACES[1][0] + 15, PLACES[1][1] + 13]
    path.write_text(json.dumps([*objects, {"box": box}]))
    return path


def test_labels_are_those_of_one_process(
    image: Path, prompts: Path, checkpoint: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    choice, output = ModelChoice(checkpoint, device="cpu"), tmp_path / "spread.ome.zarr"
    there = ClusterChoice(cluster.scheduler_address)
    plan = BatchPlan(choice, there, tmp_path / "store")
    *events, finished = segment_large_image(image, prompts, output, plan)
    expected = segment_file(image, prompts, tmp_path / "one.ome.zarr", choice)
    labels = read_labels(tmp_path / "one.ome.zarr")
    assert len(np.unique(labels)) > len(PLACES) / 2
    np.testing.assert_array_equal(read_labels(output), labels)
    assert finished == BatchFinished(
        1, 1, {}, output, objects=expected.objects, empty=len(expected.empty)
    )
    tasks = [event for event in events if isinstance(event, TaskDone)]
    predicting, composing = (task.total for task in tasks if task.done == 1)
    assert predicting >= 4
    assert composing >= 4
    assert len(tasks) == predicting + composing
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_stopped_run_leaves_its_embeddings_and_what_was_there(
    image: Path, prompts: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "labels.ome.zarr"
    plan = BatchPlan(ModelChoice(checkpoint), HERE, tmp_path / "store")
    asked = iter([False, False, True])
    *_, finished = segment_large_image(image, prompts, output, plan, stop=lambda: next(asked))
    assert finished == BatchFinished(1, 0, {}, output)
    assert not output.exists()
    assert list((tmp_path / "store").iterdir())
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_object_that_fails_is_named(image: Path, checkpoint: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"points": [[60, 60]]}, {"box": [0, 0, 1100, 2200]}]))
    plan = BatchPlan(ModelChoice(checkpoint), HERE, tmp_path / "store")
    with pytest.raises(PromptError, match=r"slide\.zarr: object 2: the prompts span"):
        list(segment_large_image(image, prompts, tmp_path / "labels.ome.zarr", plan))
    assert not (tmp_path / "labels.ome.zarr").exists()


def test_images_of_one_frame_are_left_to_segment(
    prompts: Path, checkpoint: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.zarr"
    zarr.create_array(small, data=np.zeros((100, 100), np.uint8))
    prompts.write_text(json.dumps([{"points": [[60, 60]]}]))
    plan = BatchPlan(ModelChoice(checkpoint), HERE)
    with pytest.raises(ConfigurationError, match="fits one frame of the model: use `segment`"):
        next(segment_large_image(small, prompts, tmp_path / "labels.ome.zarr", plan))


def test_labels_of_a_large_image_are_zarr(
    image: Path, prompts: Path, checkpoint: Path, tmp_path: Path
) -> None:
    plan = BatchPlan(ModelChoice(checkpoint), HERE)
    with pytest.raises(ConfigurationError, match=r"end the name of the output in \.zarr"):
        next(segment_large_image(image, prompts, tmp_path / "labels.tif", plan))


def test_workers_share_the_tiles_of_a_large_image(
    checkpoint: Path, tmp_path: Path, cluster: LocalCluster
) -> None:
    path, shape = tmp_path / "large.zarr", (2, 200, 300)
    slide = Slide(shape[1:], [(100, 100, 14, 14)])
    planes = np.stack([slide[0 : shape[1], 0 : shape[2]]] * 2)
    planes[1] = 255 - planes[1]
    zarr.create_array(path, data=planes, chunks=(1, 128, 128))
    choice = ModelChoice(checkpoint, device="cpu")
    plan = BatchPlan(choice, ClusterChoice(cluster.scheduler_address), tmp_path / "store")
    *done, finished = embed_batch([path], plan)
    assert isinstance(done[0], TaskDone)
    assert len(done) == done[0].total == 12
    assert "large.zarr[" in done[0].name
    assert " of 6" in done[0].name
    assert isinstance(finished, BatchFinished)
    assert finished.images == 1
    engine = choice.open().engine
    tiles = 2 * len(engine.tiled(planes[0]).grid)
    assert (finished.tiles, finished.computed) == (tiles, tiles)
    *_, again = embed_batch([path], BatchPlan(choice, HERE, plan.folder))
    assert isinstance(again, BatchFinished)
    assert (again.tiles, again.computed) == (tiles, 0)
