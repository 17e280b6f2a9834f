"""Automatic segmentation: maps, hypotheses, proposals, their scores and their merging."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.embeddings import (
    Embedding,
    Encoded,
    EncodeRequest,
    encode,
    encode_one,
    tiled_image,
)
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.evaluation import compare_instances
from napari_peftsam.models import SamModel, build, build_tiny
from napari_peftsam.peft import Adapter, FrozenEncoderConfig, capture, inject
from napari_peftsam.segmentation import Predictor, WantedTile
from napari_peftsam.segmentation.automatic import (
    FEATURES,
    DenseMaps,
    Proposal,
    ProposalScorer,
    ScorerPrior,
    TileProposals,
    best_ious,
    click_grid,
    features_of,
    find_hypotheses,
    merge,
    propose_in_frame,
    propose_in_tiles,
)
from napari_peftsam.types import Box, Frame, Prompts, Window

SIDE = 64


@pytest.fixture(scope="module")
def builtin() -> SamModel:
    return build("builtin", "cpu")


def disc(row: float, col: float, radius: float, side: int = SIDE) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (y - row) ** 2 + (x - col) ** 2 <= radius**2


def maps_of(labels: np.ndarray) -> DenseMaps:
    """Return the maps that a perfect head would give."""
    depth = np.zeros(labels.shape, np.float32)
    boundary = np.zeros(labels.shape, np.float32)
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        depth[mask] = (distance / distance.max())[mask]
        boundary[mask & (distance <= 1)] = 1
    height, width = labels.shape
    return DenseMaps(
        (labels > 0).astype(np.float32), depth, boundary, Frame(height, width, max(height, width))
    )


TOUCHING = np.where(disc(32, 20, 12), 1, 0) + np.where(disc(32, 45, 12), 2, 0)


# --- maps ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "maps"),
    [
        pytest.param((120, 90), (120, 90), id="as large as the image"),
        pytest.param((768, 500), (384, 250), id="as large as the frame of a larger image"),
    ],
)
def test_maps_know_no_more_than_the_frame(
    builtin: SamModel, shape: tuple[int, int], maps: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = DenseMaps.of(builtin, encode_one(builtin, pixels))
    for one in (found.foreground, found.depth, found.boundary, found.landscape):
        assert one.shape == maps
        assert one.dtype == np.float32
        assert 0 <= one.min() <= one.max() <= 1


def test_a_model_without_a_head_says_what_to_do(tiny_model: SamModel) -> None:
    pixels = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    with pytest.raises(
        ConfigurationError, match="has no head for automatic segmentation: finetune it"
    ):
        DenseMaps.of(tiny_model, encode_one(tiny_model, pixels))


# --- a coarse grid --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "rows", "cols"),
    [((200, 200), 16, 16), ((100, 200), 8, 16), ((300, 10), 16, 1), ((2, 3), 11, 16)],
)
def test_clicks_are_spread(shape: tuple[int, int], rows: int, cols: int) -> None:
    points = click_grid(Frame(*shape, 384))
    assert len(points) == rows * cols <= 256
    assert (len({p.row for p in points}), len({p.col for p in points})) == (rows, cols)
    middle = np.mean([(p.row, p.col) for p in points], axis=0)
    np.testing.assert_allclose(middle, [(n - 1) / 2 for n in shape])


def test_without_a_head_clicks_find_objects(builtin: SamModel) -> None:
    side = 200
    labels = sum(
        n * disc(*at, 18, side) for n, at in enumerate(((56, 56), (56, 144), (144, 100)), 1)
    )
    pixels = np.where(labels > 0, 200.0, 20.0).astype(np.float32)
    pixels += np.random.default_rng(0).normal(0, 3, labels.shape).astype(np.float32)
    bare = replace(builtin, dense_head=None)
    taken = labels == 1
    found, hypotheses = propose_in_frame(Predictor(bare), encode_one(bare, pixels), taken=taken)
    assert hypotheses.coarse
    masks = np.zeros(labels.shape, np.int32)
    scores = np.array([each.features[0] for each in found])
    merge(found, scores, masks, threshold=0.5)
    for label in range(1, labels.max() + 1):
        under = np.bincount(masks[labels == label])
        assert (under[1:].max(initial=0) > 0.8 * (labels == label).sum()) == (label > 1)


@pytest.mark.parametrize("kind", ["noise", "gradient"])
def test_clicks_invent_next_to_nothing(builtin: SamModel, kind: str) -> None:
    bare, line = replace(builtin, dense_head=None), np.arange(300.0, dtype=np.float32)
    noise = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    pixels = noise if kind == "noise" else np.add.outer(line, line)
    found, _ = propose_in_frame(Predictor(bare), encode_one(bare, pixels))
    scores = ProposalScorer().scores(features_of(found)).iou
    assert np.count_nonzero(scores > AutomaticConfig().threshold) <= 1


# --- hypotheses ---------------------------------------------------------------------


def test_touching_objects_are_two_hypotheses() -> None:
    found = find_hypotheses(maps_of(TOUCHING))
    assert found.boxes.tolist() == [[20, 8, 45, 33], [20, 33, 45, 58]]
    assert [TOUCHING[tuple(point)] for point in found.points] == [1, 2]


def test_prompts_are_in_pixels_of_the_image() -> None:
    first, second = find_hypotheses(maps_of(TOUCHING)).prompts((2.0, 2.0))
    assert first.box == Box(40, 16, 90, 66)
    click, *others = first.points
    assert click.positive
    assert abs(click.row - 64.5) <= 2
    assert [each.positive for each in others] == [False]
    assert (others[0].row, others[0].col) == (second.points[0].row, second.points[0].col)


@pytest.mark.parametrize(
    ("taken", "left"),
    [
        pytest.param(np.zeros_like(TOUCHING, bool), 2, id="nothing is known"),
        pytest.param(TOUCHING == 1, 1, id="one is known"),
        pytest.param(TOUCHING > 0, 0, id="both are known"),
    ],
)
def test_known_objects_are_no_hypotheses(taken: np.ndarray, left: int) -> None:
    assert len(find_hypotheses(maps_of(TOUCHING), taken)) == left


def test_what_is_left_out_is_counted() -> None:
    found = find_hypotheses(maps_of(TOUCHING), at_most=1)
    assert (len(found), found.left_out) == (1, 1)


def test_an_empty_image_has_no_hypothesis() -> None:
    found = find_hypotheses(maps_of(np.zeros((20, 30), int)))
    assert len(found) == 0
    assert found.prompts((1.0, 1.0)) == []


# --- merging ------------------------------------------------------------------------


def proposal(mask: np.ndarray) -> Proposal:
    """Return a proposal whose mask is drawn at the resolution of the image."""
    side = len(mask)
    logits = np.where(mask, 8, -8).astype(np.float16)
    window = Window(0, 0, side, side)
    features = np.zeros(len(FEATURES), np.float32)
    return Proposal(
        Prompts(box=Box(0, 0, 1, 1)), logits, window, Frame(side, side, side), side, features
    )


def square(row: int, col: int, size: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[row : row + size, col : col + size] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "iou"),
    [
        pytest.param(square(0, 0, 10), 1.0, id="all of the first"),
        pytest.param(square(0, 5, 10), 50 / 150, id="half of it"),
        pytest.param(square(0, 8, 10), 20 / 180, id="a part of each"),
        pytest.param(square(40, 40, 4), 0.0, id="nothing"),
    ],
)
def test_the_iou_of_a_proposal_is_that_with_the_best_object(mask: np.ndarray, iou: float) -> None:
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[:10, :10], labels[:20, 16:36] = 7, 70_000
    assert best_ious([proposal(mask)], labels) == pytest.approx([iou])


@pytest.mark.parametrize(
    ("other", "threshold", "kept", "why"),
    [
        pytest.param(square(30, 30, 10), 0.3, (0, 1), None, id="apart"),
        pytest.param(square(0, 9, 10), 0.3, (0, 1), None, id="a tenth is claimed"),
        pytest.param(square(0, 8, 10), 0.3, (0,), "overlapped", id="a fifth is claimed"),
        pytest.param(square(30, 30, 10), 0.6, (0,), "below", id="of a low score"),
        pytest.param(square(30, 30, 4), 0.3, (0,), "too_small", id="too small"),
    ],
)
def test_proposals_claim_free_pixels_by_score(
    other: np.ndarray, threshold: float, kept: tuple[int, ...], why: str | None
) -> None:
    labels = np.zeros((SIDE, SIDE), np.int32)
    both = [proposal(square(0, 0, 10)), proposal(other)]
    found = merge(both, np.array([0.9, 0.5]), labels, threshold=threshold)
    assert found.kept == kept
    for reason in ("below", "overlapped", "too_small"):
        assert getattr(found, reason) == ((1,) if reason == why else ())
    assert (labels == 1).sum() == 100
    assert set(labels.ravel().tolist()) == {0, *range(1, len(kept) + 1)}


def test_objects_that_are_there_stay_as_they_are() -> None:
    before = np.where(square(0, 0, 10), 7, 0).astype(np.int32)
    labels = before.copy()
    merge([proposal(square(0, 9, 10))], np.ones(1), labels, threshold=0.5, first=8)
    assert np.array_equal(labels[before > 0], before[before > 0])
    assert (labels == 8).sum() == 90


def test_a_part_of_the_plane_gets_what_lies_in_it() -> None:
    labels = np.zeros((20, 20), np.int32)
    merge([proposal(square(5, 5, 10))], np.ones(1), labels, threshold=0.5, corner=(10, 10))
    assert np.array_equal(labels > 0, square(5, 5, 10)[10:30, 10:30])


# --- scores -------------------------------------------------------------------------


def plain_prior(value: float = 0.5) -> ScorerPrior:
    """Return a prior that expects the same of everything."""
    count = len(FEATURES)
    bias = np.full(2, np.log(value / (1 - value)))
    return ScorerPrior(
        {
            "mean": np.zeros(count),
            "deviation": np.ones(count),
            "weight0": np.zeros((count, 2)),
            "bias0": bias,
        }
    )


def drawn(count: int, offset: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(offset, 1, (count, len(FEATURES)))


def test_without_judgements_the_prior_speaks() -> None:
    scores = ProposalScorer(plain_prior(0.7)).scores(drawn(5, 0))
    assert scores.iou == pytest.approx(np.full(5, 0.7))
    assert scores.uncertainty.tolist() == [1] * 5


def test_judgements_order_what_is_alike() -> None:
    good, bad = drawn(40, 1), drawn(40, -1, 1)
    scorer = ProposalScorer(plain_prior())
    scorer = scorer.judged(good[:20], np.ones(20)).judged(bad[:20], np.zeros(20))
    found = [scorer.scores(each[20:]).iou.mean() for each in (good, bad)]
    assert found[0] > 0.65
    assert found[1] < 0.35


def test_one_judgement_changes_little() -> None:
    features = drawn(1, 0)
    scorer = ProposalScorer(plain_prior()).judged(features, np.zeros(1))
    assert 0.4 < scorer.scores(features).iou[0] < 0.5


def judged_adapter(features: np.ndarray, ious: np.ndarray) -> Adapter:
    return capture(inject(build_tiny(), FrozenEncoderConfig())).with_judged(features, ious)


def test_an_adapter_brings_judgements_along() -> None:
    features = drawn(50, 0)
    scorer = ProposalScorer.of(judged_adapter(features, np.zeros(50)))
    before, after = (each.scores(features).iou for each in (ProposalScorer(), scorer))
    assert after.mean() < 0.5 * before.mean()


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param(None, id="no adapter"),
        pytest.param(judged_adapter(drawn(0, 0), np.zeros(0)), id="nothing was judged"),
        pytest.param(judged_adapter(drawn(5, 0)[:, 1:], np.zeros(5)), id="of other features"),
    ],
)
def test_without_judgements_of_use_the_shipped_scorer_speaks(adapter: Adapter | None) -> None:
    assert not len(ProposalScorer.of(adapter).ious)


def test_a_proposal_that_is_judged_again_counts_once() -> None:
    features = drawn(3, 0)
    brought = ProposalScorer.of(judged_adapter(features, np.ones(3)))
    assert brought.judged(features[1:], np.zeros(2)).ious.tolist() == [1, 0, 0]


def test_what_is_unlike_all_judged_is_uncertain() -> None:
    scorer = ProposalScorer(plain_prior()).judged(drawn(50, 0), np.ones(50))
    near, far = (scorer.scores(drawn(20, at, 2)).uncertainty.mean() for at in (0, 5))
    assert near < far


# --- whole images -------------------------------------------------------------------


def discs(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of bright discs, a bit of noise, and its labels."""
    y, x = np.mgrid[:height, :width]
    pixels = np.full((height, width), 20.0, np.float32)
    true = np.zeros(pixels.shape, np.int32)
    middles = ((r, c) for r in range(40, height - 20, 80) for c in range(40, width - 20, 80))
    for number, (row, col) in enumerate(middles, start=1):
        inside = (y - row) ** 2 + (x - col) ** 2 <= 14**2
        pixels[inside], true[inside] = 200, number
    pixels += np.random.default_rng(0).normal(0, 3, pixels.shape).astype(np.float32)
    return pixels, true


def segmented(model: SamModel, pixels: np.ndarray) -> np.ndarray:
    embedding = encode_one(model, pixels)
    proposals, _ = propose_in_frame(Predictor(model), embedding)
    labels = np.zeros(pixels.shape[:2], np.int32)
    merge(proposals, ProposalScorer().scores(features_of(proposals)).iou, labels, threshold=0.5)
    return labels


def test_discs_are_found(builtin: SamModel) -> None:
    pixels, true = discs(256, 256)
    assert compare_instances(true, segmented(builtin, pixels)).ap50 > 0.9


Y, X = np.mgrid[:256, :256]


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.random.default_rng(0).normal(size=(256, 256)), id="noise"),
        pytest.param((X + Y).astype(np.float32), id="gradient"),
        pytest.param(np.hypot(X - 128, Y - 128), id="uneven light"),
        pytest.param(
            ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(256, 256)), 3),
            id="clouds",
        ),
    ],
)
def test_nothing_is_invented_where_nothing_is(builtin: SamModel, pixels: np.ndarray) -> None:
    assert len(np.unique(segmented(builtin, pixels.astype(np.float32)))) - 1 <= 1


# --- tiles --------------------------------------------------------------------------


def test_each_object_of_a_large_image_is_proposed_by_one_tile(builtin: SamModel) -> None:
    pixels, true = discs(320, 1600)
    image = tiled_image("slide", pixels, builtin)
    assert len(image.grid) > 1
    labels = np.zeros(pixels.shape, np.int32)
    work = propose_in_tiles(Predictor(builtin), image)
    tiles, first, answer = 0, 1, None
    while (event := advance(work, answer)) is not None:
        answer = None
        if isinstance(event, WantedTile):
            answer = embedded(builtin, image.request(event.tile))
            continue
        tiles += 1
        scores = ProposalScorer().scores(features_of(event.proposals)).iou
        first += len(merge(event.proposals, scores, labels, threshold=0.5, first=first).kept)
    assert tiles == len(image.grid)
    found = compare_instances(true, labels)
    assert found.ap50 > 0.9
    assert found.split == 0


def advance(work: Generator, answer: Embedding | None) -> WantedTile | TileProposals | None:  # type: ignore[type-arg]
    try:
        found: WantedTile | TileProposals = work.send(answer)
    except StopIteration:
        return None
    return found


def embedded(model: SamModel, request: EncodeRequest) -> Embedding:
    [found] = [e.embedding for e in encode(model, [request]) if isinstance(e, Encoded)]
    return found
