"""Batches: what workers leave is what one process leaves, and a second run goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import distributed
import numpy as np
import pytest
import tifffile
import torch
import zarr

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.exchange import segment_file
from napari_peftsam.batch.cluster import ClusterChoice
from napari_peftsam.batch.embed import embed_batch
from napari_peftsam.batch.plan import BatchEvent, BatchFinished, BatchPlan
from napari_peftsam.batch.run import TaskDone
from napari_peftsam.batch.segment import segment_batch
from napari_peftsam.embeddings import EmbeddingStore, Encoded
from napari_peftsam.errors import ConfigurationError, ExportError, InputFileError, PeftSamError
from napari_peftsam.files import read_image, read_labels
from napari_peftsam.models import build_tiny
from napari_peftsam.peft import LoraConfig, capture, inject, save_adapter
from tests.workspace._deadly import Deadly

HERE = ClusterChoice(workers=0)
NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def there(cluster: distributed.LocalCluster) -> ClusterChoice:
    return ClusterChoice(cluster.scheduler_address)


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> ModelChoice:
    """Return a tiny model with an adapter that changes what it answers."""
    folder, model = tmp_path_factory.mktemp("model"), build_tiny()
    torch.save(model.sam.state_dict(), folder / "tiny.pth")
    generator = torch.Generator().manual_seed(1)  # with which objects have pixels
    with inject(model, LoraConfig(rank=2)) as injection:
        for parameter in injection.trainable_parameters().values():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        save_adapter(capture(injection, {}, {}), folder / "adapter.safetensors")
    return ModelChoice(folder / "tiny.pth", folder / "adapter.safetensors", "cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder of noise with prompts beside it; the last image is a stack."""
    folder, prompts = tmp_path / "images", tmp_path / "prompts"
    folder.mkdir()
    prompts.mkdir()
    for number, name in enumerate(NAMES):
        shape = (2, 40, 48) if name == "d" else (40, 48)
        pixels = np.random.default_rng(number).integers(0, 255, shape, np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack")
        objects = [{"points": [[10 + number, 10]]}, {"box": [2, 3, 38, 44]}]
        (prompts / f"{name}.json").write_text(json.dumps(objects))
    return folder


@pytest.fixture
def deadly(
    cluster: distributed.LocalCluster, tmp_path: Path
) -> Iterator[Callable[[str, Path], None]]:
    """Return a function that makes an image deadly for workers, once."""
    with distributed.Client(cluster) as client:
        yield lambda image, folder: client.register_plugin(Deadly(image, folder), name="deadly")
        client.unregister_worker_plugin("deadly")


def last(events: Iterator[BatchEvent]) -> BatchFinished:
    *_, finished = events
    assert isinstance(finished, BatchFinished)
    return finished


def stored(folder: Path) -> dict[str, bytes]:
    """Return each embedding's values by its address."""
    return {
        path.name: np.asarray(zarr.open_array(path, mode="r")[:]).tobytes()
        for path in folder.glob("*.zarr")
    }


# --- embedding -----------------------------------------------------------------------


@pytest.fixture
def expected(images: Path, choice: ModelChoice, tmp_path: Path) -> dict[str, bytes]:
    """Return the embeddings that one process without workers makes of all planes."""
    engine = choice.open(tmp_path / "expected").engine
    for name in NAMES:
        pixels = read_image(images / f"{name}.tif")
        for plane in pixels if pixels.ndim == 3 else pixels[None]:
            assert isinstance(list(engine.embed(name, plane))[-1], Encoded)
    found = stored(tmp_path / "expected")
    assert len(found) == 5
    return found


def test_workers_store_what_one_process_does(
    images: Path, choice: ModelChoice, there: ClusterChoice, tmp_path: Path,
    expected: dict[str, bytes],
) -> None:  # fmt: skip
    plan = BatchPlan(choice, there, tmp_path / "store")
    *done, finished = embed_batch([images], plan)
    tasks = [event for event in done if isinstance(event, TaskDone)]
    assert {task.name for task in tasks} == {"a.tif", "b.tif", "c.tif", "d.tif[0]", "d.tif[1]"}
    assert [(task.done, task.total) for task in tasks] == [(n, 5) for n in range(1, 6)]
    assert finished == BatchFinished(4, 4, {}, tmp_path / "store", tiles=5, computed=5)
    assert stored(tmp_path / "store") == expected


def test_a_second_run_computes_only_what_is_not_there(
    images: Path, choice: ModelChoice, there: ClusterChoice, tmp_path: Path
) -> None:
    asked = iter([False, False, True])
    plan = BatchPlan(choice, HERE, tmp_path / "store")
    ended = last(embed_batch([images], plan, stop=lambda: next(asked)))
    assert (ended.images, ended.computed) == (2, 2)
    finished = last(embed_batch([images], BatchPlan(choice, there, tmp_path / "store")))
    assert (finished.images, finished.computed) == (4, 3)


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """Return a function that takes the right to write in a folder, from root as well."""
    with pytest.MonkeyPatch.context() as patch:

        def take(folder: Path) -> None:
            def refused(*_: object, **__: object) -> None:
                raise PermissionError(errno.EACCES, "Permission denied", str(folder))

            patch.setattr(tempfile, "TemporaryFile", refused)
            patch.setattr(zarr, "create_array", refused)
            patch.setattr(os, "utime", refused)

        yield take


def test_a_store_that_can_only_be_read_is_enough_where_all_is_known(
    images: Path, choice: ModelChoice, tmp_path: Path, read_only: Callable[[Path], None]
) -> None:
    plan = BatchPlan(choice, HERE, tmp_path / "store")
    last(embed_batch([images / "a.tif", images / "b.tif"], plan))
    read_only(tmp_path / "store")
    finished = last(embed_batch([images / "a.tif"], plan))
    assert (finished.images, finished.computed, finished.failed) == (1, 0, {})
    with pytest.raises(ExportError, match=r"cannot write .*store"):
        list(embed_batch([images], plan))


def test_a_worker_that_dies_amid_an_image_is_replaced(
    images: Path, choice: ModelChoice, there: ClusterChoice, tmp_path: Path,
    expected: dict[str, bytes], deadly: Callable[[str, Path], None],
) -> None:  # fmt: skip
    deadly("b.tif", tmp_path)
    finished = last(embed_batch([images], BatchPlan(choice, there, tmp_path / "store")))
    assert (tmp_path / "seen").exists(), "a worker died"
    assert (finished.images, finished.failed) == (4, {})
    assert stored(tmp_path / "store") == expected


def test_images_without_a_plane_to_embed_are_told_and_left_out(
    images: Path, choice: ModelChoice, tmp_path: Path
) -> None:
    (images / "b.tif").write_bytes(b"nothing")
    tifffile.imwrite(images / "c.tif", np.zeros((40, 48), np.uint8))
    events = list(embed_batch([images], BatchPlan(choice, HERE, tmp_path / "store")))
    tasks = [event for event in events if isinstance(event, TaskDone)]
    failed = {str(images / each.name): str(each.error) for each in tasks if each.error}
    assert failed.keys() == {str(images / name) for name in ("b.tif", "c.tif")}
    assert all(path in reason for path, reason in failed.items())
    assert events[-1] == BatchFinished(4, 2, failed, tmp_path / "store", tiles=3, computed=3)


def test_one_image_is_a_batch_too(images: Path, choice: ModelChoice, tmp_path: Path) -> None:
    plan = BatchPlan(choice, HERE, tmp_path / "store")
    assert last(embed_batch([images / "d.tif"], plan)).computed == 2


def test_a_changed_adapter_file_is_another_model(
    images: Path, choice: ModelChoice, tmp_path: Path
) -> None:
    model = build_tiny()
    assert choice.adapter is not None
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(choice.adapter.read_bytes())
    plan = BatchPlan(ModelChoice(choice.model, adapter, "cpu"), HERE, tmp_path / "store")
    assert last(embed_batch([images / "a.tif"], plan)).computed == 1
    with inject(model, LoraConfig(rank=4)) as injection:
        save_adapter(capture(injection, {}, {}), adapter)
    assert last(embed_batch([images / "a.tif"], plan)).computed == 1
    assert len(stored(tmp_path / "store")) == 2


def test_images_whose_embeddings_do_not_fit_are_refused(
    images: Path, choice: ModelChoice, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    plan = BatchPlan(choice, HERE, store, space=30_000)
    with pytest.raises(ConfigurationError, match="would be removed for the last") as refused:
        next(embed_batch([images], plan))
    assert not list(store.iterdir())
    wanted = re.search(r"--space (\S+),", str(refused.value))
    assert wanted is not None
    enough = replace(plan, space=round(float(wanted[1]) * 1e9))
    runs = [last(embed_batch([images], enough)).computed for _ in range(2)]
    assert runs == [5, 0]


def test_several_orientations_take_as_much_room_as_is_said(images: Path, tmp_path: Path) -> None:
    plan = BatchPlan(ModelChoice("builtin", device="cpu"), HERE, tmp_path / "store", space=1)
    with pytest.raises(ConfigurationError, match="up to") as refused:
        next(embed_batch([images / "a.tif"], plan))
    said = re.search(r"up to (\S+) GB", str(refused.value))
    assert said is not None
    last(embed_batch([images / "a.tif"], replace(plan, space=None)))
    assert 0.7 < EmbeddingStore(tmp_path / "store").size_bytes() / (float(said[1]) * 1e9) <= 1


def test_images_whose_embeddings_exceed_the_disk_are_refused(
    images: Path, choice: ModelChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = BatchPlan(choice, HERE, tmp_path / "store")
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(ConfigurationError, match="GB free for"):
            next(embed_batch([images], plan))


def test_without_a_space_nothing_of_others_is_removed(
    images: Path, choice: ModelChoice, tmp_path: Path
) -> None:
    assert BatchPlan(choice, HERE, tmp_path).source.store == (tmp_path, None)


# --- segmentation --------------------------------------------------------------------


def test_labels_are_those_of_single_images(
    images: Path, choice: ModelChoice, there: ClusterChoice, tmp_path: Path
) -> None:
    (images / "d.tif").unlink()  # a stack, see below
    output, prompts = tmp_path / "labels", tmp_path / "prompts"
    plan = BatchPlan(choice, there, tmp_path / "store")
    runs = [last(segment_batch(images, prompts, output, plan)) for _ in range(2)]
    empty = pixels = 0
    for name in ("a", "b", "c"):
        one = tmp_path / f"{name}.tif"
        report = segment_file(images / f"{name}.tif", prompts / f"{name}.json", one, choice)
        empty += len(report.empty)
        pixels += np.count_nonzero(read_labels(one))
        np.testing.assert_array_equal(read_labels(output / f"{name}.ome.zarr"), read_labels(one))
    assert pixels
    assert runs == [BatchFinished(3, 3, {}, output, objects=6, empty=empty)] * 2
    assert sorted(path.name for path in output.iterdir()) == [
        "a.ome.zarr", "b.ome.zarr", "c.ome.zarr",
    ]  # fmt: skip


def test_only_what_this_run_left_half_written_is_removed(
    images: Path, choice: ModelChoice, tmp_path: Path
) -> None:
    output = tmp_path / "labels"
    (output / ".tmp-0123.ome.zarr").mkdir(parents=True)  # of another batch
    plan = BatchPlan(choice, HERE, tmp_path / "store")
    finished = last(segment_batch(images, tmp_path / "prompts", output, plan))
    assert finished.failed.keys() == {"d"}
    assert "is a stack" in finished.failed["d"]
    assert [path.name for path in output.glob(".*")] == [".tmp-0123.ome.zarr"]


def test_a_worker_that_dies_leaves_nothing_half_written(
    images: Path, choice: ModelChoice, there: ClusterChoice, tmp_path: Path,
    deadly: Callable[[str, Path], None],
) -> None:  # fmt: skip
    (images / "d.tif").unlink()
    deadly("b.tif", tmp_path)
    output = tmp_path / "labels"
    plan = BatchPlan(choice, there, tmp_path / "store")
    assert last(segment_batch(images, tmp_path / "prompts", output, plan)).images == 3
    assert (tmp_path / "seen").exists(), "a worker died"
    assert len(list(output.iterdir())) == 3


def no_prompts(root: Path) -> None:
    for path in (root / "prompts").iterdir():
        path.rename(path.with_stem("x" + path.stem))


def bad_prompts(root: Path) -> None:
    (root / "prompts" / "c.json").write_text("[{}]")


def no_folder(root: Path) -> None:
    (root / "labels").write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (no_prompts, InputFileError, "has prompts of the same name"),
        (bad_prompts, PeftSamError, "object 1 has neither points nor a box"),
        (no_folder, PeftSamError, "cannot write .*labels"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_input_is_refused_before_the_work(
    spoil: Callable[[Path], None], error: type[Exception], message: str, images: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        next(segment_batch(images, tmp_path / "prompts", tmp_path / "labels"))


def test_labels_are_not_put_among_the_images(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="folder of the images"):
        next(segment_batch(images, tmp_path / "prompts", images))


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="holds no image"):
        next(embed_batch([tmp_path]))


def test_a_model_that_is_not_there_ends_the_batch(images: Path, tmp_path: Path) -> None:
    plan = BatchPlan(ModelChoice(tmp_path / "none.pth"), HERE, tmp_path / "store")
    with pytest.raises(PeftSamError, match=r"none\.pth"):
        last(embed_batch([images], plan))


def test_the_store_is_that_of_the_docks_unless_another_is_named(user_folder: Path) -> None:
    assert BatchPlan().folder == user_folder / "cache" / "napari-peftsam" / "embeddings"
    assert EmbeddingStore(BatchPlan(store=Path("here")).folder).folder.is_absolute()
