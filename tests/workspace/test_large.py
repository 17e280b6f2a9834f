"""Large images end to end: prompts, the stream of tiles, labels written part by part."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_peftsam.app.app import predict_pending
from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.exchange import segment_file
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.batch.cluster import ClusterChoice
from napari_peftsam.batch.embed import embed_batch, embed_plane
from napari_peftsam.batch.plan import BatchFinished, BatchPlan
from napari_peftsam.document import (
    AddPoint,
    CompleteRegion,
    ImportLabels,
    MarkComplete,
    Paint,
    PaintBackground,
    PlaneKey,
    RemoveImage,
)
from napari_peftsam.embeddings import (
    EmbeddingStore,
    Encoded,
    EncodeStarted,
    PlaneEmbedding,
    PlaneReady,
)
from napari_peftsam.errors import ConfigurationError, ImageError
from napari_peftsam.files import read_labels
from napari_peftsam.models import build_tiny
from napari_peftsam.normalisation import Limits, sampled_limits
from napari_peftsam.peft import LoraConfig, capture, inject
from napari_peftsam.segmentation import RegionLabels, logits_in_pixels
from napari_peftsam.training import TrainingConfig
from napari_peftsam.types import Box, Plane, Point, Prediction, Prompts, Window
from tests.segmentation._slides import Slide
from tests.training._world import finish
from tests.workspace._steps import accept, embedding_of

SHAPE = (500, 700)
PLANE = PlaneKey("slide")


def slide_on_disk(path: Path, shape: tuple[int, int] = SHAPE) -> Path:
    slide = Slide(shape, [(100, 100, 14, 14), (300, 420, 12, 18)])
    zarr.create_array(path, data=slide[0 : shape[0], 0 : shape[1]], chunks=(128, 128))
    return path


@pytest.fixture(autouse=True)
def opened_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_peftsam.files._read._READ_AT_ONCE", 0)


@pytest.fixture
def large(workspace: Workspace, tmp_path: Path) -> Workspace:
    """Return a workspace with a large image on disk."""
    array = zarr.open_array(slide_on_disk(tmp_path / "slide.zarr"), mode="r")
    workspace.document.add_image("slide", array, rgb=False)
    return workspace


# --- prompts -------------------------------------------------------------------------------


def test_a_prompt_is_answered_with_a_part_of_the_plane(large: Workspace) -> None:
    large.document.do(AddPoint(PLANE, Point(100, 100)))
    prediction = predict_pending(large)
    assert prediction.plane_shape == SHAPE
    assert prediction.masks.size < 3 * 300 * 300
    label = accept(large)
    window = prediction.window
    found = large.document.labels(PLANE)
    assert (found[window.slices] == label).sum() == prediction.masks[0].sum()
    assert (found == label).sum() == prediction.masks[0].sum()


def test_tiles_are_encoded_when_they_are_needed_and_once(large: Workspace) -> None:
    embedding = embedding_of(large, PLANE)
    assert isinstance(embedding, PlaneEmbedding)
    prompts = Prompts((Point(100, 100),))

    def encoded() -> list[bool]:
        events, prediction = finish(large.engine.predict_steps(embedding, prompts))
        assert prediction is not None
        assert isinstance(events[0], EncodeStarted | Encoded)
        return [e.from_store for e in events if isinstance(e, Encoded)]

    first, second = encoded(), encoded()
    assert not any(first)
    assert second == [True] * len(first)


def test_refining_goes_on_from_the_shown_mask(large: Workspace) -> None:
    large.document.do(AddPoint(PLANE, Point(300, 420)))
    predict_pending(large)
    large.document.do(AddPoint(PLANE, Point(310, 408)))
    current = large.document.current
    assert current is not None
    assert current.mask_prompt is not None
    assert current.mask_prompt.offset != (0, 0)
    again = predict_pending(large)
    embedding = embedding_of(large, PLANE)
    assert isinstance(embedding, PlaneEmbedding)
    afresh = large.engine.predict(embedding, current.prompts)
    assert afresh is not None
    assert not np.array_equal(again.logits, afresh.logits)


def test_no_answer_of_an_adapter_that_is_live_no_more(large: Workspace) -> None:
    embedding = embedding_of(large, PLANE)
    assert isinstance(embedding, PlaneEmbedding)
    model = build_tiny()
    adapter = capture(inject(model, LoraConfig(rank=2)))
    steps = large.engine.predict_steps(embedding, Prompts((Point(100, 100),)))
    next(steps)
    large.engine.use(adapter)
    _, prediction = finish(steps)
    assert prediction is None
    many = large.engine.predict_many_steps(embedding, [Prompts((Point(100, 100),))])
    assert finish(many) == ([], None)


def test_of_several_tiles_no_activations_are_kept(large: Workspace) -> None:
    large.document.do(AddPoint(PLANE, Point(100, 100)))
    predict_pending(large)
    assert large.engine._tokens.memory_bytes == 0
    list(large.embed(PlaneKey("discs")))
    assert large.engine._tokens.memory_bytes > 0


def test_tiles_are_embedded_with_what_was_live_at_the_beginning(large: Workspace) -> None:
    events = large.embed(PLANE, Window(90, 90, 20, 20))
    assert isinstance(next(events), PlaneReady)
    large.engine.use(capture(inject(build_tiny(), LoraConfig(rank=2))))
    assert not any(isinstance(event, Encoded) for event in events)
    again = large.embed(PLANE, Window(90, 90, 20, 20))
    live = large.engine.live.decoder
    assert {e.embedding.key.adapter for e in again if isinstance(e, Encoded)} == {live}


@pytest.mark.parametrize("in_memory", [True, False], ids=["in memory", "on disk"])
def test_a_large_plane_is_known_until_it_is_removed(
    in_memory: bool, large: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_memory:
        pixels = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(1, *SHAPE)
        large.document.add_image("slides", pixels)
    plane = PlaneKey("slides", (0,)) if in_memory else PLANE
    searches = []

    def search(pixels: Plane) -> Limits:
        searches.append(1)
        return sampled_limits(pixels)

    monkeypatch.setattr("napari_peftsam.embeddings.grid.sampled_limits", search)
    first = embedding_of(large, plane)
    assert isinstance(first, PlaneEmbedding)
    again = embedding_of(large, plane)
    assert isinstance(again, PlaneEmbedding)
    assert again.image is first.image
    labels = np.zeros(large.document.labels(plane).shape, np.int32)
    labels[90:110, 90:110] = 1
    large.document.do(ImportLabels(plane.image, labels[None] if in_memory else labels))
    (tile,) = large.prepare_training(TrainingConfig(steps=1))().planes
    assert tile.limits == first.image.intensity_range
    assert tile.name.startswith("slides[0] [" if in_memory else "slide [")
    assert len(searches) == 1, "the training has them from the prompts"
    gone = weakref.ref(first.image)
    del first, again
    large.document.do(RemoveImage(plane.image))
    gc.collect()
    assert gone() is None


def test_a_training_is_prepared_without_reading_pixels(
    large: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[90:110, 90:110] = 1
    large.document.do(ImportLabels(PLANE.image, labels))
    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__getitem__", lambda *_: pytest.fail("read in the GUI thread"))
        prepare = large.prepare_training(TrainingConfig(steps=1))
    where = np.flatnonzero(labels)
    large.document.labels(PLANE)[:] = 0  # as napari's brush does before it reports the stroke
    large.document.do(Paint(PLANE.image, where, 0, old=1))  # afterwards, so it does not count
    (tile,) = prepare().planes
    assert np.count_nonzero(tile.labels) == 400


def test_declared_background_of_a_large_plane_is_in_its_tiles(large: Workspace) -> None:
    document, labels = large.document, np.zeros(SHAPE, np.int32)
    labels[90:110, 90:110], labels[480:495, 670:690] = 1, 2
    document.do(ImportLabels(PLANE.image, labels))
    document.do(MarkComplete(PLANE.image, CompleteRegion((), Box(80, 80, 120, 120))))
    stroke = np.zeros(SHAPE, np.bool_)
    stroke[470:475, 660:700] = True
    document.do(PaintBackground(PLANE.image, np.flatnonzero(stroke)))
    prepare = large.prepare_training(TrainingConfig(steps=1))
    document.do(PaintBackground(PLANE.image, np.flatnonzero(~stroke)))  # it does not count
    grid = large.engine.tiled(document.pixels(PLANE), PLANE.image).grid
    expected = stroke.copy()
    expected[80:120, 80:120] |= labels[80:120, 80:120] == 0
    planes = prepare().planes
    assert len(planes) == 2
    for plane, middle in zip(planes, ((100, 100), (487, 680)), strict=True):
        window = grid.tile_at(*middle).window
        height, width = window.shape
        around = np.pad(expected, ((0, height), (0, width)))[window.slices]
        assert plane.background is not None
        np.testing.assert_array_equal(plane.background, around)


def test_several_objects_at_once(large: Workspace) -> None:
    embedding = embedding_of(large, PLANE)
    assert embedding is not None
    prompts = [Prompts((Point(100, 100),)), Prompts(box=Box(288, 402, 313, 439))]
    _, found = finish(large.engine.predict_many_steps(embedding, prompts))
    assert found is not None
    assert len(found) == 2


# --- embedding all of it ---------------------------------------------------------------------


def test_images_of_all_sizes_are_embedded_and_a_second_run_finds_them(
    checkpoint: Path, tmp_path: Path
) -> None:
    large = slide_on_disk(tmp_path / "large.zarr", (200, 300))
    small = slide_on_disk(tmp_path / "small.zarr", (120, 130))
    choice = ModelChoice(checkpoint, device="cpu")
    plan = BatchPlan(choice, ClusterChoice(workers=0), tmp_path / "store")
    *_, finished = embed_batch([large, small], plan)
    tiles = len(choice.open().engine.tiled(np.zeros((200, 300))).grid)
    assert finished == BatchFinished(2, 2, {}, plan.folder, tiles=tiles + 1, computed=tiles + 1)
    *_, again = embed_batch([large, small], plan)
    assert again == BatchFinished(2, 2, {}, plan.folder, tiles=tiles + 1, computed=0)


@pytest.mark.parametrize("shape", [(100, 120), SHAPE], ids=["one frame", "tiles"])
def test_an_image_that_cannot_be_read_is_left_out(
    shape: tuple[int, int], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for name in "ab":
        array = zarr.create_array(
            tmp_path / f"images/{name}.zarr", shape=shape, chunks=(128, 128), dtype=np.uint8
        )
        array[:] = np.random.default_rng(0).integers(0, 255, shape)
    (tmp_path / "images/a.zarr/c/0/0").write_bytes(b"damaged")
    plan = BatchPlan(ModelChoice(checkpoint, None, "cpu"), ClusterChoice(workers=0), tmp_path / "s")
    *_, finished = embed_batch([tmp_path / "images"], plan)
    assert isinstance(finished, BatchFinished)
    (reason,) = finished.failed.values()
    assert "a part of the image cannot be read" in reason
    assert finished.images == 1


def test_a_second_batch_sees_what_an_image_has_become(checkpoint: Path, tmp_path: Path) -> None:
    path = slide_on_disk(tmp_path / "slide.zarr")
    choice, here = ModelChoice(checkpoint, None, "cpu"), ClusterChoice(workers=0)
    list(embed_batch([path], BatchPlan(choice, here, tmp_path / "store")))
    array = zarr.open_array(path, mode="r+")
    array[:] = 255 - array[:]
    expected = {e.embedding.key for e in _all_tiles(path, choice)}
    again = BatchPlan(choice, here, tmp_path / "again")
    list(embed_batch([path], again))
    store = EmbeddingStore(again.folder)
    assert all(store.get(key) is not None for key in expected)


def _all_tiles(path: Path, choice: ModelChoice) -> list[Encoded]:
    """Return what a process makes of the image that has never seen it."""
    engine = choice.open(None).engine
    events = embed_plane(engine, "slide", zarr.open_array(path, mode="r"))
    return [event for event in events if isinstance(event, Encoded)]


def test_an_interrupted_plane_goes_on(workspace: Workspace) -> None:
    slide = Slide((200, 300), [(100, 100, 14, 14)])[0:200, 0:300]
    embedded = embed_plane(workspace.engine, "slide", slide)
    for _ in range(3):
        next(embedded)
    embedded.close()  # type: ignore[attr-defined]  # a generator
    found = [made.from_store for made in embed_plane(workspace.engine, "slide", slide)]
    assert found == [True] * 3 + [False] * (len(found) - 3)
    assert len(found) > 3


# --- labels part by part -----------------------------------------------------------------------


def prompts_file(path: Path) -> Path:
    objects = [{"points": [[100, 100]]}, {"box": [288, 402, 313, 439]}]
    path.write_text(json.dumps(objects), "utf-8")
    return path


def test_a_large_image_is_segmented_into_zarr(checkpoint: Path, tmp_path: Path) -> None:
    image = slide_on_disk(tmp_path / "slide.zarr")
    prompts = prompts_file(tmp_path / "prompts.json")
    output = tmp_path / "labels.ome.zarr"
    report = segment_file(image, prompts, output, ModelChoice(checkpoint))
    labels = read_labels(output)
    assert labels.shape == SHAPE
    assert report.output == output
    assert sorted({1, 2} - set(np.unique(labels).tolist())) == list(report.empty)
    assert not list(tmp_path.glob(".tmp-*"))
    again = segment_file(image, prompts, output, ModelChoice(checkpoint))
    assert again == report


def test_a_large_image_is_not_segmented_into_tiff(checkpoint: Path, tmp_path: Path) -> None:
    image = slide_on_disk(tmp_path / "slide.zarr")
    prompts = prompts_file(tmp_path / "prompts.json")
    with pytest.raises(ConfigurationError, match=r"end the name of the output in \.zarr"):
        segment_file(image, prompts, tmp_path / "labels.tif", ModelChoice(checkpoint))
    assert not (tmp_path / "labels.tif").exists()


def test_an_image_of_more_tiles_than_anyone_waits_for_is_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    shape = (10**9, 10**9)
    zarr.create_array(tmp_path / "x.zarr", shape=shape, chunks=(4096, 4096), dtype=np.uint8)
    with pytest.raises(ImageError, match=r"1000000000 x 1000000000 pixels, .* tiles"):
        segment_file(tmp_path / "x.zarr", None, tmp_path / "x.ome.zarr", ModelChoice(checkpoint))
    assert not (tmp_path / "x.ome.zarr").exists()


def _logits(height: float, window: Window) -> Prediction:
    logits = np.full((1, *window.shape), -5, np.float32)
    logits[:, 1:-1, 1:-1] = height
    masks = np.zeros((1, 1, 1), np.bool_)
    return Prediction(
        masks, np.ones(1, np.float32), logits, (0, 0), (window.row * 2, window.col * 2), (60, 60)
    )


def test_where_objects_overlap_the_higher_logit_wins_whatever_the_order() -> None:
    weak, strong = _logits(2, Window(0, 0, 12, 12)), _logits(6, Window(4, 4, 12, 12))
    shapes = []
    for order in ((1, 2), (2, 1)):
        labels, highest = np.zeros((60, 60), np.int32), np.zeros((60, 60), np.float32)
        regions = RegionLabels(labels, highest)
        for label in order:
            best = (weak, strong)[label - 1].mask_prompt(0)
            regions.write(label, *logits_in_pixels(best, 2))
        shapes.append(labels)
        assert [regions.area(n) for n in (1, 2)] == [(labels == n).sum() for n in (1, 2)]
    np.testing.assert_array_equal(*shapes)
    assert shapes[0][15, 15] == 2
