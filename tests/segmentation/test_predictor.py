"""Prompts in image pixels in, masks in image pixels out, and nothing remembered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from napari_peftsam.embeddings import Embedding, encode_one
from napari_peftsam.errors import ConfigurationError, PromptError
from napari_peftsam.models import build_tiny
from napari_peftsam.segmentation import Predictor, PromptTensors, RegionLabels, decode
from napari_peftsam.segmentation.region_labels import object_part, to_image_logits, to_image_masks
from napari_peftsam.types import Box, Frame, Point, Prediction, Prompts

MODEL = build_tiny()
SHAPE = (50, 37)
PIXELS = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8)

POINT = Prompts((Point(20, 10),))
POINTS = Prompts((Point(20, 10), Point(3, 3, positive=False)))
BOX = Prompts(box=Box(5, 6, 30, 20))
BOTH = Prompts((Point(20, 10),), Box(5, 6, 30, 20))


@pytest.fixture(scope="module")
def embedding() -> Embedding:
    return encode_one(MODEL, PIXELS)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(MODEL)


def assert_same(a: Prediction, b: Prediction) -> None:
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)
    assert (a.masks != b.masks).mean() < 1e-3


@pytest.mark.parametrize("prompts", [POINT, POINTS, BOX, BOTH])
def test_candidates_are_sorted_and_as_large_as_the_image(
    predictor: Predictor, embedding: Embedding, prompts: Prompts
) -> None:
    found = predictor.predict(embedding, prompts)
    assert len(found) == 3
    assert (found.masks.shape, found.masks.dtype) == ((3, *SHAPE), np.bool_)
    assert (found.logits.shape, found.logits.dtype) == ((3, 32, 32), np.float32)
    assert found.scores.dtype == np.float32
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


@pytest.mark.parametrize(
    ("prompts", "fed_back", "outputs"),
    [
        pytest.param(POINT, False, (1, 2, 3), id="a lone point is ambiguous"),
        pytest.param(POINT, True, (0, 1, 2, 3), id="a point and a previous mask"),
        pytest.param(POINTS, False, (0, 1, 2, 3), id="two points"),
        pytest.param(BOX, False, (0, 1, 2, 3), id="box"),
        pytest.param(BOTH, False, (0, 1, 2, 3), id="point and box"),
    ],
)
def test_which_outputs_are_candidates(
    predictor: Predictor,
    embedding: Embedding,
    prompts: Prompts,
    fed_back: bool,
    outputs: tuple[int, ...],
) -> None:
    previous = predictor.predict(embedding, prompts).logits[0] if fed_back else None
    frame = embedding.frame
    points = torch.from_numpy(frame.points_to_model(prompts.points))[None]
    tensors = PromptTensors(
        points if prompts.points else None,
        torch.tensor([[float(p.positive) for p in prompts.points]]) if prompts.points else None,
        None if prompts.box is None else torch.from_numpy(frame.box_to_model(prompts.box))[None],
        None if previous is None else torch.from_numpy(previous)[None, None],
    )
    with torch.inference_mode(), MODEL.autocast():
        logits, scores = decode(MODEL.sam, torch.from_numpy(embedding.features)[None], tensors)
    order = sorted(outputs, key=lambda i: -float(scores[0, i]))[:3]
    found = predictor.predict(embedding, prompts, previous)
    np.testing.assert_allclose(found.logits, logits[0, order].numpy(), atol=1e-5)


def test_many_objects_equal_single_ones_in_any_mixture(
    predictor: Predictor, embedding: Embedding
) -> None:
    prompts = [POINT, BOX, POINTS, Prompts((Point(40, 30),)), BOTH, POINT]
    previous = [None, None, predictor.predict(embedding, POINTS).logits[1], None, None, None]
    previous[5] = predictor.predict(embedding, POINT).logits[0]
    many = predictor.predict_many(embedding, prompts, previous)
    for one, logits, found in zip(prompts, previous, many, strict=True):
        assert_same(found, predictor.predict(embedding, one, logits))


def test_more_objects_than_one_batch_holds(predictor: Predictor, embedding: Embedding) -> None:
    prompts = [Prompts((Point(i % 50, i % 37),)) for i in range(70)]
    many = predictor.predict_many(embedding, prompts, candidates=1)
    assert [len(p) for p in many] == [1] * 70
    for i in (0, 7, 8, 31, 32, 69):
        whole = predictor.predict(embedding, prompts[i])
        assert_same(many[i], Prediction(whole.masks[:1], whole.scores[:1], whole.logits[:1]))
    assert predictor.predict_many(embedding, []) == []


def test_previous_logits_change_the_answer(predictor: Predictor, embedding: Embedding) -> None:
    first = predictor.predict(embedding, POINTS)
    second = predictor.predict(embedding, POINTS, first.logits[0])
    assert not np.array_equal(first.logits, second.logits)


def test_nothing_is_remembered_between_calls_or_threads(
    predictor: Predictor, embedding: Embedding
) -> None:
    prompts = [POINT, BOX, POINTS, BOTH] * 4
    expected = [predictor.predict(embedding, p) for p in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda p: predictor.predict(embedding, p), prompts))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a.masks, b.masks)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_a_box_is_cut_at_the_edge(predictor: Predictor, embedding: Embedding) -> None:
    beyond = predictor.predict(embedding, Prompts(box=Box(-9, -4, 25, 99)))
    assert_same(beyond, predictor.predict(embedding, Prompts(box=Box(0, 0, 25, 37))))


def test_read_only_features_are_fine(predictor: Predictor, embedding: Embedding) -> None:
    locked = Embedding(embedding.key, embedding.frame, embedding.features.copy())
    locked.features.flags.writeable = False
    assert_same(predictor.predict(locked, POINT), predictor.predict(embedding, POINT))


@pytest.mark.parametrize(
    ("prompts", "previous", "message"),
    [
        pytest.param(Prompts(), None, "no prompt", id="nothing"),
        pytest.param(Prompts((Point(50, 3),)), None, "outside", id="point below"),
        pytest.param(Prompts((Point(3, -1),)), None, "outside", id="point left"),
        pytest.param(Prompts(box=Box(0, 37, 9, 50)), None, "outside", id="box"),
        pytest.param(POINT, np.zeros((8, 8), np.float32), "expected", id="previous"),
        pytest.param(POINT, np.zeros((3, 32, 32), np.float32), "expected", id="all previous"),
    ],
)
def test_wrong_prompts_are_told(
    predictor: Predictor,
    embedding: Embedding,
    prompts: Prompts,
    previous: np.ndarray | None,
    message: str,
) -> None:
    with pytest.raises(PromptError, match=message):
        predictor.predict(embedding, prompts, previous)


def test_one_previous_per_object(predictor: Predictor, embedding: Embedding) -> None:
    with pytest.raises(PromptError, match="1 objects for 2"):
        predictor.predict_many(embedding, [POINT, BOX], [None])


def test_an_embedding_of_another_model_is_told(embedding: Embedding) -> None:
    with pytest.raises(ConfigurationError, match="another model"):
        Predictor(build_tiny(seed=1)).predict(embedding, POINT)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(50, 37, 64), (64, 64, 64), (37, 50, 64), (511, 300, 64), (9, 64, 64), (13, 7, 64)],
)
def test_logits_are_sampled_at_the_pixel_centres(height: int, width: int, size: int) -> None:
    """A ramp in model coordinates must be the same ramp in image coordinates."""
    frame = Frame(height, width, size)
    side = size // 2
    rows = (torch.arange(side) + 0.5) * 2
    ramp = rows[:, None] + 1000 * rows[None]
    found = to_image_logits(ramp[None, None], frame)[0, 0]
    assert found.shape == (height, width)
    row = (torch.arange(height) + 0.5) * frame.inner[0] / height
    col = (torch.arange(width) + 0.5) * frame.inner[1] / width
    expected = row.clamp(1, size - 1)[:, None] + 1000 * col.clamp(1, size - 1)[None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_a_square_image_is_scaled_as_by_one_interpolation() -> None:
    logits = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = to_image_logits(logits, Frame(100, 100, 64))
    expected = functional.interpolate(logits, (100, 100), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)


def _blob(row: float, col: float, radius: float, side: int = 32) -> torch.Tensor:
    """Return logits that fall off from a place, above 0 within the radius."""
    at = torch.arange(float(side))
    return radius - torch.hypot(at[:, None] - row, at[None] - col)


@pytest.mark.parametrize(
    ("height", "width"), [(50, 37), (64, 64), (37, 50), (511, 300), (9, 64), (1, 40)]
)
@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(_blob(7, 11, 0.5), id="one logit"),
        pytest.param(_blob(3, 4, 3), id="small"),
        pytest.param(_blob(0, 0, 4), id="in the corner"),
        pytest.param(_blob(31, 31, 20), id="at the far end"),
        pytest.param(_blob(2, 9, 200), id="everywhere"),
        pytest.param(_blob(2, 9, -1), id="nothing"),
        pytest.param(torch.maximum(_blob(1, 2, 2), _blob(9, 13, 3)), id="two parts"),
    ],
)
def test_only_the_part_that_holds_the_mask_is_scaled(
    logits: torch.Tensor, height: int, width: int
) -> None:
    frame = Frame(height, width, 64)
    expected = to_image_logits(logits[None, None], frame)[0, 0]
    [mask] = to_image_masks(logits[None], frame)
    sure = (expected.abs() > 1e-4).numpy()
    np.testing.assert_array_equal(mask[sure], (expected > 0).numpy()[sure])
    values, window = object_part(logits, frame)
    torch.testing.assert_close(values, expected[window.slices], rtol=1e-5, atol=1e-4)


def segment(
    predictor: Predictor, embedding: Embedding, prompts: list[Prompts]
) -> npt.NDArray[np.int32]:
    """Write the best candidate of each object into a label image."""
    labels = np.zeros(SHAPE, np.int32)
    regions = RegionLabels(labels, np.zeros(SHAPE, np.float32))
    for label, best in enumerate(predictor.best_parts(embedding, prompts), start=1):
        regions.write(label, *best)
    return labels


def test_labels_give_each_pixel_to_the_highest_logit(
    predictor: Predictor, embedding: Embedding
) -> None:
    prompts = [BOX, POINT, BOTH, POINTS]
    labels = segment(predictor, embedding, prompts)
    assert (labels.shape, labels.dtype) == (SHAPE, np.int32)
    single = [predictor.predict_many(embedding, [one], candidates=1)[0] for one in prompts]
    best = torch.from_numpy(np.concatenate([one.logits for one in single]))
    logits = to_image_logits(best[None], embedding.frame)[0].numpy()
    expected = np.where(logits.max(axis=0) > 0, logits.argmax(axis=0) + 1, 0)
    np.testing.assert_array_equal(labels, expected)
    order = [2, 0, 3, 1]
    shuffled = segment(predictor, embedding, [prompts[i] for i in order])
    renumbered = np.array([0, *(i + 1 for i in order)])[shuffled]
    assert (renumbered != labels).mean() < 1e-2


def test_labels_without_prompts_are_empty(predictor: Predictor, embedding: Embedding) -> None:
    assert not segment(predictor, embedding, []).any()
