"""Finetuning and evaluation on folders of images and labels, one call each."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.finetuning import (
    FinetuneReport,
    FinetuningRun,
    TrainingJob,
    finish,
    train,
)
from napari_peftsam.configs import DEFAULT_BUDGET, AutomaticConfig, LabelsAre
from napari_peftsam.errors import ConfigurationError, ExportError, LabelError, PeftSamError
from napari_peftsam.evaluation import (
    AutomaticEvaluation,
    EvaluationConfig,
    EvaluationEvent,
    EvaluationProgress,
    EvaluationReport,
    LabelledImage,
    evaluate,
    evaluate_automatic,
)
from napari_peftsam.files import ImagePair, pair_folders
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ReadOptions
from napari_peftsam.models import pick_device
from napari_peftsam.normalisation import check_normalisable
from napari_peftsam.outputs import check_not_an_input, check_output
from napari_peftsam.peft import Adapter, dense_head_of, load_adapter, save_adapter
from napari_peftsam.segmentation.automatic import ProposalScorer
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.training import (
    AnnotatedPlane,
    TrainEvent,
    TrainingConfig,
    TrainingReport,
    check_images_given,
    cut_into_tiles,
    joined_team,
    team_size,
)

_log = logging.getLogger(__name__)
_NAMED = 5  # files in a message


def folder_planes(
    images: Path, labels: Path, options: ReadOptions = AS_THE_FILE_SAYS
) -> tuple[AnnotatedPlane, ...]:
    """Read all pairs of two folders; a stack gives one plane per slice with objects.

    Images without any object are left out, which the log says.

    Raises
    ------
    InputFileError, LabelError, ImageError
        If a folder or file cannot be used, or no image has an object; the message names it.
    """
    planes: list[AnnotatedPlane] = []
    empty: list[str] = []
    for pair in pair_folders(images, labels, options):
        found = list(_planes(pair))
        planes += found
        empty += [] if found else [pair.label_path.name]
    if not planes:
        raise LabelError(f"{labels}: no label image holds an object (all are 0): annotate some")
    if empty:
        named = ", ".join(empty[:_NAMED]) + (", ..." if len(empty) > _NAMED else "")
        _log.warning("left out %d images without objects: %s", len(empty), named)
    return tuple(planes)


def _planes(pair: ImagePair) -> Iterator[AnnotatedPlane]:
    file, labels = pair.open()
    pixels, channels = np.asarray(file.pixels), file.metadata.read_with.channels
    for index in np.ndindex(labels.shape[:-2]):
        if not labels[index].any():
            continue
        name = f"{pair.name}{list(index)}" if index else pair.name
        try:
            check_normalisable(pixels[index])  # better found now, with its name
        except PeftSamError as error:
            raise type(error)(f"{pair.image_path}: {error}") from error
        yield AnnotatedPlane(name, pair.name, pixels[index], labels[index], channels=channels)


def finetune_folders(  # noqa: PLR0913, PLR0917  # the command has as many options
    images: Path,
    labels: Path,
    output: Path,
    config: TrainingConfig | None = None,
    choice: ModelChoice | None = None,
    watch: Callable[[TrainEvent], bool | None] = lambda _: None,
    options: ReadOptions = AS_THE_FILE_SAYS,
) -> FinetuneReport:
    """Finetune on folders of images and labels and save the best adapter; slow.

    Processes that ``torchrun`` has started share the images of each step; one of them writes.

    The state of step 0 is a candidate too, so that `output` is always written, and not
    worse on the held-out objects than what the run started from by more than noise.

    Parameters
    ----------
    images, labels
        Folders whose files are paired by name.
    output
        The ``.safetensors`` file to write; checked before the training.
    config
        Method, budget and the rest; default: LoRA + COBOT for `DEFAULT_BUDGET` seconds. Every
        process needs an image per step.
    choice
        The model, and the adapter to go on from; its method and options take the place
        of those in `config` (see `choose_method`).
    watch
        Called with every event; if it returns True the run ends early, with its best state.
    options
        Axes, channels and the rest of what the files leave open.

    Raises
    ------
    PeftSamError
        If an input cannot be used (see `napari_peftsam.training.finetune` and
        `napari_peftsam.files.pair_folders`), or `output` cannot be written. If that
        happens after the training, the adapter is kept elsewhere and the message says where.
        If the training breaks off, its best state until then is written, if there is one.
    """
    choice = choice or ModelChoice()
    config = config or TrainingConfig(seconds=DEFAULT_BUDGET, images_per_step=team_size())
    if config.images_per_step < team_size():
        raise ConfigurationError(
            f"there are {team_size()} processes, but {config.images_per_step} images per step: "
            "take as many images at least, or start fewer processes"
        )
    device = pick_device(choice.device)
    with joined_team(device) as team:
        if team.leads:
            check_output(output, (".safetensors",))
            check_not_an_input(output, Path(choice.model))
        start = None if choice.adapter is None else load_adapter(choice.adapter)
        reading = choice.reading(options)
        planes = folder_planes(images, labels, reading)
        if config.check_on or config.leave_out:  # those without objects are not among the planes
            names = [pair.name for pair in pair_folders(images, labels, reading)]
            check_images_given(names, config)
        job = TrainingJob(
            str(choice.model), device, planes, config, start, precision=choice.precision
        )

        def deliver(report: TrainingReport) -> str:
            if not team.leads or (run.failure and not report.best_step):
                return ""
            _save(report.adapter, output)
            return f", of step {report.best_step}, was saved as {output}"

        run, asked = FinetuningRun(job.source, device, deliver), threading.Event()
        report = finish(run.events(train(job, asked.is_set, team=team)), watch, asked)
    return FinetuneReport.of(report, output)


def _save(adapter: Adapter, output: Path) -> None:
    try:
        save_adapter(adapter, output)
    except ExportError as error:
        # For the user alone, and of a name that nobody can foresee.
        refuge = Path(tempfile.mkdtemp(prefix="napari-peftsam-"), output.name)
        try:
            save_adapter(adapter, refuge)
        except ExportError:
            raise error from None
        raise ExportError(f"{error}; the trained adapter was kept at {refuge}") from error


def evaluate_folders(
    images: Path,
    labels: Path,
    config: EvaluationConfig | None = None,
    choice: ModelChoice | None = None,
    watch: Callable[[EvaluationEvent], object] = lambda _: None,
    options: ReadOptions = AS_THE_FILE_SAYS,
) -> EvaluationReport:
    """Measure how well prompts are answered on folders of images and labels; slow.

    Large images are worked on in tiles, as in use; an object is measured in the tile around
    its middle. Parameters are as in `finetune_folders`; figures as in `EvaluationReport`.
    """
    choice = choice or ModelChoice()
    planes = folder_planes(images, labels, choice.reading(options))
    engine = choice.open().engine
    return measure(engine, cut_into_tiles(planes, engine.model), config, watch)


def evaluate_folders_automatically(  # noqa: PLR0913, PLR0917
    images: Path,
    labels: Path,
    config: AutomaticConfig | None = None,
    choice: ModelChoice | None = None,
    watch: Callable[[EvaluationProgress], object] = lambda _: None,
    options: ReadOptions = AS_THE_FILE_SAYS,
    labels_are: LabelsAre = "complete",
) -> AutomaticEvaluation:
    """Measure how well all objects are found without prompts; slow.

    Parameters are as in `evaluate_folders`, and `labels_are` as in
    `napari_peftsam.evaluation.evaluate_automatic`.
    """
    choice = choice or ModelChoice()
    planes = folder_planes(images, labels, choice.reading(options))
    engine = choice.open().engine
    live = engine.live
    head, scorer = dense_head_of(engine.model, live.adapter), ProposalScorer.of(live.adapter)
    for event in evaluate_automatic(
        engine.model, _pairs(planes), config, labels_are, head, scorer, live.encoder
    ):
        if isinstance(event, AutomaticEvaluation):
            return event
        watch(event)
    raise AssertionError("the figures are the last event")


def measure(
    engine: Engine,
    planes: Iterable[AnnotatedPlane],
    config: EvaluationConfig | None,
    watch: Callable[[EvaluationEvent], object],
) -> EvaluationReport:
    """Measure how well a model answers prompts on annotated planes; slow."""
    event: EvaluationEvent | None = None
    for event in evaluate(engine.model, _pairs(planes), config, adapter=engine.live.encoder):
        watch(event)
    assert isinstance(event, EvaluationReport), "it is the last event"
    return event


def _pairs(planes: Iterable[AnnotatedPlane]) -> list[LabelledImage]:
    return [
        (plane.name, plane.pixels, plane.labels)
        if plane.limits is None
        else (plane.name, plane.pixels, plane.labels, plane.limits)
        for plane in planes
    ]
