"""The one finetuning run a viewer may have: its process, its progress, its outcome.

It belongs to the viewer and not to the dock, so that a second dock sees the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from psygnal import Signal, SignalGroup

from napari_peftsam.app.advice import Outcome, verdict
from napari_peftsam.errors import TrainingError
from napari_peftsam.widgets._process import TrainingProcess
from napari_peftsam.widgets._progress import RunProgress
from napari_peftsam.widgets._session import ViewerSession
from napari_peftsam.widgets._worker import notify, run, start

if TYPE_CHECKING:
    from napari_peftsam.app.adapters import AdapterEntry
    from napari_peftsam.app.engine import Engine
    from napari_peftsam.app.jobs import TrainingJob
    from napari_peftsam.training import TrainEvent, TrainingConfig, TrainingFinished

__all__ = ["Phase", "TrainingRun", "TrainingSignals", "training_of"]


class Phase(Enum):
    """What a run is doing."""

    IDLE = "idle"
    STARTING = "starting"
    TRAINING = "training"
    STOPPING = "stopping"
    SWITCHING = "switching"


class TrainingSignals(SignalGroup):
    """Signals of a `TrainingRun`; always emitted in the GUI thread."""

    changed = Signal()
    """The phase or the message is another."""
    event = Signal(object)
    """A `TrainEvent` of the run."""


class TrainingRun:
    """Starts, follows, stops and concludes one run at a time; GUI thread only.

    Attributes
    ----------
    phase
        What it is doing.
    message
        How the last run ended, a full sentence; empty before.
    before, after
        Names of the adapter that was live and of the new version, empty without one.
    measured
        The latest held-out IoU of adapters, by name.
    """

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self.signals = TrainingSignals()
        self.measured: dict[str, float] = {}
        self.phase = Phase.IDLE
        self.message = ""
        self.before = self.after = ""
        self._process: TrainingProcess | None = None
        self._engine: Engine | None = None
        self._placement = ""
        self._failure = ""
        self._reset()
        owner.events.closed.connect(self._abort)
        owner.events.awaited_changed.connect(self._give_way)
        owner.events.model_changed.connect(self._model_changed)
        owner.document.events.closing.connect(self._project_closes)

    @property
    def is_running(self) -> bool:
        """Whether a run is under way, from its start until its adapter is live."""
        return self.phase is not Phase.IDLE

    @property
    def pid(self) -> int | None:
        """The process id of the running or last child."""
        return None if self._process is None else self._process.pid

    def start(self, config: TrainingConfig) -> None:
        """Start a run on the session's objects; returns at once.

        Raises
        ------
        TrainingError
            If one is running.
        ConfigurationError
            If no model is loaded.
        """
        if self.is_running:
            raise TrainingError("a training is running: stop it first, or wait until it has ended")
        owner = self._viewer_session()
        workspace = owner.require()
        prepare = workspace.prepare_training(config)
        self._reset()
        self._engine, self.before = workspace.engine, workspace.adapters.live.name
        self._placement = str(getattr(config.method, "placement", ""))
        self._follow(prepare, owner)

    def _follow(self, prepare: Callable[[], TrainingJob], owner: ViewerSession) -> None:
        self._process = TrainingProcess(prepare)
        start(
            self._process.events,
            on_event=self._receive,
            on_error=self._failed,
            on_done=self._conclude,
            group=owner.workers,
        )
        self._set_phase(Phase.STARTING)

    def stop(self) -> None:
        """End the run with its best state: after this step; called again, at once."""
        if self._process is None:
            return
        if self.phase in (Phase.STARTING, Phase.STOPPING):
            self._process.cancel()
        if self.phase in (Phase.STARTING, Phase.TRAINING):
            self._process.stop()
            self._set_phase(Phase.STOPPING)

    def abandon(self) -> None:
        """End the run at once; its best state so far is kept if it is an improvement."""
        if self._process is not None and self.is_running:
            self._process.cancel()

    def _give_way(self, awaited: bool) -> None:
        """Leave the processor to what the user waits for."""
        if self._process is not None and self.is_running:
            (self._process.pause if awaited else self._process.go_on)()

    # --- what the child says ---------------------------------------------------------

    def _receive(self, event: TrainEvent) -> None:
        self._progress.add(event)
        started = self._progress.started
        if started is not None and self.phase is Phase.STARTING:
            self.measured[self.before] = started.validation_iou
            self._set_phase(Phase.TRAINING)
        self.signals.event.emit(event)

    def _failed(self, error: Exception) -> None:
        notify(error)
        self._failure = f"{str(error)[:1].upper()}{str(error)[1:]}."
        self._conclude()

    # --- the end -----------------------------------------------------------------------

    def _conclude(self) -> None:
        """Make the best state live if it is better, whichever way the run ended."""
        owner = self._viewer_session()
        workspace, finished = owner.workspace, self._progress.result()
        if workspace is None or finished is None:
            name = "the base model" if self.before == "base" else self.before
            self._end(self._failure or f"Stopped before the first step, so {name} stays live.")
            return
        if workspace.engine is not self._engine:
            other = "project was opened" if self._engine is None else "model was loaded"
            self._end(f"Another {other}, so the training was ended without a result.")
            return
        self._set_phase(Phase.SWITCHING)
        curve = tuple(self._progress.curve)
        run(
            lambda: workspace.promote(finished, curve),
            on_result=lambda entry: self._promoted(entry, finished),
            on_error=self._not_promoted,
            group=owner.workers,
        )

    def _promoted(self, entry: AdapterEntry | None, finished: TrainingFinished) -> None:
        self.after = "" if entry is None else entry.name
        if entry is not None:
            self.measured[entry.name] = finished.iou_after
        last = self._progress.last
        outcome = Outcome(
            before=self.before,
            after=self.after,
            iou_before=finished.iou_before,
            iou_best=finished.iou_after,
            iou_last=finished.iou_after if last is None else last.iou,
            steps=finished.steps,
            placement=self._placement,
        )
        self._end(f"{self._failure} {verdict(outcome)}".strip())

    def _not_promoted(self, error: Exception) -> None:
        notify(error)
        self._end(f"The new adapter cannot be used: {error}")

    def _end(self, message: str) -> None:
        self.message = message
        self._engine = None
        self._set_phase(Phase.IDLE)

    def _set_phase(self, phase: Phase) -> None:
        self.phase = phase
        self.signals.changed.emit()

    def _reset(self) -> None:
        self._progress = RunProgress()
        self._failure = self.message = self.before = self.after = ""

    def _abort(self) -> None:
        """End the child since the viewer closes; nobody is left to tell."""
        if self._process is not None:
            self._process.cancel()

    def _model_changed(self) -> None:
        self.measured.clear()
        self.abandon()
        if not self.is_running and self.message:
            self.before = self.after = ""  # they name adapters of another model
            self._end("")

    def _project_closes(self) -> None:
        """End a run on objects that another project takes the place of."""
        self._engine = None
        self.abandon()

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
