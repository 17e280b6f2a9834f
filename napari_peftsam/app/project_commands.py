"""Finetuning, evaluation and export of projects, one call each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.app._annotated import annotated_planes
from napari_peftsam.app._folders import (
    check_not_an_input,
    check_output,
    labelled,
    why_ended,
)
from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import Document, DocumentImage, open_project
from napari_peftsam.errors import (
    ConfigurationError,
    ImageError,
    LabelError,
    PeftSamError,
    TrainingError,
)
from napari_peftsam.evaluation import (
    EvaluationConfig,
    EvaluationEvent,
    EvaluationReport,
    evaluate,
)
from napari_peftsam.export import ExportContext, export_labels, export_target
from napari_peftsam.peft import save_adapter
from napari_peftsam.projects import attach_images, check_not_a_source, read_image_of
from napari_peftsam.training import (
    TrainEvent,
    TrainingConfig,
    TrainingFinished,
    TrainingStarted,
    TrainingStep,
    Validated,
    team_size,
)

__all__ = [
    "ProjectFinetuneReport",
    "evaluate_project",
    "export_project",
    "finetune_document",
    "finetune_project",
    "project_model",
]

Note = Callable[[str], object]


@dataclass(frozen=True)
class ProjectFinetuneReport:
    """Result of finetuning on the objects of a project.

    Attributes
    ----------
    val_iou_before, val_iou_after
        IoU on the held-out objects at the same prompts, of the model that was live and of
        the best state.
    best_step
        The step of the best state.
    adapter
        Name of the new version, which is live; empty if it is no better and the earlier one
        stays live.
    live
        Name of the adapter that is live now.
    output
        The file that the best state was written to, None without one.
    """

    steps: int
    seconds: float
    trainable_parameters: int
    val_iou_before: float
    val_iou_after: float
    best_step: int
    adapter: str
    live: str
    output: Path | None = None

    @property
    def improved(self) -> bool:
        """Whether the new version is better than what was live."""
        return bool(self.adapter)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return {**asdict(self), "output": None if self.output is None else str(self.output)}


def project_model(project: Path) -> str:
    """Return the model that a project was last used with; ``"builtin"`` if there was none."""
    with closing(open_project(project, read_only=True)) as store:
        return Document(store).live.model or "builtin"


# --- finetuning ---------------------------------------------------------------------


def finetune_document(
    workspace: Workspace,
    config: TrainingConfig,
    watch: Callable[[TrainEvent], bool | None] = lambda _: None,
    output: Path | None = None,
) -> ProjectFinetuneReport:
    """Train on a workspace's objects and make the best state live if it is better; slow.

    Parameters
    ----------
    workspace
        With a model.
    config
        Method, budget and the rest. The run goes on from the live adapter if that has the
        same method and options.
    watch
        Called with every event; if it returns True the run ends early, with its best state.
    output
        Adapter file to write the best state to, None for none.

    Raises
    ------
    PeftSamError
        See `napari_peftsam.training.finetune`. If the training breaks off, its best state
        until then becomes live if it is better.
    """
    run, asked = _Run(), threading.Event()
    try:
        for event in workspace.finetune(config, asked.is_set):
            run.add(event)
            if watch(event):
                asked.set()
    except (RuntimeError, MemoryError, TrainingError) as error:
        model = workspace.engine.model
        message, best = why_ended(error, model.name, str(model.device)), run.best()
        entry = None if best is None else workspace.promote(best, run.curve)
        if entry is None:
            raise TrainingError(message) from error
        raise TrainingError(
            f"{message}; the best state until then is live as {entry.name}"
        ) from error
    finished = run.finished
    assert finished is not None, "a run ends with TrainingFinished"
    entry = workspace.promote(finished, run.curve)  # first: the file may not be writable
    if output is not None:
        save_adapter(finished.adapter, output)
    return ProjectFinetuneReport(
        finished.steps, finished.seconds, finished.trainable_parameters,
        finished.iou_before, finished.iou_after, finished.best_step,
        "" if entry is None else entry.name, workspace.adapters.live.name, output,
    )  # fmt: skip


def finetune_project(
    project: Path,
    config: TrainingConfig,
    choice: ModelChoice,
    output: Path | None = None,
    watch: Callable[[TrainEvent], bool | None] = lambda _: None,
    note: Note = lambda _: None,
) -> ProjectFinetuneReport:
    """Finetune on the objects of a project, as the viewer does; slow.

    The new version is saved in the project.

    Parameters
    ----------
    project
        The project file; must not be open elsewhere.
    config, watch, output
        As of `finetune_document`.
    choice
        The model; without an adapter, the project's live one is live.
    note
        Called with what the user must know: images that are missing, unreadable or changed.

    Raises
    ------
    PeftSamError
        If the project is open elsewhere or cannot be read, holds too few objects, or `output`
        cannot be written.
    """
    if team_size() > 1:
        raise ConfigurationError(
            f"there are {team_size()} processes, but one alone can train a project: start it "
            "without torchrun, or train on folders"
        )
    if output is not None:
        check_output(output, (".safetensors",))
        check_not_an_input(output, project)
    with _annotated(project, note, must_write=True) as document:
        workspace = choice.open(document=document)
        return finetune_document(workspace, config, watch, output)


@dataclass
class _Run:
    """Events of a training run so far."""

    started: TrainingStarted | None = None
    step: TrainingStep | None = None
    validated: Validated | None = None
    finished: TrainingFinished | None = None
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # step, loss, IoU

    def add(self, event: TrainEvent) -> None:
        if isinstance(event, TrainingStarted):
            self.started = event
        elif isinstance(event, TrainingStep):
            self.step = event
        elif isinstance(event, Validated):
            self.curve.append((event.step, 0.0 if self.step is None else self.step.loss, event.iou))
            self.validated = event if event.adapter is not None else self.validated
        elif isinstance(event, TrainingFinished):
            self.finished = event

    def best(self) -> TrainingFinished | None:
        """Return the best state of a run that broke off, None before the first step."""
        best, step, started = self.validated, self.step, self.started
        if best is None or best.adapter is None or best.step == 0 or step is None or not started:
            return None
        return TrainingFinished(
            best.adapter, step.step, step.seconds, started.trainable_parameters,
            started.validation_iou, best.iou, best.step,
        )  # fmt: skip


# --- evaluation ---------------------------------------------------------------------


def evaluate_project(
    project: Path,
    config: EvaluationConfig | None = None,
    choice: ModelChoice | None = None,
    watch: Callable[[EvaluationEvent], object] = lambda _: None,
    note: Note = lambda _: None,
) -> EvaluationReport:
    """Measure how well prompts are answered on the objects of a project; slow.

    The project may be open elsewhere. Parameters are as in `finetune_project`; figures as in
    `EvaluationReport`.

    Raises
    ------
    PeftSamError
        If the project cannot be read or holds no objects, see also
        `napari_peftsam.evaluation.evaluate`.
    """
    with _annotated(project, note) as document:
        choice = choice or ModelChoice(document.live.model or "builtin")
        engine = choice.open(document=document).engine
        planes = annotated_planes(document, engine)
        pairs = [labelled(part) for plane in planes for part in plane.read()]
        for event in evaluate(engine.model, pairs, config, adapter=engine.encoder_adapter):
            watch(event)
            if isinstance(event, EvaluationReport):
                return event
    raise AssertionError("an evaluation ends with its report")


# --- export -------------------------------------------------------------------------


def export_project(
    project: Path,
    image: str | None,
    output: Path,
    format_name: str,
    note: Note = lambda _: None,
) -> Path:
    """Write the labels of one image of a project, with their provenance.

    The project may be open elsewhere. Where the image cannot be read, the labels are written
    without it.

    Parameters
    ----------
    project
        The project file.
    image
        The image's name; None if there is only one.
    output, format_name
        As of `napari_peftsam.export.export_labels`.
    note
        Called with what the user must know about the image.

    Raises
    ------
    PeftSamError
        If the project cannot be read, has no such image, the image has no objects, or
        `output` cannot be written.
    """
    check_not_an_input(export_target(output, format_name), project)
    with closing(open_project(project, read_only=True)) as store:
        document = Document(store)
        check_not_a_source(document, export_target(output, format_name), store.path)
        chosen = _image_called(document, image, project)
        if not chosen.records:
            raise LabelError(f"{chosen.name} holds no object: there is nothing to export")
        pixels = None
        try:
            found, text = read_image_of(document, chosen)
            chosen.attach_pixels(found)
            pixels = np.asarray(chosen.pixels)
        except PeftSamError as error:
            text = f"{chosen.name}: {error}"
        if text:
            note(text)
        records = tuple(record.to_dict() for record in document.records(chosen.id))
        context = ExportContext(image_name=chosen.name, pixels=pixels, records=records)
        return export_labels(chosen.labels, output, format_name, context)


def _image_called(document: Document, name: str | None, project: Path) -> DocumentImage:
    images = list(document.images.values())
    if not images:
        raise ConfigurationError(f"{project} holds no image: there is nothing to export")
    known = ", ".join(image.name for image in images)
    if name is None and len(images) > 1:
        raise ConfigurationError(f"{project} holds {len(images)} images: choose one of {known}")
    for image in images:
        if name in (None, image.name):
            return image
    raise ConfigurationError(f"{project} holds no image {name!r}: choose one of {known}")


# --- opening ------------------------------------------------------------------------


@contextmanager
def _annotated(project: Path, note: Note, *, must_write: bool = False) -> Iterator[Document]:
    """Open a project whose objects are needed, and close it in the end."""
    with closing(open_project(project, read_only=True)) as store:  # before anything is written
        if not Document(store).planes_with_objects():
            raise LabelError(f"{project} holds no object: annotate some first")
    with closing(open_project(project, not must_write, must_write=must_write)) as store:
        document = Document(store)
        notes = attach_images(document)
        with_objects = {plane.image for plane in document.planes_with_objects()}
        if all(document.image(image).pixels is None for image in with_objects):
            raise ImageError("; ".join(notes))
        for text in notes:
            note(text)
        yield document
