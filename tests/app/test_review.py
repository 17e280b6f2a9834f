"""Suggestions: found by the model, reviewed by score, and what each judgement teaches."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import napari_peftsam as ps
from napari_peftsam.app.review import Expected, ReviewController, above, expected_precision
from napari_peftsam.app.runner import InlineRunner
from napari_peftsam.app.runner import run as run_inline
from napari_peftsam.app.suggest_run import SuggestController
from napari_peftsam.app.suggesting import (
    Searched,
    SuggestOptions,
    least_area,
    planes_of_queue,
    project_scorer,
    propose_plane,
)
from napari_peftsam.document import Document, NewProposal, PaintBackground
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.peft import FrozenEncoderConfig, LoraConfig, capture, inject, save_adapter
from napari_peftsam.segmentation.automatic import FEATURES, ProposalScorer, ScorerPrior
from napari_peftsam.types import Box, Window

COUNT = len(FEATURES)
MIDDLES = [(row, col) for row in (40, 120) for col in (40, 120, 200)]


def first_feature() -> ProposalScorer:
    """Return a scorer that expects what the decoder predicts, and no more."""
    weight = np.zeros((COUNT, 2))
    weight[0] = 6.0
    tensors = {
        "mean": np.zeros(COUNT), "deviation": np.ones(COUNT), "weight0": weight,
        "bias0": np.full(2, -3.0),
    }  # fmt: skip
    return ProposalScorer(ScorerPrior(tensors))


def discs() -> tuple[np.ndarray, np.ndarray]:
    """Return bright discs on dark ground, and their labels."""
    y, x = np.mgrid[:160, :240]
    labels = np.zeros((160, 240), np.int32)
    for number, (row, col) in enumerate(MIDDLES, start=1):
        labels[(y - row) ** 2 + (x - col) ** 2 <= 14**2] = number
    pixels = np.where(labels > 0, 200.0, 20.0) + np.random.default_rng(0).normal(0, 3, labels.shape)
    return pixels.astype(np.float32), labels


@pytest.fixture(scope="module")
def started() -> ps.App:
    app = ps.App()
    app.load_model("builtin", "cpu")
    return app


@pytest.fixture
def image(started: ps.App) -> ps.ProjectImage:
    for known in started.images.values():
        started.document.do(ps.RemoveImage(known.id))
    return started.add_image(discs()[0], "discs")


def at(image: ps.ProjectImage, row: int, col: int) -> int:
    """Return the proposal at a pixel."""
    plane = ps.PlaneKey(image.id)
    return int(document_of(image).labels(plane, PROPOSALS)[row, col])


def document_of(image: ps.ProjectImage) -> Document:
    return image._app.document


# --- in Python ----------------------------------------------------------------------


def test_the_rest_is_proposed(image: ps.ProjectImage) -> None:
    _, true = discs()
    image.prompt(box=(24, 24, 56, 56))
    image.accept()
    before = image.labels.copy()
    found = image.segment(scorer=first_feature())
    assert [each.score for each in found] == sorted((e.score for e in found), reverse=True)
    assert all(at(image, *middle) for middle in MIDDLES[1:])
    assert not at(image, *MIDDLES[0])
    np.testing.assert_array_equal(image.labels, before)
    labels = image.accept_proposals(eager=0.6, scorer=first_feature())
    assert len(labels) == len(set(labels)) >= 5
    for number, middle in enumerate(MIDDLES, start=1):
        mine = image.labels == image.labels[middle]
        both = np.count_nonzero(mine & (true == number))
        assert both / np.count_nonzero(mine | (true == number)) > 0.7
    np.testing.assert_array_equal(image.labels[before > 0], before[before > 0])
    assert document_of(image).undo_label == f"accept {len(labels)} proposals"


def test_nothing_is_proposed_where_background_is_declared(image: ps.ProjectImage) -> None:
    _, true = discs()
    document_of(image).do(PaintBackground(image.id, np.flatnonzero(true == 2)))
    image.segment(scorer=first_feature())
    assert not at(image, *MIDDLES[1])
    assert at(image, *MIDDLES[2])


@pytest.mark.parametrize(
    ("options", "found"),
    [
        pytest.param(SuggestOptions(), True, id="any"),
        pytest.param(SuggestOptions(fast=True), True, id="fast"),
        pytest.param(SuggestOptions(whole=True), True, id="whole ones"),
        pytest.param(SuggestOptions(largest=300), False, id="small ones"),
    ],
)
def test_what_is_looked_for(image: ps.ProjectImage, options: SuggestOptions, found: bool) -> None:
    image.segment(options=options, scorer=first_feature())
    assert bool(at(image, *MIDDLES[0])) == found


def test_objects_at_the_border_can_be_left_out(started: ps.App, image: ps.ProjectImage) -> None:
    cut = started.add_image(discs()[0][36:], "cut")
    cut.segment(scorer=first_feature())
    assert at(cut, 2, 40)
    cut.segment(options=SuggestOptions(whole=True), scorer=first_feature())
    assert not at(cut, 2, 40)
    assert at(cut, 84, 40)


def test_a_model_without_a_head_looks_at_a_grid_of_clicks(app: ps.App) -> None:
    holder, ends = Holder(app, app.images["discs"]), list[str]()
    run = SuggestController(holder, holder, InlineRunner(), first_feature())
    run.events.ended.connect(ends.append)
    run.suggest()
    assert "from a coarse grid of clicks" in ends[0]
    assert "Accept 5 objects and train" in ends[0]


# --- a run --------------------------------------------------------------------------


class Holder:
    """A workspace with a model, and the plane that is shown."""

    loading = error = ""
    has_model = True
    visible = None

    def __init__(self, app: ps.App, image: ps.ProjectImage) -> None:
        self.workspace, self.document = app.workspace, app.document
        self.plane = ps.PlaneKey(image.id)


class Stepwise:
    """A runner that runs one event at a time."""

    def start(self, work: Any, *, on_event: Any, on_done: Any, on_error: Any) -> Stepwise:
        self.work: Generator[Any, None, Any] = work
        self.on_event, self.on_done, self.on_error = on_event, on_done, on_error
        self.is_running = True
        return self

    def cancel(self) -> None:
        self.is_running = False
        self.work.close()

    def wait(self, timeout: float) -> bool:
        return True

    def step(self) -> object:
        """Run to the next event and return it, None at the end."""
        try:
            event = next(self.work)
        except StopIteration as end:
            self.is_running = False
            self.on_done(end.value)
            return None
        self.on_event(event)
        return event

    def to_a_tile(self) -> None:
        while not isinstance(self.step(), Searched):
            pass


def reviewed(
    started: ps.App, image: ps.ProjectImage, runner: Any = None
) -> tuple[SuggestController, ReviewController, list[str]]:
    holder, hints = Holder(started, image), list[str]()
    run = SuggestController(holder, holder, runner or InlineRunner(), first_feature())
    review = ReviewController(holder, holder, run)
    review.events.hint.connect(hints.append)
    run.events.ended.connect(hints.append)
    return run, review, hints


def test_a_run_is_one_step_and_says_how_it_ended(started: ps.App, image: ps.ProjectImage) -> None:
    run, review, hints = reviewed(started, image)
    run.suggest()
    assert not run.is_running
    assert started.document.undo_label == f"suggest {len(review.expected)} objects"
    assert hints[0].startswith(f"Suggested {len(review.expected)} objects")
    started.undo()
    assert review.expected == {}


def test_a_part_is_looked_at_alone(started: ps.App, image: ps.ProjectImage) -> None:
    run, _, _ = reviewed(started, image)
    run.suggest()
    kept = at(image, *MIDDLES[-1])
    run.suggest(part=Window(0, 0, 80, 80))
    assert at(image, *MIDDLES[0]) > max(kept, at(image, *MIDDLES[1]))
    assert at(image, *MIDDLES[-1]) == kept


def test_all_images_that_are_not_done(started: ps.App, image: ps.ProjectImage) -> None:
    other = started.add_image(discs()[0][:, ::-1].copy(), "mirrored")
    done = started.add_image(discs()[0], "done")
    started.document.do(ps.MarkComplete(done.id))
    stack = started.add_image(np.zeros((2, 32, 32), np.uint8), "stack")
    started.document.do(ps.MarkComplete(stack.id, ps.CompleteRegion((0,))))
    planes = planes_of_queue(started.document)
    assert planes == (
        ps.PlaneKey(image.id), ps.PlaneKey(other.id), ps.PlaneKey(stack.id, (1,))
    )  # fmt: skip
    run, _, hints = reviewed(started, image)
    run.suggest(planes[:2])
    assert at(image, *MIDDLES[0])
    assert at(other, 40, 199)
    assert len(hints) == 1


def test_accepting_while_tiles_stream_is_safe(started: ps.App, image: ps.ProjectImage) -> None:
    runner = Stepwise()
    run, _, _ = reviewed(started, image, runner)
    run.suggest()
    runner.to_a_tile()
    mine = np.zeros((160, 240), np.bool_)
    mine[24:57, 24:57] = True
    started.document.do(
        ps.AcceptObjects(ps.PlaneKey(image.id), (ps.NewObject(ps.Prompts(), mine),))
    )
    while runner.is_running:
        runner.step()
    assert not at(image, *MIDDLES[0])
    assert at(image, *MIDDLES[1])
    np.testing.assert_array_equal(image.labels == 1, mine)


def test_what_was_found_until_the_stop_is_shown(started: ps.App, image: ps.ProjectImage) -> None:
    runner = Stepwise()
    run, _, hints = reviewed(started, image, runner)
    run.suggest()
    runner.to_a_tile()
    run.stop()
    assert not run.is_running
    assert at(image, *MIDDLES[0])
    assert hints[0].startswith("Stopped. Suggested")
    run.suggest()
    run.stop()
    assert hints[1] == "Stopped. Suggested nothing"


def test_another_model_begins_the_plane_again(started: ps.App, image: ps.ProjectImage) -> None:
    runner = Stepwise()
    run, _, hints = reviewed(started, image, runner)
    run.suggest()
    runner.step()
    run.model_changed()  # the list of adapters changed, the live one did not
    assert run.is_running
    started.load_model("builtin", "cpu")
    run.model_changed()
    while runner.is_running:
        runner.step()
    assert not run.is_running
    assert at(image, *MIDDLES[0])
    assert len(hints) == 1
    assert hints[0].startswith("Suggested")


@pytest.mark.parametrize("how", ["removed", "other pixels"])
def test_an_image_that_changes_ends_the_run(
    started: ps.App, image: ps.ProjectImage, how: str
) -> None:
    runner = Stepwise()
    run, _, hints = reviewed(started, image, runner)
    run.suggest()
    runner.to_a_tile()
    if how == "removed":
        started.document.do(ps.RemoveImage(image.id))
    else:
        started.document.replace_pixels(image.id, np.zeros((160, 240), np.float32))
    assert not run.is_running
    assert hints == ["The image has changed. Suggested nothing"]


# --- the review ---------------------------------------------------------------------


def test_the_slider_hides_without_a_new_run(started: ps.App, image: ps.ProjectImage) -> None:
    run, review, _ = reviewed(started, image)
    run.suggest()
    numbers = []
    for eager in (1.0, 0.4, 0.2, 0.0):
        review.eager = eager
        assert all(each.score >= 1 - eager for each in review.visible.values())
        numbers.append(len(review.visible))
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] == len(review.expected)
    assert numbers[-1] == 0


def test_judgements_go_on_to_the_next_and_change_what_is_expected(
    started: ps.App, image: ps.ProjectImage
) -> None:
    run, review, hints = reviewed(started, image)
    run.suggest()
    review.eager = 1.0
    review.accept()  # shows the first
    first, before = review.current, dict(review.expected)
    assert first == max(before, key=lambda n: before[n].doubt)
    assert started.document.records(image.id) == ()
    review.reject("wrong outline")
    assert review.current not in {0, first}
    assert review.expected.keys() == before.keys() - {first}
    after = review.expected
    assert all(after[n].score <= before[n].score for n in after)
    assert any(after[n].uncertainty < 1 for n in after)
    assert review.precision.judged == 1
    while review.current:
        review.accept()
    assert not review.expected
    review.next()
    assert hints[-1].startswith("No proposal is left")


def test_the_nearest_comes_first_where_the_mouse_is(
    started: ps.App, image: ps.ProjectImage
) -> None:
    run, review, _ = reviewed(started, image)
    run.suggest()
    review.eager = 1.0
    assert review.next(near=(118.0, 205.0)) == at(image, 120, 200)
    review.accept()
    assert review.current in {at(image, 120, 120), at(image, 40, 200)}


def test_a_proposal_is_opened_with_its_prompts(started: ps.App, image: ps.ProjectImage) -> None:
    run, review, hints = reviewed(started, image)
    run.suggest()
    number = review.proposal_at(*MIDDLES[0])
    review.open(number)
    (prompts,) = started.document.queue
    assert prompts == review.records[number].prompts
    assert isinstance(prompts.box, Box)
    image.accept()
    assert number not in review.expected
    assert started.document.image(image.id).proposals[number].iou > 0.8
    assert len(hints) == 1  # that of the run


def test_a_click_says_why_nothing_was_proposed(started: ps.App, image: ps.ProjectImage) -> None:
    run, review, hints = reviewed(started, image)
    run.suggest()
    started.document.do(ps.AddPoint(ps.PlaneKey(image.id), ps.Point(80.0, 80.0)))
    assert "Not suggested" in hints[-1]
    started.document.do(ps.Discard())
    review.eager = 0.0
    started.document.do(ps.AddPoint(ps.PlaneKey(image.id), ps.Point(*map(float, MIDDLES[0]))))
    assert "below the slider" in hints[-1]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("rejected", id="it was rejected"),
        pytest.param("outside", id="nobody looked there"),
    ],
)
def test_no_reason_is_given_where_none_is_known(
    started: ps.App, image: ps.ProjectImage, how: str
) -> None:
    run, review, hints = reviewed(started, image)
    run.suggest(part=Window(0, 0, 60, 60) if how == "outside" else None)
    clicked = MIDDLES[-1] if how == "outside" else MIDDLES[0]
    if how == "rejected":
        review.current = review.proposal_at(*clicked)
        review.reject("nothing here")
    count = len(hints)
    started.document.do(ps.AddPoint(ps.PlaneKey(image.id), ps.Point(*map(float, clicked))))
    assert len(hints) == count


# --- what is expected ---------------------------------------------------------------


def judged_document(*pairs: tuple[float, bool]) -> Document:
    """Return a document with judged proposals: the score of each, and whether it was right."""
    document = Document()
    image = document.add_image("cells", np.zeros((8, 400), np.uint8))
    plane = ps.PlaneKey(image)
    mask = np.ones((4, 4), np.bool_)
    found = [
        NewProposal(ps.Prompts(), mask, (0, 5 * n), score, (score,) * COUNT)
        for n, (score, _) in enumerate(pairs)
    ]
    document.do(ps.Suggest(plane, tuple(found)))
    for number, (_, right) in enumerate(pairs, start=1):
        accept = ps.AcceptProposals(plane, (number,))
        document.do(accept if right else ps.RejectProposals(plane, (number,), "wrong outline"))
    return document


@pytest.mark.parametrize(
    ("pairs", "threshold", "rate", "low", "high"),
    [
        pytest.param([(0.9, True)] * 9 + [(0.9, False)], 0.5, 0.9, 0.596, 0.982, id="of ten"),
        pytest.param([(0.9, True), (0.3, False)], 0.5, 1.0, 0.207, 1.0, id="above the slider"),
        pytest.param([(0.9, True), (0.3, False)], 0.2, 0.5, 0.095, 0.905, id="of both"),
        pytest.param([], 0.5, 0.75, 0.0, 1.0, id="nothing is judged"),
    ],
)
def test_the_expected_precision_is_that_of_the_judged(
    pairs: list[tuple[float, bool]], threshold: float, rate: float, low: float, high: float
) -> None:
    shown = [Expected(0.7, 0.8, 1.0), Expected(0.6, 0.7, 1.0)]
    found = expected_precision(judged_document(*pairs), shown, threshold)
    assert (found.rate, found.low, found.high) == pytest.approx((rate, low, high), abs=5e-3)
    assert f"{rate:.0%} right" in found.text


def test_the_scorer_learns_from_all_judgements() -> None:
    pairs = [(0.9, False)] * 10 + [(0.4, True)] * 10
    scorer = project_scorer(judged_document(*pairs), first_feature())
    features = np.array([[0.9] * COUNT, [0.4] * COUNT])
    before, after = (s.scores(features).iou for s in (first_feature(), scorer))
    assert after[0] < before[0]
    assert after[0] - after[1] < before[0] - before[1]


def test_the_smallest_object_follows_the_known_ones() -> None:
    document = judged_document(*[(0.9, True)] * 3)
    image = next(iter(document.images.values()))
    assert least_area(image, "") == 4
    assert least_area(image, "class nucleus") == 25


def test_proposals_are_ordered_by_score() -> None:
    expected = {n: Expected(score, score, 1.0) for n, score in ((1, 0.3), (2, 0.9), (3, 0.6))}
    assert list(above(expected, 0.5)) == [2, 3]


def test_judgements_teach_after_reopening(tmp_path: Path) -> None:
    pixels, _ = discs()
    with ps.App(tmp_path / "cells.peftsam") as app:
        app.load_model("builtin", "cpu")
        image = app.add_image(pixels, "discs")
        for each in image.segment(scorer=first_feature()):
            app.document.do(ps.AcceptProposals(ps.PlaneKey(image.id), (each.number,)))
    with ps.App(tmp_path / "cells.peftsam") as again:
        scorer = project_scorer(again.document, first_feature())
        assert len(scorer.ious) >= 6
        assert (scorer.ious == 1).all()


def test_what_is_accepted_unseen_teaches_nothing_until_it_is_deleted() -> None:
    """Else each acceptance in bulk would confirm the next one."""
    pixels, _ = discs()
    with ps.App() as app:
        app.load_model("builtin", "cpu")
        image = app.add_image(pixels, "discs")
        image.segment(scorer=first_feature())
        labels = image.accept_proposals(scorer=first_feature())
        assert len(labels) >= 6
        assert not len(project_scorer(app.document, first_feature()).ious)
        app.document.do(ps.DeleteObjects(image.id, labels[:1]))
        assert project_scorer(app.document, first_feature()).ious.tolist() == [0]


def with_judgements(app: ps.App, ious: list[float], path: Path) -> Path:
    """Write an adapter that answers as the base does, and knows proposals of the first image."""
    image = next(iter(app.images.values()))
    features = np.array([each.features for each in image.segment()])[: len(ious)]
    bare = capture(inject(app.workspace.engine.bare_copy(), LoraConfig(rank=2)))
    save_adapter(bare.with_judged(features, np.array(ious)), path)
    return path


def test_an_adapter_brings_its_judgements_into_another_project(tmp_path: Path) -> None:
    with ps.App() as app:
        app.load_model("builtin", "cpu")
        image = app.add_image(discs()[0], "discs")
        before = image.segment()
        path = with_judgements(app, [0.0] * 6, tmp_path / "wrong.safetensors")
        app.workspace.load_adapter(path)
        after = image.segment()
        assert sum(e.score for e in after[:6]) < sum(e.score for e in before[:6]) - 0.5
        app.workspace.activate("base")
        assert [e.score for e in image.segment()] == [e.score for e in before]


def test_the_judgements_of_a_project_go_into_the_adapter_that_is_trained(tmp_path: Path) -> None:
    method = LoraConfig(rank=2)
    with ps.App() as app:
        app.load_model("builtin", "cpu")
        image = app.add_image(discs()[0], "discs")
        app.workspace.load_adapter(with_judgements(app, [0.0, 0.0], tmp_path / "a.safetensors"))
        plane, found = ps.PlaneKey(image.id), image.segment()
        app.document.do(ps.AcceptProposals(plane, (found[0].number,)))  # judged 0 before
        app.document.do(ps.AcceptProposals(plane, (found[3].number,)))
        job, other = (
            app.workspace.prepare_training(ps.TrainingConfig(method=each, steps=1))()
            for each in (method, FrozenEncoderConfig())
        )
        assert sorted(job.judged[1]) == [0, 1, 1]
        assert sorted(other.judged[1]) == [0, 1, 1]  # also where it does not go on from its weights
        assert job.start is not None
        path = tmp_path / "b.safetensors"
        save_adapter(job.start.with_judged(*job.judged), path)
        app.workspace.load_adapter(path)
        scorer = project_scorer(app.document, ProposalScorer.of(app.workspace.live.adapter))
        assert sorted(scorer.ious) == [0, 1, 1]  # its own count once


def test_events_tell_how_far_it_is(started: ps.App, image: ps.ProjectImage) -> None:
    events: list[object] = []
    plane = ps.PlaneKey(image.id)
    assert run_inline(propose_plane(started.workspace, plane, first_feature()), events.append)
    [searched] = [each for each in events if isinstance(each, Searched)]
    assert (searched.tile, searched.tiles) == (1, 1)
    assert searched.part == Window(0, 0, 160, 240)
