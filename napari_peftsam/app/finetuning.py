"""One finetuning run for dock, command line and Python: train, keep the best state, deliver it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_peftsam.app.runner import run as run_inline
from napari_peftsam.errors import TrainingError

if TYPE_CHECKING:
    from napari_peftsam.app.adapters import AdapterEntry
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.evaluation import Verdict
    from napari_peftsam.models import SamModel
    from napari_peftsam.peft import Adapter, Judged
    from napari_peftsam.training import (
        AnnotatedPlane,
        Incumbent,
        StepProgress,
        Team,
        TrainEvent,
        TrainingConfig,
        TrainingReport,
        TrainingStarted,
        TrainingStep,
        Validated,
    )

    Training = Generator[TrainEvent, None, TrainingReport | None]
    Watch = Callable[[TrainEvent], bool | None]

# --- training -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """The arguments of `napari_peftsam.training.finetune`, in a form that can be sent."""

    source: str
    device: str
    planes: tuple[AnnotatedPlane, ...]
    config: TrainingConfig
    start: Adapter | None = None
    incumbent: Incumbent | None = None
    precision: str = "auto"
    judged: Judged | None = None


def train(
    job: TrainingJob,
    stop: Callable[[], bool] = lambda: False,
    give_way: Callable[[], object] | None = None,
    team: Team | None = None,
    model: SamModel | None = None,
    on_progress: Callable[[StepProgress], object] | None = None,
) -> Generator[TrainEvent, None, TrainingReport]:
    """Build the job's model and finetune it; `give_way` is called between small steps.

    `stop`, `team` and `on_progress` are as of `napari_peftsam.training.finetune`; `model` is a
    copy of the job's model that nobody else uses, None builds one.
    """
    from napari_peftsam.models import build
    from napari_peftsam.training import finetune
    from napari_peftsam.training.step import give_way_inside

    if model is None:
        model = build(job.source, job.device, precision=job.precision)
    if give_way is not None:
        give_way_inside(model.sam, give_way)
    return (yield from finetune(
        model, job.planes, job.config,
        start=job.start, incumbent=job.incumbent, judged=job.judged, team=team, stop=stop,
        on_progress=on_progress,
    ))  # fmt: skip


# --- the run --------------------------------------------------------------------------


class FinetuningRun:
    """One run: follows a training, keeps its best state, and delivers it in the end.

    Parameters
    ----------
    source, device
        Model and device, for messages.
    deliver
        Called once with the result of the run, whichever way it ended; returns what became
        of it, for the message of a run that broke off, empty if nothing did.

    Attributes
    ----------
    started, validated
        The latest event of each kind.
    curve
        Step, loss and held-out IoU at each validation.
    failure
        Why the training broke off, empty if it did not.
    result
        The report of the training or, if it was cut off, its best state so far; None before
        there is any.
    """

    def __init__(self, source: str, device: str, deliver: Callable[[TrainingReport], str]) -> None:
        self._place, self._deliver = (source, device), deliver
        self.started: TrainingStarted | None = None
        self.validated: Validated | None = None
        self._step: TrainingStep | None = None
        self._best: Validated | None = None
        self.curve: list[tuple[int, float, float]] = []
        self.failure = ""
        self.result: TrainingReport | None = None

    def events(self, training: Training) -> Training:
        """Yield the events of a training and deliver its best state; slow.

        Raises
        ------
        TrainingError
            If the training breaks off. Its best state until then is delivered.
        """
        try:
            with closing(training):
                while True:
                    event = next(training)
                    self._note(event)
                    yield event
        except StopIteration as end:  # of the training
            self.result = end.value or self._best_state()
        except (RuntimeError, MemoryError, TrainingError) as error:
            self.failure = _why_ended(error, *self._place)
            self.result = self._best_state()
            where = "" if self.result is None else self._deliver(self.result)
            ending = f"; the best state until then{where}" if where else ""
            raise TrainingError(f"{self.failure}{ending}") from error
        if self.result is not None:
            self._deliver(self.result)
        return self.result

    def _note(self, event: TrainEvent) -> None:
        from napari_peftsam.training import TrainingStarted, TrainingStep, Validated

        if isinstance(event, TrainingStarted):
            self.started = event
        elif isinstance(event, TrainingStep):
            self._step = event
        elif isinstance(event, Validated):
            self.validated = event
            self._best = event if event.adapter is not None else self._best
            self.curve.append((event.step, self._step.loss if self._step else 0.0, event.iou))

    def _best_state(self) -> TrainingReport | None:
        from napari_peftsam.training import TrainingReport

        best, started, step = self._best, self.started, self._step
        if best is None or best.adapter is None or started is None:
            return None
        return TrainingReport(
            best.adapter, step.step if step else 0, step.seconds if step else 0.0,
            started.trainable_parameters, started.validation_iou, best.iou, best.step,
            best.verdict,
        )  # fmt: skip


class DocumentRun(FinetuningRun):
    """A run on the objects of a workspace's document; a better adapter becomes live there.

    It belongs to the project and the model that it was started with: its result is dropped
    if another one was opened or loaded meanwhile.

    Attributes
    ----------
    config
        Its settings.
    before
        Name of the adapter that was live at the start.
    entry
        The new version; None before the end, and if the earlier adapter stays live.
    """

    def __init__(self, workspace: Workspace, config: TrainingConfig) -> None:
        self._prepare: Callable[[], TrainingJob] | None = workspace.prepare_training(config)
        self.config, self.before = config, workspace.live.name
        self.entry: AdapterEntry | None = None
        self._is_dropped = False
        self._workspace, self._basis = workspace, workspace.basis
        model = workspace.engine.model
        super().__init__(model.name, str(model.device), self._promote)

    def prepare(self) -> TrainingJob:
        """Read images and objects as they were at the start; slow, once only, in any thread."""
        prepare, self._prepare = self._prepare, None  # the document keeps strokes for it
        assert prepare is not None
        return prepare()

    def events(self, training: Training) -> Training:
        """Yield the events of a training and deliver its best state, see `FinetuningRun`."""
        try:
            return (yield from super().events(training))
        finally:
            self._prepare = None  # a run that is cut off before it begins does not call it

    def drop(self) -> None:
        """Deliver nothing in the end: whoever closes a viewer or project need not wait for it."""
        self._is_dropped = True

    @property
    def replaced(self) -> str:
        """``"project"`` or ``"model"`` if another one took the place of the run's, else empty."""
        engine, project = self._workspace.basis
        if project is not self._basis[1]:
            return "project"
        return "" if engine is self._basis[0] else "model"

    def _promote(self, report: TrainingReport) -> str:
        if not self._is_dropped:
            self.entry = self._workspace.promote(report, tuple(self.curve), self._basis)
        return "" if self.entry is None else f" is live as {self.entry.name}"


@dataclass(frozen=True)
class FinetuneReport:
    """Result of a finetuning run.

    Attributes
    ----------
    val_iou_before, val_iou_after
        IoU on the held-out objects at the same prompts, of the model the run started
        from and of the state that was kept.
    best_step
        The step of that state; 0 if training made only worse ones.
    verdict
        Whether that state is better, and by how much.
    adapter
        Name of the new version, which is live in the project; empty without one.
    live
        Name of the adapter that is live in the project now; empty for folders.
    output
        The file that the state was written to, None without one.
    """

    steps: int
    seconds: float
    trainable_parameters: int
    val_iou_before: float
    val_iou_after: float
    best_step: int
    verdict: Verdict
    adapter: str = ""
    live: str = ""
    output: Path | None = None

    @classmethod
    def of(
        cls, report: TrainingReport, output: Path | None, adapter: str = "", live: str = ""
    ) -> FinetuneReport:
        """Return the report of a training whose best state was delivered."""
        return cls(
            report.steps, report.seconds, report.trainable_parameters,
            report.iou_before, report.iou_after, report.best_step, report.verdict, adapter, live,
            output,
        )  # fmt: skip

    @property
    def improved(self) -> bool:
        """True if the best state beats the model the run started from."""
        return bool(self.adapter) if self.live else self.verdict.is_better

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["verdict"] = self.verdict.to_dict()
        output = values.pop("output")
        if not values["live"]:
            del values["live"]
            return {**values, "adapter": str(output)}
        return {**values, "output": None if output is None else str(output)}


# --- here, from beginning to end --------------------------------------------------------


def finetune_document(
    workspace: Workspace,
    config: TrainingConfig,
    watch: Watch = lambda _: None,
    output: Path | None = None,
) -> FinetuneReport:
    """Train on a workspace's objects and make the best state live if it is better; slow.

    The run goes on from the live adapter if that has the same method and options. If it breaks
    off, its best state until then becomes live if it is better.

    Parameters
    ----------
    watch
        Called with every event; if it returns True the run ends early, with its best state.
    output
        Adapter file to write the best state to, None for none.
    """
    from napari_peftsam.peft import save_adapter

    run, asked = DocumentRun(workspace, config), threading.Event()
    job, model = run.prepare(), workspace.engine.bare_copy()  # the live model goes on answering
    report = finish(run.events(train(job, asked.is_set, model=model)), watch, asked)
    if output is not None:  # in the end: it may not be writable
        save_adapter(report.adapter, output)
    adapter = "" if run.entry is None else run.entry.name
    return FinetuneReport.of(report, output, adapter, workspace.live.name)


def finish(events: Training, watch: Watch, asked: threading.Event) -> TrainingReport:
    """Run a training to its end and return its report; an error of `watch` breaks it off.

    `watch` is called with every event; if it returns True, `asked` is set to end the run early.
    """
    report = run_inline(events, lambda event: asked.set() if watch(event) else None)
    assert report is not None  # nothing cuts it off
    return report


def _why_ended(error: Exception, model: str, device: str) -> str:
    """Return why a training broke off; raise `error` again if the program is at fault."""
    from napari_peftsam.models.memory import is_out_of_memory

    if isinstance(error, TrainingError):
        return str(error)
    if not is_out_of_memory(error):
        raise error
    return (
        f"not enough memory on {device} to train {model}: adapt fewer blocks "
        "(placement late-25%), or choose a smaller model or the device 'cpu'"
    )
