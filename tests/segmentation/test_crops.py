"""Many objects predicted from their surroundings: what is the same, and what is nearly so."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from napari_peftsam.embeddings import Embedding, PlaneEmbedding, encode_one
from napari_peftsam.evaluation import Target
from napari_peftsam.geometry import iou
from napari_peftsam.models import build
from napari_peftsam.samples import shipped_samples
from napari_peftsam.segmentation import Crop, Predictor
from napari_peftsam.segmentation.crops import NOTHING, fine
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import Box, Frame, Point, Prediction, Prompts, Window

GRID = 48  # tokens of 8 pixels in a frame of 384
CROPS = {"drawn": Crop(approximate=False), "seen": Crop()}
POINT = Point(100, 100)
SMALL = Prompts((POINT,), Box(90, 90, 112, 110))


@cache
def predictor() -> Predictor:
    return Predictor(build("builtin", precision="fp32"))


@cache
def sample(number: int) -> tuple[Embedding, list[Target]]:
    pixels, labels = shipped_samples()[number].read()
    targets = [Target.from_mask(labels == label) for label in np.unique(labels[labels > 0])]
    return encode_one(predictor().model, pixels), targets


def answers(number: int, crop: Crop | None, asked: list[Prompts] | None = None) -> list[Prediction]:
    embedding, targets = sample(number)
    prompts = asked or [Prompts((target.first_click(),), target.box) for target in targets]
    return predictor().predict_many(embedding, prompts, candidates=1, crop=crop)


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        pytest.param(SMALL, Window(7, 7, 24, 24), id="small: the least crop"),
        pytest.param(
            Prompts(box=Box(150, 100, 190, 150)), Window(16, 7, 32, 32), id="3 boxes wide"
        ),
        pytest.param(
            Prompts((Point(101, 150), Point(9, 9, positive=False)), Box(100, 100, 110, 110)),
            Window(4, 8, 32, 32), id="around positive points outside of the box, too",
        ),
        pytest.param(Prompts(box=Box(0, 240, 9, 256)), Window(0, 24, 24, 24), id="at an edge"),
        pytest.param(Prompts(box=Box(0, 0, 90, 110)), Window(0, 0, GRID, GRID), id="large: all"),
        pytest.param(Prompts((POINT,)), Window(0, 0, GRID, GRID), id="size unknown: all"),
    ],
)  # fmt: skip
def test_where_a_crop_is(prompts: Prompts, expected: Window) -> None:
    assert Crop().window(prompts, Frame(256, 256, 384), GRID) == expected


def test_a_wider_crop() -> None:
    assert Crop(7).window(SMALL, Frame(256, 256, 384), GRID).shape == (32, 32)


def test_what_is_drawn_alone_equals_the_same_part_of_the_whole() -> None:
    embedding, targets = sample(0)
    prompts = [
        *(Prompts((target.first_click(),), target.box) for target in targets),
        *(Prompts(box=target.box) for target in targets[:3]),
        Prompts((POINT,)),
    ]
    crop = CROPS["drawn"]
    pairs = zip(prompts, answers(0, None, prompts), answers(0, crop, prompts), strict=True)
    for each, whole, part in pairs:
        window = fine(crop.window(each, embedding.frame, GRID)).slices
        np.testing.assert_allclose(part.scores, whole.scores, atol=1e-5)
        np.testing.assert_allclose(part.logits[0][window], whole.logits[0][window], atol=1e-3)
        outside = part.logits[0].copy()
        outside[window] = NOTHING
        assert (outside == NOTHING).all()


def test_what_is_seen_alone_is_nearly_the_same() -> None:
    for number in range(len(shipped_samples())):
        pairs = zip(answers(number, None), answers(number, CROPS["seen"]), strict=True)
        ious = [iou(whole.masks[0], near.masks[0]) for whole, near in pairs]
        assert np.mean(ious) > 0.98


@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS.keys())
def test_many_equal_single_ones(crop: Crop) -> None:
    embedding, targets = sample(0)
    first = answers(0, crop)[0].logits[0]
    prompts = [Prompts((target.first_click(),), target.box) for target in targets[:12]]
    prompts += [Prompts((POINT,)), SMALL]
    fed_back = [first, *[None] * (len(prompts) - 1)]
    many = predictor().predict_many(embedding, prompts, fed_back, crop=crop)
    for each, logits, found in zip(prompts, fed_back, many, strict=True):
        [single] = predictor().predict_many(embedding, [each], [logits], crop=crop)
        np.testing.assert_allclose(found.scores, single.scores, atol=1e-5)
        np.testing.assert_allclose(found.logits, single.logits, atol=1e-3)


def test_an_engine_looks_at_a_crop_where_it_is_asked_to() -> None:
    model = predictor().model
    engine, (embedding, _) = Engine(model), sample(0)
    pixels, _ = shipped_samples()[0].read()
    plane = PlaneEmbedding(embedding.key, engine.tiled(pixels), embedding)

    def logits(crop: Crop | None) -> np.ndarray:
        steps = engine.predict_many_steps(plane, [SMALL], crop=crop)
        with pytest.raises(StopIteration) as done:
            next(steps)
        return done.value.value[0].logits

    np.testing.assert_array_equal(logits(None), answers(0, None, [SMALL])[0].logits)
    np.testing.assert_array_equal(logits(Crop()), answers(0, Crop(), [SMALL])[0].logits)
    assert not np.array_equal(logits(None), logits(Crop()))
