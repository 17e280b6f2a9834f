"""The prompt controller without a viewer, with work that runs inline."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import napari_peftsam as ps
from napari_peftsam.app.clean import clean_mask
from napari_peftsam.app.prompt_state import PromptState
from napari_peftsam.app.prompting import PromptController
from napari_peftsam.app.runner import InlineRunner
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.types import Window

PLANE = ps.PlaneKey("discs")


@dataclass
class Desk:
    """A document with a workspace, and the plane that a viewer would show."""

    workspace: Workspace | None
    document: ps.Document
    plane: ps.PlaneKey | None = PLANE
    visible: Window | None = None
    loading: str = "builtin"
    error: str = ""

    @property
    def has_model(self) -> bool:
        return self.workspace is not None


@pytest.fixture
def desk(app: ps.App) -> Desk:
    return Desk(app.workspace, app.document)


def controller(desk: Desk) -> PromptController:
    made = PromptController(desk, desk, InlineRunner())
    made.follow()
    return made


def click(desk: Desk, row: float = 20, col: float = 20) -> None:
    desk.document.do(ps.AddPoint(PLANE, ps.Point(row, col)))


def test_the_shown_plane_is_embedded(desk: Desk) -> None:
    assert controller(desk).state == PromptState("ready", 1.0)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        pytest.param({"plane": None}, PromptState("none"), id="no image"),
        pytest.param({"workspace": None}, PromptState("loading", reason="builtin"), id="no model"),
        pytest.param(
            {"workspace": None, "error": "no such file"},
            PromptState("failed", reason="no such file"),
            id="a model that cannot be loaded",
        ),
    ],
)
def test_the_state_says_what_is_missing(
    desk: Desk, change: dict[str, object], state: PromptState
) -> None:
    for name, value in change.items():
        setattr(desk, name, value)
    assert controller(desk).state == state


def test_a_click_gives_a_mask(desk: Desk) -> None:
    prompting = controller(desk)
    click(desk)
    assert prompting.state.kind == "ready"
    assert desk.document.current is not None
    assert desk.document.current.mask is not None


def test_a_click_waits_for_the_model(desk: Desk) -> None:
    desk.workspace, workspace = None, desk.workspace
    prompting = controller(desk)
    click(desk)
    desk.workspace = workspace
    prompting.start_over()
    assert desk.document.current is not None
    assert desk.document.current.mask is not None


def test_the_user_is_awaited_from_the_click_to_the_mask(desk: Desk) -> None:
    prompting = controller(desk)
    heard: list[bool] = []
    prompting.events.awaited_changed.connect(heard.append)
    click(desk)
    assert heard == [True, False]


def test_a_stopped_embedding_goes_on_with_the_next_click(desk: Desk) -> None:
    prompting = PromptController(desk, desk, InlineRunner())
    stop = prompting.events.state_changed.connect(
        lambda state: prompting.cancel() if 0 < state.fraction < 1 else None
    )
    prompting.follow()
    assert prompting.state.kind == "stopped"
    prompting.events.state_changed.disconnect(stop)
    click(desk)
    assert desk.document.current is not None
    assert desk.document.current.mask is not None


def test_all_objects_of_the_queue_are_accepted_in_one_step(desk: Desk) -> None:
    prompting = controller(desk)
    boxes = [ps.Box(4, 4, 20, 20), ps.Box(24, 24, 40, 40)]
    desk.document.do(ps.QueuePrompts.boxes(PLANE, boxes))
    prompting.accept_all()
    assert len(desk.document.records("discs")) == 2
    desk.document.undo()
    assert desk.document.records("discs") == ()


def test_what_follows_is_predicted_before_it_is_accepted(desk: Desk) -> None:
    prompting, news = controller(desk), []
    prompting.events.queue_predicted.connect(lambda: news.append(len(prompting.following)))
    boxes = [ps.Box(4, 4, 20, 20), ps.Box(24, 24, 40, 40), ps.Box(4, 24, 20, 40)]
    desk.document.do(ps.QueuePrompts.boxes(PLANE, boxes))
    assert news == [2]
    assert [made.prompts.box for made in prompting.following] == boxes[1:]
    known = prompting.following
    desk.document.do(ps.Discard())
    assert prompting.following == known[1:]
    prompting.accept_all()
    assert len(desk.document.records("discs")) + len(desk.document.queue) == 2


def test_masks_can_be_left_as_they_are_predicted(desk: Desk) -> None:
    prompting = controller(desk)
    prompting.clean_masks(False)
    click(desk)
    plain = desk.document.current.candidates
    desk.document.do(ps.Discard())
    prompting.clean_masks(True)
    click(desk)
    current = desk.document.current
    for choice, mask in enumerate(current.candidates.masks):
        expected = clean_mask(plain.whole(choice), current.prompts.points)
        np.testing.assert_array_equal(current.candidates.whole(choice), expected)
        assert mask.any() == expected.any()


def test_masks_are_smoothed_on_demand(desk: Desk) -> None:
    prompting = controller(desk)
    click(desk)
    plain = desk.document.current.candidates
    desk.document.do(ps.Discard())
    prompting.clean_masks(True, 3)
    click(desk)
    current = desk.document.current
    for choice in range(len(current.candidates)):
        expected = clean_mask(plain.whole(choice), current.prompts.points, smooth=3)
        assert (current.candidates.whole(choice) != expected).mean() < 0.01
    prompting.clean_masks(False)
    assert prompting.cleaning == (False, 3)  # the radius is not forgotten


def test_a_prediction_that_fails_is_not_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompting = controller(desk)
    assert desk.workspace is not None

    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("out of memory")
        yield

    monkeypatch.setattr(desk.workspace.engine, "predict_steps", fail)
    failures: list[Exception] = []
    prompting.events.failed.connect(failures.append)
    click(desk)
    assert [str(error) for error in failures] == ["out of memory"]
    assert prompting.state.kind == "ready"


def test_a_released_controller_answers_no_more(desk: Desk) -> None:
    prompting = controller(desk)
    prompting.release()
    click(desk)
    assert prompting.state.kind == "none"
    assert desk.document.current is not None
    assert desk.document.current.mask is None


# --- before the click ---------------------------------------------------------------


def test_the_mask_under_the_mouse_is_that_of_a_click(desk: Desk) -> None:
    prompting = controller(desk)
    prompting.preview.wanted = True
    prompting.hover(ps.Point(20, 20))
    shown = prompting.preview.shown
    assert shown is not None
    assert desk.document.current is None  # nothing was asked for
    predicted: list[str] = []
    prompting.events.state_changed.connect(lambda state: predicted.append(state.kind))
    click(desk)
    current = desk.document.current
    assert current is not None
    assert current.as_new_object().mask.tobytes() == shown.mask.tobytes()
    assert "predicting" not in predicted  # the answer was there
    assert prompting.preview.shown is None


def test_a_click_elsewhere_is_predicted_anew(desk: Desk) -> None:
    prompting = controller(desk)
    prompting.preview.wanted = True
    prompting.hover(ps.Point(20, 20))
    predicted: list[str] = []
    prompting.events.state_changed.connect(lambda state: predicted.append(state.kind))
    click(desk, 40, 40)
    assert "predicting" in predicted


@pytest.mark.parametrize(
    ("times", "wanted", "expected"),
    [
        ([], None, False),
        ([0.01] * 5 + [2.0], None, True),
        ([0.09] * 5, None, False),
        ([0.09], True, True),
        ([0.01], False, False),
    ],
    ids=["not measured", "fast", "slow", "wanted", "not wanted"],
)
def test_masks_are_shown_under_the_mouse_where_prompts_are_fast(
    desk: Desk, times: list[float], wanted: bool | None, expected: bool
) -> None:
    preview = controller(desk).preview
    preview.wanted = wanted
    for seconds in times:
        preview.note_time(seconds)
    assert preview.is_wanted is expected
    preview.forget_times()
    assert preview.is_wanted is bool(wanted)


def test_nothing_is_shown_under_the_mouse_while_an_object_is_pending(desk: Desk) -> None:
    prompting = controller(desk)
    prompting.preview.wanted = True
    prompting.hover(ps.Point(20, 20))
    prompting.hover(None)
    assert prompting.preview.shown is None
    click(desk)
    prompting.hover(ps.Point(40, 40))
    assert prompting.preview.shown is None


# --- reopened -----------------------------------------------------------------------


def test_a_corrected_object_is_reopened_from_its_mask(desk: Desk) -> None:
    prompting = controller(desk)
    click(desk)
    plain = desk.document.current
    assert plain is not None
    label = desk.document.do(ps.Accept())
    where = np.flatnonzero(desk.document.labels(PLANE) == label)
    desk.document.do(ps.Paint("discs", where[: len(where) // 2], 0))
    masks: list[object] = []
    engine = prompting._engine  # what it is asked
    assert engine is not None
    ask = engine.predict_steps

    def asked(embedding: object, prompts: object, mask_prompt: object, **options: object) -> object:
        masks.append(mask_prompt)
        return ask(embedding, prompts, mask_prompt, **options)

    engine.predict_steps = asked
    desk.document.do(ps.Reopen(PLANE, label))
    assert [mask is not None for mask in masks] == [True]
    desk.document.do(ps.Discard())
    engine.predict_steps = ask
