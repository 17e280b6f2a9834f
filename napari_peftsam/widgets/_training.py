"""The finetuning run of a viewer: its child process, its phase and how it ended.

It belongs to the viewer and not to the dock, so that a second dock sees the same run.
"""

from __future__ import annotations

from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from psygnal import Signal, SignalGroup

from napari_peftsam.app.advice import outcome_text, starting_text
from napari_peftsam.app.child import Child, TrainingProcess
from napari_peftsam.app.finetuning import DocumentRun
from napari_peftsam.errors import TrainingError
from napari_peftsam.widgets._parts import Banner, stop_timers, timer
from napari_peftsam.widgets._runner import notify
from napari_peftsam.widgets.session import ViewerSession

if TYPE_CHECKING:
    from napari_peftsam.training import TrainEvent, TrainingConfig


_TICK = 1000  # ms
_ENOUGH = 3  # objects: from then on people may train, and a child should be ready


class Phase(Enum):
    """The present activity of a run."""

    IDLE = "idle"
    STARTING = "starting"
    TRAINING = "training"
    STOPPING = "stopping"
    JUDGING = "judging"


VERBS = {
    Phase.IDLE: "▶ Train",
    Phase.STARTING: "■ Stop",
    Phase.TRAINING: "■ Stop",
    Phase.STOPPING: "■ Stop now",
    Phase.JUDGING: "■ Stop now",
}
"""What the button says that starts and ends a run."""


class TrainingSignals(SignalGroup):
    """Signals of a `TrainingRun`; always emitted in the GUI thread."""

    changed = Signal()
    """The phase or the message is another."""
    event = Signal(object)
    """A `TrainEvent` of the run."""
    ticked = Signal()
    """Another second has passed, or a part of the first step, which has not ended yet."""


class TrainingRun:
    """Starts, follows, stops and concludes one run at a time; GUI thread only.

    Attributes
    ----------
    phase
        What it is doing.
    message
        How the last run ended, a full sentence; empty before.
    verdict
        The comparison of its result with the model before, in a few words if the old one stays;
        empty without one.
    before, after
        Names of the adapter that was live and of the new version, empty without one.
    began
        When the run was started, in seconds of `monotonic`; None after its first step.
    share
        How much of the first step is done, from 0 to 1; None before it.
    banner
        Names the model that is shown, over the image.
    measured
        The latest held-out IoU of adapters, by name.
    """

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self.signals = TrainingSignals()
        self.measured: dict[str, float] = {}
        self.phase = Phase.IDLE
        self.message = self.verdict = ""
        self.before = self.after = ""
        self.began: float | None = None
        self.share: float | None = None
        self.banner = Banner(owner.viewer)
        self._clock = timer(None, _TICK)
        self._clock.timeout.connect(self._tick)
        self._idle: Child | None = None
        self._process: TrainingProcess | None = None
        self._run: DocumentRun | None = None
        self._placement = ""
        owner.events.closed.connect(self._abort)
        owner.events.awaited_changed.connect(self._give_way)
        owner.events.model_changed.connect(self._model_changed)
        owner.document.events.closing.connect(self.abandon)
        owner.document.events.objects_changed.connect(self._have_child, max_args=0)

    @property
    def is_running(self) -> bool:
        """True from the start of a run until its adapter is live."""
        return self.phase is not Phase.IDLE

    @property
    def pid(self) -> int | None:
        """The process id of the running or last child."""
        return None if self._process is None else self._process.pid

    @property
    def waited(self) -> float | None:
        """Seconds since the start of a run that has not made a step yet, else None."""
        is_waiting = self.began is not None and self.phase in (Phase.STARTING, Phase.TRAINING)
        return monotonic() - self.began if is_waiting and self.began is not None else None

    @property
    def waiting(self) -> str:
        """What the run does until its first step ends; empty after it."""
        waited = self.waited
        if waited is None or self._run is None:
            return ""
        return starting_text(waited, self._run.config, self.share)

    def start(self, config: TrainingConfig) -> None:
        """Start a run on the session's objects; returns at once.

        Raises
        ------
        TrainingError
            If one is running.
        """
        if self.is_running:
            raise TrainingError("a training is running: stop it first, or wait until it has ended")
        owner = self._viewer_session()
        self._run = run = DocumentRun(owner.require(), config)
        self._process = process = TrainingProcess(run.prepare, self._idle)
        self._idle = None
        self.message = self.verdict = self.after = ""
        self.before = run.before
        self._placement = str(getattr(config.method, "placement", ""))
        self.began, self.share = monotonic(), None
        self._clock.start()
        owner.workers.start(
            lambda: run.events(process.events()),
            on_event=self._receive,
            on_error=self._failed,
            on_done=lambda _: self._ended(),
        )
        self._set_phase(Phase.STARTING)

    def stop(self) -> None:
        """End the run with its best state: after this step; called again, or later, at once."""
        if self._process is None:
            return
        if self.phase in (Phase.STARTING, Phase.STOPPING, Phase.JUDGING):
            self._process.cancel()
        if self.phase in (Phase.STARTING, Phase.TRAINING):
            self._process.stop()
            self._set_phase(Phase.STOPPING)

    def abandon(self) -> None:
        """End the run at once; its best state so far is kept if it is an improvement."""
        if self._process is not None and self.is_running:
            self._process.cancel()

    def _have_child(self) -> None:
        """Have a child ready once there is enough to train on: its start takes seconds."""
        if self._idle is not None or self.is_running:
            return
        objects = 0
        for image in self._viewer_session().document.images.values():
            objects += len(image.records)  # of an image not shown yet, read from the project
            if objects >= _ENOUGH:
                self._idle = Child.start()
                return

    def _give_way(self, awaited: bool) -> None:
        """Leave the processor to the work that the user waits for."""
        if self._process is not None and self.is_running:
            (self._process.pause if awaited else self._process.go_on)()

    def _tick(self) -> None:
        if self.waited is not None:
            self._clock.start()
            self.signals.ticked.emit()

    def _receive(self, event: TrainEvent) -> None:
        from napari_peftsam.training import Judging, StepProgress, TrainingStep

        if isinstance(event, TrainingStep):
            self.began = None
        elif isinstance(event, Judging):
            self._set_phase(Phase.JUDGING)
        elif isinstance(event, StepProgress):
            self.share = event.share
            self.signals.ticked.emit()
        started = None if self._run is None else self._run.started
        if started is not None and self.phase is Phase.STARTING:
            self.measured[self.before] = started.validation_iou
            self._set_phase(Phase.TRAINING)
        self.signals.event.emit(event)

    def _failed(self, error: Exception) -> None:
        notify(error)
        self._ended(str(error))

    def _ended(self, error: str = "") -> None:
        """Say how the run ended; a better adapter is live by now."""
        run = self._run
        assert run is not None
        failure = run.failure or error
        failure = f"{failure[:1].upper()}{failure[1:]}." if failure else ""
        entry, result = run.entry, run.result
        if result is None and (failure or not run.replaced):
            name = "the base model" if self.before == "base" else self.before
            early = "the first step" if self.began is not None else "anything was learned"
            self._end(failure or f"Stopped before {early}, so {name} stays live.")
        elif entry is None and run.replaced:
            other = "project was opened" if run.replaced == "project" else "model was loaded"
            self._end(f"Another {other}, so the training was ended without a result.")
        elif error and not run.failure:
            self._end(f"The new adapter cannot be used: {error}")
        elif result is not None:
            if entry is not None:
                self.after = entry.name
                self.measured[entry.name] = result.iou_after
            better = result.verdict.is_better
            self.verdict = result.verdict.sentence if better else "The old one stays"
            text = outcome_text(
                self.before, self.after, result.verdict, result.steps, self._placement
            )
            self._end(f"{failure} {text}".strip())

    def _end(self, message: str) -> None:
        self.message = message
        self._set_phase(Phase.IDLE)

    def _set_phase(self, phase: Phase) -> None:
        self.phase = phase
        self.signals.changed.emit()

    def _abort(self) -> None:
        """End the child since the viewer closes; nobody is left to tell."""
        stop_timers(self._clock)
        self.banner.hide()
        if self._idle is not None:
            self._idle.end()
        if self._process is not None and self._run is not None:
            self._run.drop()
            self._process.cancel()

    def _model_changed(self) -> None:
        self.measured.clear()
        self.abandon()
        if not self.is_running and self.message:
            self.before = self.after = ""  # they name adapters of another model
            self._end("")

    def _viewer_session(self) -> ViewerSession:
        owner = self._owner()
        if owner is None:
            raise RuntimeError("the viewer was closed")
        return owner


_runs: WeakKeyDictionary[ViewerSession, TrainingRun] = WeakKeyDictionary()


def training_of(owner: ViewerSession) -> TrainingRun:
    """Return the viewer's training run, making it at the first call."""
    if owner not in _runs:
        _runs[owner] = TrainingRun(owner)
    return _runs[owner]
