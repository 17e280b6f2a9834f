"""An image in several orientations: logits and maps are means over them, scores the lowest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_peftsam.embeddings import encode_one
from napari_peftsam.models import DenseHead, SamModel, build, build_tiny
from napari_peftsam.models.orientations import (
    ORIENTATIONS,
    mean_turned_back,
    turned,
    turned_points,
)
from napari_peftsam.segmentation import Crop, Predictor
from napari_peftsam.segmentation.automatic import DenseMaps
from napari_peftsam.segmentation.crops import turned_window
from napari_peftsam.segmentation.predictor import Decoded
from napari_peftsam.types import Box, Point, Prompts, Window

SIDE = 64
ALL = 4  # outputs of the decoder
PIXELS = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE)).astype(np.uint8)
TURNS = pytest.mark.parametrize("turn", range(8))
SOME_TURNS = pytest.mark.parametrize("turn", [3, 6])

POINT = Prompts((Point(20, 10),))
BOX = Prompts((Point(20, 10), Point(3, 40, positive=False)), Box(12, 6, 30, 20))
PROMPTS = pytest.mark.parametrize(
    ("prompts", "corrects"),
    [
        pytest.param(POINT, False, id="point"),
        pytest.param(BOX, False, id="box and clicks"),
        pytest.param(POINT, True, id="correction"),
    ],
)


def seen(orientations: int) -> SamModel:
    model = build_tiny()
    arch = replace(model.architecture, orientations=orientations)
    return replace(model, architecture=arch, precision="fp32")


def turned_array(array: np.ndarray, turn: int) -> np.ndarray:
    return turned(torch.from_numpy(array), turn).numpy().copy()


def turned_prompts(prompts: Prompts, turn: int, side: int = SIDE) -> Prompts:
    def moved(row: float, col: float) -> list[float]:
        found: list[float] = turned_points(torch.tensor([[col, row]]), turn, side)[0].tolist()
        return found[::-1]

    points = tuple(Point(*moved(p.row, p.col), positive=p.positive) for p in prompts.points)
    if prompts.box is None:
        return Prompts(points)
    box = prompts.box
    corners = np.sort([moved(box.row0, box.col0), moved(box.row1 - 1, box.col1 - 1)], axis=0)
    return Prompts(points, Box(*corners[0], *(corners[1] + 1)))


@TURNS
def test_points_and_windows_go_where_their_pixels_go(turn: int) -> None:
    image = torch.zeros(6, 6)
    image[2:4, 3:5] = 1
    image[1, 5] = 2
    moved = turned(image, turn)
    [[x, y]] = turned_points(torch.tensor([[5, 1]]), turn, 6).tolist()
    assert moved[y, x] == 2
    window = turned_window(Window(2, 3, 2, 2), turn, 6)
    assert (moved[window.slices] == 1).all()
    assert window.shape == (2, 2)


def test_all_orientations_differ_and_are_undone() -> None:
    image = torch.rand(3, 5, 5)
    assert sorted(ORIENTATIONS) == list(range(8))
    assert len({turned(image, turn).numpy().tobytes() for turn in ORIENTATIONS}) == 8
    mean = mean_turned_back([turned(image, turn) for turn in ORIENTATIONS])
    torch.testing.assert_close(mean, image)


@PROMPTS
@pytest.mark.parametrize(
    "crop", [None, Crop(1.0), Crop(1.0, approximate=False)], ids=["whole", "near", "drawn near"]
)
def test_logits_are_the_mean_over_the_orientations_and_scores_the_lowest(
    prompts: Prompts, corrects: bool, crop: Crop | None
) -> None:
    both, alone = seen(2), seen(1)
    mask = Predictor(alone).predict(encode_one(alone, PIXELS), BOX).logits[0] if corrects else None
    answers = []
    for turn in ORIENTATIONS[:2]:
        embedding = encode_one(alone, turned_array(PIXELS, turn))
        given = None if mask is None else [turned_array(mask, turn)]
        asked = [turned_prompts(prompts, turn)]
        answers += Predictor(alone).decode_many(embedding, asked, given, ALL, crop)
    given = None if mask is None else [mask]
    [found] = Predictor(both).decode_many(encode_one(both, PIXELS), [prompts], given, ALL, crop)
    assert_combines(found, answers)


def assert_combines(found: Decoded, answers: Sequence[Decoded]) -> None:
    """Check every candidate: each orientation may rank them in another order."""
    upright, other = answers
    back = mean_turned_back([torch.zeros_like(other.logits), other.logits])  # half of them
    means = upright.logits[:, None] / 2 + back[None]
    lowest = torch.minimum(upright.scores[:, None], other.scores[None])
    for logits, score in zip(found.logits, found.scores, strict=True):
        away = (means - logits).abs().amax((-2, -1))
        assert away.min() < 1e-3, "logits are the mean"
        torch.testing.assert_close(lowest.flatten()[away.argmin()], score, atol=1e-5, rtol=0)


@pytest.mark.parametrize("crop", [None, Crop(1.0, approximate=False)], ids=["whole", "drawn near"])
@pytest.mark.parametrize("corrects", [False, True], ids=["box", "correction"])
def test_so_they_are_where_prompts_are_drawn_and_an_image_is_not_square(
    crop: Crop | None, corrects: bool
) -> None:
    both = replace(build("builtin"), precision="fp32")
    alone = replace(both, architecture=replace(both.architecture, orientations=1))
    side, rng = alone.image_size, np.random.default_rng(1)
    pixels = rng.integers(0, 255, (side, side * 5 // 8)).astype(np.uint8)
    embedding, of_square = (
        encode_one(both, pixels),
        encode_one(alone, np.resize(pixels, (side, side))),
    )
    mask = rng.normal(0, 4, (side // 2, side // 2)).astype(np.float32) if corrects else None
    answers = []
    for turn, features in zip(ORIENTATIONS, np.split(embedding.features, 2), strict=False):
        given = None if mask is None else [turned_array(mask, turn)]
        asked = [turned_prompts(BOX, turn, side)]
        part = replace(of_square, features=features)
        answers += Predictor(alone).decode_many(part, asked, given, ALL, crop)
    given = None if mask is None else [mask]
    [found] = Predictor(both).decode_many(embedding, [BOX], given, ALL, crop)
    assert_combines(found, answers)


@PROMPTS
@SOME_TURNS
def test_in_all_orientations_a_turned_image_has_the_turned_answer(
    prompts: Prompts, corrects: bool, turn: int
) -> None:
    model = seen(8)
    upright = encode_one(model, PIXELS)
    mask = Predictor(model).predict(upright, BOX).logits[0] if corrects else None
    found = Predictor(model).predict(upright, prompts, mask)
    again = Predictor(model).predict(
        encode_one(model, turned_array(PIXELS, turn)),
        turned_prompts(prompts, turn),
        None if mask is None else turned_array(mask, turn),
    )
    np.testing.assert_allclose(again.scores, found.scores, atol=1e-5)
    np.testing.assert_allclose(again.logits, turned_array(found.logits, turn), atol=1e-3)


@SOME_TURNS
def test_so_are_the_maps(turn: int) -> None:
    torch.manual_seed(0)
    model = seen(8)
    head = DenseHead(model.architecture.embedding_width).eval()
    found, again = (
        DenseMaps.of(model, encode_one(model, pixels), head)
        for pixels in (PIXELS, turned_array(PIXELS, turn))
    )
    for name in ("foreground", "depth", "boundary"):
        expected = turned_array(getattr(found, name), turn)
        np.testing.assert_allclose(getattr(again, name), expected, atol=1e-4)


def test_an_embedding_holds_all_orientations_and_its_key_says_so() -> None:
    one, two = (encode_one(seen(n), PIXELS) for n in (1, 2))
    assert (one.features.shape, two.features.shape) == ((16, 8, 8), (32, 8, 8))
    np.testing.assert_array_equal(two.features[:16], one.features)
    assert (one.key.orientations, two.key.orientations) == (1, 2)
    assert one.key.digest != two.key.digest
    assert "orientations" not in one.key.parts, "stored ones keep their names"


def test_the_built_in_model_looks_twice() -> None:
    assert build("builtin").architecture.orientations == 2
