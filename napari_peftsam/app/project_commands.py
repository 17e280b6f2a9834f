"""Finetuning, evaluation and export of projects, one call each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from napari_peftsam.app.annotated import annotated_planes
from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.export_context import context_of
from napari_peftsam.app.finetuning import FinetuneReport, finetune_document
from napari_peftsam.app.folders import measure
from napari_peftsam.document import Document, DocumentImage, open_project
from napari_peftsam.errors import (
    ConfigurationError,
    ImageError,
    LabelError,
    PeftSamError,
)
from napari_peftsam.evaluation import EvaluationConfig, EvaluationEvent, EvaluationReport
from napari_peftsam.export import export_labels, export_target
from napari_peftsam.outputs import check_not_an_input, check_output
from napari_peftsam.projects import (
    attach_images,
    check_not_a_source,
    read_image_of,
)
from napari_peftsam.training import TrainEvent, TrainingConfig, check_images_given, team_size

Note = Callable[[str], object]


def project_model(project: Path) -> str:
    """Return the model that a project was last used with; ``"builtin"`` if there was none."""
    with closing(open_project(project, read_only=True)) as store:
        return Document(store).live.model or "builtin"


# --- finetuning ---------------------------------------------------------------------


def finetune_project(
    project: Path,
    config: TrainingConfig,
    choice: ModelChoice,
    output: Path | None = None,
    watch: Callable[[TrainEvent], bool | None] = lambda _: None,
    note: Note = lambda _: None,
) -> FinetuneReport:
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
        config = _by_id(config, document)
        workspace = choice.open(document=document)
        return finetune_document(workspace, config, watch, output)


def _by_id(config: TrainingConfig, document: Document) -> TrainingConfig:
    """Return the configuration with images by their id, which stays where a name changes."""
    ids = {image.name: str(image.id) for image in document.images.values()}
    check_images_given(ids, config)
    chosen = {"check_on": config.check_on, "leave_out": config.leave_out}
    return config.model_copy(
        update={key: tuple(ids[name] for name in names) for key, names in chosen.items()}
    )


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
    """
    with _annotated(project, note) as document:
        choice = choice or ModelChoice(document.live.model or "builtin")
        engine = choice.open(document=document).engine
        parts = annotated_planes(document, engine)()
        return measure(engine, parts, config, watch)


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
        context = context_of(chosen, classes=document.categories, pixels=pixels)
        return export_labels(chosen.labels, output, format_name, context)


def _image_called(document: Document, name: str | None, project: Path) -> DocumentImage:
    images = list(document.images.values())
    if not images:
        raise ConfigurationError(f"{project} holds no image: there is nothing to export")
    known = ", ".join(image.name for image in images)
    if name is None and len(images) > 1:
        raise ConfigurationError(
            f"{project} holds {len(images)} images: choose one of {known}, or name a folder for all"
        )
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
