"""Clicks-to-IoU: the logic with an oracle, the whole with a real tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from napari_peftsam.embeddings import Embedding, EmbeddingKey, EmbeddingStore, encode_one
from napari_peftsam.errors import ImageError, LabelError
from napari_peftsam.evaluation import (
    Candidates,
    EvaluationConfig,
    EvaluationProgress,
    EvaluationReport,
    Target,
    box_ious,
    click_ious,
    clicks_to_reach,
    evaluate,
    first_candidates,
    given_ious,
)
from napari_peftsam.geometry import iou
from napari_peftsam.models import build_tiny
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import Box, FloatArray, Frame, Point, Prediction, Prompts

SHAPE = (40, 50)
LABELS = np.zeros(SHAPE, np.uint16)
LABELS[2:12, 3:13] = 4  # 100 pixels
LABELS[20:30, 10:30] = 900  # 200 pixels
LABELS[35:37, 40:42] = 2  # 4 pixels: too small
LABELS[0:8, 40:50] = 11  # 80 pixels, at the image's corner
PIXELS = np.random.default_rng(0).integers(0, 99, SHAPE) + 100 * (LABELS > 0)
FEATURES = np.zeros((1, 8, 8), np.float32)
EMBEDDING = Embedding(EmbeddingKey("", "", "", "", 64, "fp32"), Frame(*SHAPE, 64), FEATURES)
KEYS = [
    "images",
    "objects",
    "skipped_small",
    "point_iou",
    "box_iou",
    "ip_iou",
    "ib_iou",
    "iou_at_clicks",
    "noc80",
    "noc85",
    "noc90",
    "score_correlation",
    "score_ranking",
    "area_ranking",
    "intervals",
    "per_image",
]
FIGURES = ["point_iou", "box_iou", "ip_iou", "ib_iou", "noc80", "noc85", "noc90"]


class Oracle:
    """Knows the object at the first click or box and shows a quarter more of it per click."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels
        self.asked: list[tuple[list[Prompts], list[bool]]] = []

    def predict_many(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompts],
        previous: Sequence[FloatArray | None] | None = None,
        candidates: int = 3,
    ) -> list[Prediction]:
        fed_back = [p is not None for p in previous or [None] * len(prompts)]
        self.asked.append((list(prompts), fed_back))
        return [self._answer(p) for p in prompts]

    def _answer(self, prompts: Prompts) -> Prediction:
        if prompts.box is not None:
            row, col = prompts.box.row0, prompts.box.col0
        else:
            row, col = prompts.points[0].row, prompts.points[0].col
        mask = self.labels == self.labels[int(row), int(col)]
        rows = np.flatnonzero(mask.any(axis=1))
        quarters = 4 if prompts.box is not None else min(4, len(prompts.points) + 1)
        mask[rows[0] + len(rows) * quarters // 4 :] = False
        return Prediction(mask[None], np.ones(1, np.float32), np.zeros((1, 16, 16), np.float32))


def targets(*labels: int) -> list[Target]:
    return [Target.from_mask(label == LABELS) for label in labels]


def test_clicks_go_on_until_the_mask_is_right() -> None:
    oracle = Oracle(LABELS)
    curves = np.stack(list(click_ious(oracle, EMBEDDING, targets(900, 11), 5)), axis=1)
    np.testing.assert_allclose(curves, [[0.5, 0.7, 1, 1, 1], [0.5, 0.75, 1, 1, 1]])
    # Two objects share every question; nobody is asked about a perfect mask.
    assert [len(prompts) for prompts, _ in oracle.asked] == [2, 2, 2, 0, 0]
    assert [fed_back for _, fed_back in oracle.asked[:2]] == [[False] * 2, [True] * 2]
    for prompts in oracle.asked[2][0]:
        assert [p.positive for p in prompts.points] == [True] * 3


def test_enough_is_enough() -> None:
    oracle = Oracle(LABELS)
    curves = np.stack(list(click_ious(oracle, EMBEDDING, targets(900, 11), 3, enough=0.72)), axis=1)
    np.testing.assert_allclose(curves, [[0.5, 0.7, 1], [0.5, 0.75, 0.75]])


@pytest.mark.parametrize(
    ("prompts", "ious"),
    [
        pytest.param(Prompts((Point(25, 12),)), [0.5], id="a click"),
        pytest.param(Prompts((Point(25, 12), Point(28, 12), Point(29, 12))), [0.5, 0.7, 1],
                     id="clicks in their order"),
        pytest.param(Prompts(box=Box(20, 10, 30, 30)), [1], id="a box"),
        pytest.param(Prompts((Point(25, 12),), Box(20, 10, 30, 30)), [1, 1], id="box, then click"),
        pytest.param(Prompts((Point(25, 12),) * 50), [0.5, *[1] * 7], id="a scribble"),
        pytest.param(Prompts(), [], id="nothing"),
    ],
)  # fmt: skip
def test_a_persons_prompts_are_repeated_as_they_grew(prompts: Prompts, ious: list[float]) -> None:
    oracle = Oracle(LABELS)
    others = Prompts((Point(5, 45),))
    found = given_ious(oracle, EMBEDDING, targets(900, 11), [prompts, others])
    assert [list(each) for each in found] == [ious, [0.5]]


def test_boxes_are_tight() -> None:
    oracle = Oracle(LABELS)
    assert box_ious(oracle, EMBEDDING, targets(4, 11)).tolist() == [1.0, 1.0]
    [(prompts, _)] = oracle.asked
    assert [p.box.as_tuple() for p in prompts if p.box] == [(2, 3, 12, 13), (0, 40, 8, 50)]


@pytest.mark.parametrize(
    ("curve", "threshold", "clicks"),
    [
        pytest.param([0.9, 0.2, 0.2], 0.9, 1, id="at once"),
        pytest.param([0.1, 0.95, 0.2], 0.9, 2, id="the first time counts"),
        pytest.param([0.1, 0.2, 0.9], 0.9, 3, id="at last"),
        pytest.param([0.1, 0.2, 0.8], 0.9, 3, id="never: all clicks"),
    ],
)
def test_clicks_to_reach(curve: list[float], threshold: float, clicks: int) -> None:
    assert clicks_to_reach(np.array([curve]), threshold).tolist() == [clicks]


@pytest.mark.parametrize(
    ("scores", "ious", "correlation", "ranking"),
    [
        pytest.param([[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [1, 2, 3]], 1, 1, id="in order"),
        pytest.param([[3, 2, 1], [3, 2, 1]], [[1, 2, 3], [1, 2, 3]], -1, -1, id="reversed"),
        pytest.param([[1, 2], [11, 12]], [[12, 11], [2, 1]], -1, -1, id="two objects"),
        pytest.param(
            [[1, 2], [11, 12]], [[2, 1], [12, 11]], 0.98, -1, id="objects, not candidates"
        ),
        pytest.param([[1, 1], [1, 1]], [[1, 2], [2, 3]], None, None, id="scores all equal"),
        pytest.param([[1], [2]], [[1], [2]], 1, None, id="one candidate"),
    ],
)
def test_scores_are_compared_with_the_truth(
    scores: list[list[float]],
    ious: list[list[float]],
    correlation: float | None,
    ranking: float | None,
) -> None:
    values, truth = np.array(scores, float), np.array(ious, float)
    candidates = Candidates(scores=values, areas=-values, ious=truth)
    assert candidates.score_correlation == pytest.approx(correlation, abs=0.005)
    assert candidates.score_ranking == pytest.approx(ranking)
    assert candidates.area_ranking == pytest.approx(None if ranking is None else -ranking)


def test_candidates_are_those_of_the_first_click() -> None:
    model = build_tiny()
    embedding, predictor = encode_one(model, PIXELS), Predictor(model)
    found = first_candidates(predictor, embedding, targets(4, 900))
    for row, label in enumerate((4, 900)):
        click = Prompts((Target.from_mask(label == LABELS).first_click(),))
        prediction = predictor.predict(embedding, click)
        np.testing.assert_allclose(found.scores[row], prediction.scores, atol=1e-5)
        assert found.areas[row].tolist() == [mask.sum() for mask in prediction.masks]
        expected = [iou(mask, label == LABELS) for mask in prediction.masks]
        np.testing.assert_allclose(found.ious[row], expected)


def run(**options: int) -> EvaluationReport:
    pairs = [("a", PIXELS, LABELS), ("b", PIXELS[::-1], LABELS[::-1])]
    *_, report = evaluate(build_tiny(), pairs, EvaluationConfig(clicks=3, **options))
    assert isinstance(report, EvaluationReport)
    return report


def test_report_has_its_keys_and_is_json_ready() -> None:
    report = run()
    figures = json.loads(json.dumps(report.to_dict()))
    assert list(figures) == KEYS
    assert (figures["images"], figures["objects"], figures["skipped_small"]) == (2, 6, 2)
    assert len(figures["iou_at_clicks"]) == 3
    assert figures["point_iou"] == figures["iou_at_clicks"][0]
    assert 0 <= figures["box_iou"] <= 1
    assert 1 <= figures["noc80"] <= figures["noc85"] <= figures["noc90"] <= 3
    assert list(figures["intervals"]) == FIGURES
    for name, (low, high) in figures["intervals"].items():
        assert low <= figures[name] <= high
    assert [list(image) for image in figures["per_image"]] == [
        ["name", "objects", *FIGURES, "intervals"]
    ] * 2
    for name in FIGURES:
        means = [image[name] for image in figures["per_image"]]
        assert np.mean(means) == pytest.approx(figures[name]), "both have as many objects"


def test_iterative_prompting_is_a_first_prompt_and_corrections() -> None:
    once, thrice = run(rounds=1), run(rounds=3)
    assert (once.ip_iou, once.ib_iou) == (once.point_iou, once.box_iou)
    assert thrice.ip_iou == thrice.iou_at_clicks[2]
    assert thrice.ib_iou != thrice.box_iou
    assert once.iou_at_clicks == thrice.iou_at_clicks


def test_a_single_object_has_no_interval() -> None:
    report = run(max_objects=1)
    assert set(report.intervals.values()) == {None}
    assert report.per_image[0].intervals == report.intervals


def test_ten_clicks_are_the_default() -> None:
    *_, report = evaluate(build_tiny(), [("a", PIXELS, LABELS)])
    assert isinstance(report, EvaluationReport)
    assert len(report.iou_at_clicks) == 10


def test_the_same_seed_gives_the_same_figures() -> None:
    assert run(max_objects=3, seed=1) == run(max_objects=3, seed=1)
    assert run(max_objects=3).objects == 3
    assert run(max_objects=99) == run()
    samples = {run(max_objects=2, seed=seed) for seed in range(4)}
    assert len(samples) > 1, "the seed chooses the objects"


@pytest.mark.parametrize(
    ("masks", "batches"),
    [
        pytest.param(2, {1}, id="less than one object"),
        pytest.param(6, {2, 1}, id="two objects"),
        pytest.param(99, {3}, id="all"),
    ],
)
def test_masks_of_a_batch_are_bounded(
    masks: int, batches: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Watched(Predictor):
        def predict_many(self, *arguments, **options):  # type: ignore[no-untyped-def]
            found = super().predict_many(*arguments, **options)
            asked.append(len(found))
            assert sum(p.masks.nbytes for p in found) <= max(masks, 3) * PIXELS.size
            return found

    # The package has a function of the module's name.
    module = sys.modules["napari_peftsam.evaluation.evaluate"]
    monkeypatch.setattr(module, "_MASK_BYTES", masks * PIXELS.size)
    monkeypatch.setattr(module, "Predictor", Watched)
    list(evaluate(build_tiny(), [("a", PIXELS, LABELS)], EvaluationConfig(clicks=1)))
    assert set(asked) == batches


def test_point_and_box_figures_are_those_of_the_predictor() -> None:
    model = build_tiny()
    embedding, predictor = encode_one(model, PIXELS), Predictor(model)
    chosen = targets(4, 11, 900)
    points = [iou(predictor.predict(embedding, Prompts((t.first_click(),))).masks[0], n == LABELS)
              for t, n in zip(chosen, (4, 11, 900), strict=True)]  # fmt: skip
    *_, report = evaluate(model, [("a", PIXELS, LABELS)], EvaluationConfig(clicks=1))
    assert isinstance(report, EvaluationReport)
    assert report.point_iou == pytest.approx(np.mean(points), abs=1e-3)


def test_events_progress_and_can_be_stopped(tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = EmbeddingStore(tmp_path)
    pairs = [("a", PIXELS, LABELS), ("b", PIXELS[::-1], LABELS[::-1])]
    events = list(evaluate(build_tiny(), iter(pairs), EvaluationConfig(clicks=2), store=store))
    *_, report = events
    assert isinstance(report, EvaluationReport)
    assert (report.images, report.objects, report.skipped_small) == (2, 6, 2)
    progress = [e for e in events if isinstance(e, EvaluationProgress)]
    fractions = [e.fraction for e in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert list(dict.fromkeys(e.name for e in progress)) == ["a", "b"]
    assert store.size_bytes() > 0
    stream = evaluate(build_tiny(), pairs)
    next(stream)
    next(stream)
    stream.close()


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        pytest.param([], LabelError, "no labelled image", id="no image"),
        pytest.param([("a", PIXELS, LABELS * 0)], LabelError, "has an object", id="no object"),
        pytest.param(
            [("a", PIXELS, np.where(LABELS == 2, 2, 0))], LabelError, "smaller than 25", id="small"
        ),
        pytest.param([("a", PIXELS, LABELS[:9])], LabelError, "a: .*do not fit", id="shape"),
        pytest.param([("a", PIXELS, LABELS * 1.0)], LabelError, "whole numbers", id="float labels"),
        pytest.param([("a", PIXELS, -LABELS.astype(int))], LabelError, "negative", id="negative"),
        pytest.param([("dark", PIXELS * 0, LABELS)], ImageError, "dark: .*constant", id="constant"),
    ],
)
def test_unusable_data_is_told(pairs: list, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(evaluate(build_tiny(), pairs, EvaluationConfig(clicks=1)))
