"""The finetuning dock: from annotated objects to a live adapter, and every other end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from pydantic import ValidationError
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QScrollArea

from napari_peftsam.app.finetuning import DocumentRun, TrainingJob
from napari_peftsam.document import ImportLabels, Paint, Redo, RemoveImage, Snapshot, Undo
from napari_peftsam.errors import TrainingError
from napari_peftsam.peft import (
    METHODS,
    CobotLoraConfig,
    LoraConfig,
    MethodConfig,
    count_parameters,
)
from napari_peftsam.training import (
    RECIPES,
    RECOMMENDED,
    TrainingConfig,
    TrainingStep,
    recipe,
    split_objects,
)
from napari_peftsam.types import Point, Prompts
from napari_peftsam.widgets._form import Form, fields_of
from napari_peftsam.widgets.finetune import FinetuneDock, Phase, training_of
from napari_peftsam.widgets.session import session_of
from tests.widgets._annotate_cases import settle, wait
from tests.widgets._training_cases import add_images, is_alive, stripes
from tests.workspace._steps import embedding_of

if TYPE_CHECKING:
    import napari

PATIENCE = 240.0  # s; a child starts slowly on a busy machine, where others come first


class Finetuning:
    """A viewer with the finetuning dock, and what its user does."""

    def __init__(self, viewer: napari.Viewer, checkpoint: Path, images: int) -> None:
        self.viewer = viewer
        self.owner = session_of(viewer)
        self.owner.open(checkpoint)
        self.dock = FinetuneDock(viewer)
        self.holder = viewer.window.add_dock_widget(self.dock, name="Finetune")
        self.view, self.options = self.dock.view, self.dock.options
        self.training = self.dock.training
        self.step = 0  # of the present run
        self.training.signals.event.connect(self._note)
        add_images(self.owner.document, images)
        wait(lambda: self.owner.has_model and self.options.parameters.text())

    @property
    def workspace(self) -> Any:
        assert self.owner.workspace is not None
        return self.owner.workspace

    @property
    def live(self) -> str:
        return str(self.workspace.live.name)

    def budget(self, steps: int, rate: float | None = None) -> None:
        self.options.unit.setCurrentText("steps")
        self.options.amount.setValue(steps)
        self.options.form.set_value("learning_rate", rate)

    def start(self, steps: int = 100_000, rate: float | None = None) -> None:
        self.budget(steps, rate)
        self.step = 0
        self.view.train.click()
        assert self.training.is_running

    def until_step(self, number: int = 1) -> None:
        wait(lambda: self.step >= number, PATIENCE)

    def _note(self, event: object) -> None:
        if isinstance(event, TrainingStep):
            self.step = event.step

    def until_ended(self) -> None:
        wait(lambda: not self.training.is_running, PATIENCE)


@pytest.fixture
def finetuning(
    make_napari_viewer: Callable[..., napari.Viewer], tiny_checkpoint: Path
) -> Callable[..., Finetuning]:
    def build(images: int = 3) -> Finetuning:
        return Finetuning(make_napari_viewer(), tiny_checkpoint, images)

    return build


# --- the form ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [LoraConfig, CobotLoraConfig])
def test_a_form_starts_with_a_valid_model(qtbot: Any, model: type[MethodConfig]) -> None:
    form = Form(fields_of(model))
    qtbot.addWidget(form)
    assert model.model_validate(form.values()) == model()
    assert "method" not in form.values()
    assert form.editor("rank").toolTip() == model.model_fields["rank"].description


@pytest.mark.parametrize(
    ("name", "entered", "expected"),
    [
        pytest.param("rank", 12, 12, id="integer"),
        pytest.param("rank", -5, 4, id="integer below its limit"),
        pytest.param("alpha", "0.5", "0.5", id="number"),
        pytest.param("matrices", "all-linear", "all-linear", id="choice"),
        pytest.param("tune_mask_decoder", False, False, id="boolean"),
        pytest.param("placement", "0,3", "0,3", id="free text"),
    ],
)
def test_each_kind_of_field_has_an_editor(
    qtbot: Any, name: str, entered: Any, expected: Any
) -> None:
    form = Form(fields_of(CobotLoraConfig))
    qtbot.addWidget(form)
    with qtbot.waitSignal(form.changed):
        form.set_value(name, entered)
    assert form.values()[name] == expected


def test_empty_optional_fields_are_left_out(qtbot: Any) -> None:
    form = Form(fields_of(TrainingConfig, ["learning_rate"]))
    qtbot.addWidget(form)
    assert form.values() == {}
    form.set_value("learning_rate", "1e-4")
    assert form.values() == {"learning_rate": "1e-4"}


def test_values_are_entered_with_the_keyboard(qtbot: Any) -> None:
    form = Form(fields_of(CobotLoraConfig))
    qtbot.addWidget(form)
    for name, typed in {"rank": "12", "alpha": "0.5", "placement": "0,3"}.items():
        editor = form.editor(name)
        qtbot.keyClick(editor, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
        with qtbot.waitSignal(form.changed):
            qtbot.keyClicks(editor, typed)
    qtbot.keyClick(form.editor("tune_mask_decoder"), Qt.Key.Key_Space)
    expected = {"rank": 12, "alpha": 0.5, "placement": "0,3", "tune_mask_decoder": False}
    assert CobotLoraConfig.model_validate(form.values()) == CobotLoraConfig.model_validate(expected)


def test_invalid_values_are_marked_until_they_are_corrected(qtbot: Any) -> None:
    form = Form(fields_of(TrainingConfig, ["learning_rate"]))
    qtbot.addWidget(form)
    [label] = form.findChildren(QLabel)
    form.set_value("learning_rate", "fast")
    with pytest.raises(ValidationError) as caught:
        TrainingConfig.model_validate({"steps": 1, **form.values()})
    assert form.show_error(caught.value) == "Learning rate: must be a number such as 0.001"
    assert label.text() == "⚠ Learning rate"
    assert form.editor("learning_rate").toolTip() == "must be a number such as 0.001"
    assert form.show_error(None) == ""
    assert label.text() == "Learning rate"
    assert "AdamW" in form.editor("learning_rate").toolTip()


def test_other_fields_keep_what_was_entered(qtbot: Any) -> None:
    form = Form(fields_of(CobotLoraConfig))
    qtbot.addWidget(form)
    form.set_value("rank", 12)
    form.set_fields(fields_of(METHODS["late-finetuning"]))
    assert form.values()["placement"] == "late-50%"  # its own default, for "all" was one
    form.set_fields(fields_of(LoraConfig))
    assert form.values()["rank"] == LoraConfig().rank
    form.set_value("rank", 3)
    form.set_fields(fields_of(CobotLoraConfig))
    assert form.values()["rank"] == 4  # the smallest that it may be


# --- before a training ---------------------------------------------------------------------


@pytest.mark.styled
def test_an_empty_session_says_what_to_do(finetuning: Callable[..., Finetuning]) -> None:
    bench = finetuning(images=0)
    assert "Accept at least 3 objects" in bench.view.summary.text()
    assert not bench.view.train.isEnabled()
    assert bench.dock.sizeHint().width() <= 320
    bench.dock.toggle()  # the key does no more than the button
    assert not bench.training.is_running

    add_images(bench.owner.document, 1)
    assert "2 objects so far" in bench.view.summary.text()
    image, labels = stripes()
    bench.owner.document.add_image("more", image)
    bench.owner.document.do(ImportLabels("more", labels))
    split = split_objects(
        bench.workspace.prepare_training(TrainingConfig(steps=1))().planes, 0.2, 0
    )
    wait(lambda: "checks on" in bench.view.summary.text())
    learnt, checked = len(split.training), len(split.held_out)
    assert bench.view.summary.text() == (
        f"Learns from {learnt} objects, checks on {checked} of other images."
    )
    assert bench.view.train.isEnabled()


def test_images_are_chosen_to_learn_from_and_to_check_on(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning(images=3)
    wait(lambda: "checks on" in bench.view.summary.text())
    first, second, third = (str(image) for image in bench.owner.document.images)
    bench.options.roles.box(second).setCurrentText("check on")
    bench.options.roles.box(third).setCurrentText("leave out")
    config = bench.options.config
    assert (config.check_on, config.leave_out) == ((second,), (third,))
    text = "Learns from 2 objects, checks on 2 of other images."
    wait(lambda: bench.view.summary.text() == text)
    bench.options.roles.box(first).setCurrentText("check on")
    wait(lambda: "leave one to learn from" in bench.view.summary.text())


def test_options_are_checked_and_counted_before_the_start(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    options = bench.options
    architecture = bench.workspace.engine.model.architecture

    settings = recipe(RECOMMENDED, architecture, None).settings()
    recommended = TrainingConfig(seconds=60, **settings)

    def shows(config: MethodConfig) -> bool:
        counts = count_parameters(architecture, config)
        return options.parameters.text() == (
            f"Trains {counts.total:,} parameters ({counts.encoder:,} in the encoder)"
        )

    assert options.config == recommended
    wait(lambda: shows(recommended.method))
    options.method.setCurrentIndex(options.method.findData("lora"))
    options.form.set_value("placement", "late-25%")
    options.form.set_value("rank", 2)
    late = LoraConfig.model_validate({"placement": "late-25%", "rank": 2})
    wait(lambda: shows(late))
    assert options.config == TrainingConfig(method=late, seconds=60)

    options.form.set_value("placement", "later")
    assert "is not known" in options.problem.text()
    assert not bench.view.train.isEnabled()
    options.form.set_value("placement", "0,99")  # known, but not to this model
    wait(lambda: "this encoder has 4 blocks" in options.problem.text())
    assert not bench.view.train.isEnabled()
    options.form.set_value("placement", "0,2")
    options.form.set_value("learning_rate", "fast")
    assert options.problem.text().startswith("⚠ Learning rate")
    options.form.set_value("learning_rate", "1e-3")
    assert bench.view.train.isEnabled()
    assert options.config is not None
    assert options.config.learning_rate == 1e-3


def test_recipes_fill_the_forms_until_the_user_chooses(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    options = bench.options

    def choose(name: str) -> None:
        options.recipe.setCurrentIndex(options.recipe.findData(name))

    assert options.recipe.currentData() == "recommended"
    assert options.advice.text().endswith("small enough.")
    chosen = options.config
    assert chosen is not None
    assert (chosen.method.method, chosen.averaging) == ("full-finetuning", 0.98)
    assert chosen.start_weight == 0.25
    for name, made in RECIPES.items():
        choose(name)
        assert options.config is not None
        assert options.config.method == made.method
        assert options.config.learning_rate == made.learning_rate
        assert options.advice.text() == made.explanation
        assert not options.advice.isHidden()
    choose("peft-sam-trainer")
    assert options.config is not None
    assert (options.config.loss, options.config.rounds) == ("dice", 8)
    choose("cobot")  # what the form does not show is kept with its method
    options.form.set_value("rank", 8)
    assert options.config is not None
    assert options.config.method == RECIPES["cobot"].method.model_copy(update={"rank": 8})
    shown = set(options.form.values())
    assert {"placement", "rank", "init", "coefficient_rate", "learning_rate"} <= shown
    assert not shown & {"fast_gamma", "relations", "projection", "loss", "early_stopping"}
    choose("peft-sam")
    options.form.set_value("rank", 8)
    assert options.recipe.currentData() == "own"
    assert options.advice.isHidden()
    assert options.config is not None
    assert options.config.method == RECIPES["peft-sam"].method.model_copy(update={"rank": 8})
    options.form.set_value("decoder_lora_rank", 2)
    options.form.set_value("tune_mask_decoder", False)
    assert options.problem.text() == (
        "⚠ decoder_lora_rank is 2, but tune_mask_decoder is False: let the mask decoder be "
        "trained, or leave the rank at 0"
    )
    choose("recommended")
    assert options.config is not None
    assert options.config.model_dump() == chosen.model_dump()
    options.method.setCurrentIndex(options.method.findData("dora"))
    assert options.recipe.currentData() == "own"


def test_every_method_can_be_chosen_but_what_the_device_lacks(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    options = bench.options
    items = options.method.model()
    for index, name in enumerate(METHODS):
        assert options.method.itemData(index) == name
        assert items.item(index).isEnabled() == (name != "qlora")
        options.method.setCurrentIndex(index)
        assert options.config is not None, name
        assert options.config.method == METHODS[name]()
    tip = options.method.itemData(list(METHODS).index("qlora"), Qt.ItemDataRole.ToolTipRole)
    assert "needs an NVIDIA GPU" in tip


# --- trainings -----------------------------------------------------------------------------


def test_a_better_adapter_becomes_live_and_can_be_compared(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    shown: list[str] = []
    bench.training.signals.ticked.connect(lambda: shown.append(bench.view.status.text()))
    bench.start(steps=12, rate=1e-2)
    assert "Stop" in bench.view.train.text()
    assert "so far, then 12 steps of training" in bench.view.status.text()
    with pytest.raises(TrainingError, match="a training is running"):
        bench.training.start(TrainingConfig(steps=1))
    bench.until_step()
    assert any(text.startswith("First step 0 %: ") for text in shown)
    assert " in the first step, " in bench.view.memory.text()
    # Prompts are answered meanwhile, by the old adapter.
    plane = bench.owner.document.planes_with_objects()[0]
    list(bench.workspace.embed(plane))
    embedding = embedding_of(bench.workspace, plane)
    assert (
        bench.workspace.engine.predict(embedding, Prompts(points=(Point(20, 20, True),)))
        is not None
    )
    assert bench.live == "base"

    bench.until_ended()
    assert bench.view.outcome.text() == bench.training.message
    assert bench.training.message.startswith("v1 is live. ")
    assert "n = 6)" in bench.training.message, "two held out, four in folds"
    assert bench.live == "v1"
    assert set(bench.training.measured) == {"base", "v1"}
    assert bench.training.measured["v1"] > bench.training.measured["base"]
    assert "Train" in bench.view.train.text()
    assert bench.view.train.isEnabled()
    assert not bench.view.compare.isHidden()
    bench.view.compare.click()
    wait(lambda: bench.live == "base")
    wait(lambda: "After (v1)" in bench.view.compare.text())
    bench.dock.compare()
    wait(lambda: bench.live == "v1")


def test_training_starts_by_itself_after_enough_new_objects(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning(images=2)
    bench.budget(steps=1)
    document, every = bench.owner.document, bench.options.every
    assert every.text() == "off"
    add_images(document, 1, first=2)
    assert not bench.training.is_running
    every.setValue(3)
    add_images(document, 1, first=3)  # two more
    bench.dock._timer.timeout.emit()
    assert not bench.training.is_running
    add_images(document, 1, first=4)
    wait(lambda: bench.training.is_running)
    add_images(document, 2, first=5)  # four more, while it runs
    bench.until_ended()
    wait(lambda: bench.training.is_running)
    bench.until_ended()
    document.do(Undo())
    document.do(Redo())
    bench.dock._timer.timeout.emit()
    assert not bench.training.is_running


def test_new_objects_leave_what_a_run_shows(finetuning: Callable[..., Finetuning]) -> None:
    view = finetuning().view
    view.show_phase(Phase.TRAINING, "")
    view.show_event(TrainingStep(45, loss=0.1, seconds=30.0, remaining=30.0))
    view.show_phase(Phase.TRAINING, "")  # as after each object that is accepted meanwhile
    assert view.status.text() == "Step 45 · 0:30 left"


def test_options_scroll_only_where_the_window_is_low(finetuning: Callable[..., Finetuning]) -> None:
    bench = finetuning()
    area = bench.view.findChild(QScrollArea)
    assert area is not None
    bar = area.verticalScrollBar()
    assert bar is not None
    bench.holder.setFloating(True)
    bench.holder.show()
    for width in range(330, 390, 4):
        bench.holder.resize(width, 200)
        wait(bar.isVisible)
        bench.holder.resize(width, 800)
        wait(lambda: not bar.isVisible())


def test_a_run_says_that_its_result_is_compared(finetuning: Callable[..., Finetuning]) -> None:
    bench, seen = finetuning(), list[tuple[Phase, str, str]]()
    bench.training.signals.changed.connect(
        lambda: seen.append(
            (bench.training.phase, bench.view.status.text(), bench.view.train.text())
        )
    )
    bench.start(rate=1e-3, steps=2)
    bench.until_ended()
    phases = [phase for phase, _, _ in seen]
    assert phases == [Phase.STARTING, Phase.TRAINING, Phase.JUDGING, Phase.IDLE]
    _, said, verb = seen[2]
    assert said == "Comparing it with the present one, on held-out objects…"
    assert "Stop now" in verb


def test_labels_are_copied_in_a_thread_and_without_later_strokes(
    finetuning: Callable[..., Finetuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = finetuning(images=2)
    painted, copied_in, jobs = threading.Event(), set(), []
    copy, prepare = Snapshot.labels, DocumentRun.prepare

    def copied(self: Snapshot, *of: Any) -> Any:
        copied_in.add(threading.current_thread())
        return copy(self, *of)

    def late(run: DocumentRun) -> TrainingJob:
        assert painted.wait(PATIENCE)
        jobs.append(prepare(run))
        return jobs[-1]

    monkeypatch.setattr(Snapshot, "labels", copied)
    monkeypatch.setattr(DocumentRun, "prepare", late)
    bench.start(steps=1)
    document = bench.owner.document
    labels = document.image("i0").labels
    before = labels.copy()
    labels[:, :20] = 2  # as napari's brush does before it reports the stroke
    where = np.flatnonzero(labels != before)
    document.do(Paint("i0", where, 2, old=before.reshape(-1)[where]))
    painted.set()
    bench.until_ended()
    [job] = jobs
    np.testing.assert_array_equal(job.planes[0].labels, before)
    assert copied_in
    assert threading.main_thread() not in copied_in


def test_an_adapter_that_is_not_better_changes_nothing(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    bench.start(steps=2, rate=1e-12)
    bench.until_ended()
    assert "No difference that 6 objects could show" in bench.view.outcome.text()
    assert bench.live == "base"
    assert len(bench.workspace.adapters.entries) == 1
    assert bench.view.compare.isHidden()


def test_stop_keeps_the_best_state_even_without_the_images(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    bench.start(rate=1e-2)
    bench.until_step(2)
    for name in list(bench.owner.document.images):
        bench.owner.document.do(RemoveImage(name))
    bench.until_step(12)
    bench.dock.toggle()
    assert bench.training.phase is Phase.STOPPING
    bench.until_ended()
    assert bench.live == "v1"
    assert bench.training.pid is not None
    assert not is_alive(bench.training.pid)
    assert "Accept at least 3 objects" in bench.view.summary.text()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_killed_child_is_told_and_another_training_can_start(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    bench.start(rate=1e-12)
    bench.until_step()
    assert bench.training.pid is not None
    os.kill(bench.training.pid, signal.SIGKILL)
    bench.until_ended()
    assert "The training process was killed" in bench.view.outcome.text()
    assert bench.live == "base"
    bench.start()
    bench.view.train.click()  # stops while it is starting
    bench.until_ended()
    assert bench.training.message == "Stopped before the first step, so the base model stays live."


def test_removing_the_dock_ends_the_child_and_keeps_everything_else(
    finetuning: Callable[..., Finetuning],
) -> None:
    bench = finetuning()
    bench.start()
    bench.until_step()
    bench.viewer.window.remove_dock_widget(bench.holder)
    wait(lambda: not bench.training.is_running)
    settle()
    assert bench.training.pid is not None
    assert not is_alive(bench.training.pid)
    assert len(bench.owner.document.images) == 3
    again = FinetuneDock(bench.viewer)  # sees how it ended
    assert again.view.outcome.text() == bench.training.message
    again.close()


def test_closing_the_viewer_ends_the_child(finetuning: Callable[..., Finetuning]) -> None:
    bench = finetuning()
    training, document = bench.training, bench.owner.document
    bench.start()
    bench.until_step()
    owner, pid = bench.owner, training.pid
    bench.viewer.close()
    wait(lambda: owner.is_closed)
    assert pid is not None
    wait(lambda: not is_alive(pid))
    assert len(owner.workers) == 0
    assert np.unique(document.image("i0").labels).tolist() == [0, 1, 2]


def _children() -> set[int]:
    """Return the processes that train, or wait to do so."""
    found = psutil.Process().children(recursive=True)
    return {each.pid for each in found if any("app.child" in word for word in each.cmdline())}


def test_a_child_waits_once_there_is_enough_to_train_on(
    finetuning: Callable[..., Finetuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_peftsam.widgets._training._ENOUGH", 3)
    bench = finetuning(images=1)  # two objects
    assert not _children()
    image, labels = stripes(1)
    bench.owner.document.add_image("more", image)
    bench.owner.document.do(ImportLabels("more", labels))
    [waiting] = _children()
    bench.start()
    bench.until_step()
    assert bench.training.pid == waiting
    bench.dock.toggle()
    bench.until_ended()
    assert not _children()
    bench.owner.document.do(Undo())
    bench.owner.document.do(Redo())
    assert len(_children()) == 1  # for the next one
    owner = bench.owner
    bench.viewer.close()
    wait(lambda: owner.is_closed and not _children())


def test_another_model_ends_the_training(
    finetuning: Callable[..., Finetuning], tiny_checkpoint: Path
) -> None:
    bench = finetuning()
    bench.start()
    bench.until_step()
    bench.owner.load_model(tiny_checkpoint)
    bench.until_ended()
    assert "Another model was loaded" in bench.view.outcome.text()
    assert bench.live == "base"


def test_two_docks_share_one_training(finetuning: Callable[..., Finetuning]) -> None:
    bench = finetuning()
    second = FinetuneDock(bench.viewer)
    assert second.training is bench.training is training_of(bench.owner)
    second.close()
