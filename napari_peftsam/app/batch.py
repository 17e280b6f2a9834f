"""Many images, or parts of large ones, embedded or segmented by several processes."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from napari_peftsam.app._batch_tasks import EngineSource, Part, embed_part, segment_image
from napari_peftsam.app._folders import check_output
from napari_peftsam.app._space import bytes_of_images, check_space
from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.prompts_file import read_prompts
from napari_peftsam.embeddings import tile_grid
from napari_peftsam.errors import ConfigurationError, ExportError, InputFileError, PeftSamError
from napari_peftsam.files import image_shape, is_zarr, list_images, pair_prompts
from napari_peftsam.folders import embedding_folder
from napari_peftsam.models import Architecture, find_architecture
from napari_peftsam.workers import ClusterChoice, Outcome, Work, Workers, open_workers

__all__ = [
    "Batch",
    "BatchEvent",
    "BatchFinished",
    "BatchPlan",
    "BatchStarted",
    "Task",
    "TaskDone",
    "TaskFailed",
    "embed_batch",
    "segment_batch",
]

ResultT = TypeVar("ResultT")
_PART = 4 * 1024**2  # pixels of a large plane per task: seconds of work


@dataclass(frozen=True)
class BatchPlan:
    """How a batch is computed.

    Attributes
    ----------
    choice
        The model, built once by each worker; ``auto`` is the worker's best device.
    cluster
        The workers.
    store
        Folder of embeddings, which all workers share and where a later run finds them;
        default: that of the docks.
    space
        Disk space of that folder in bytes; what was not used for longest goes first. None:
        a batch removes nothing, since the folder may be shared with programs that were
        given more. Those go on to keep it to their own: the docks to their preference.
    """

    choice: ModelChoice = field(default_factory=ModelChoice)
    cluster: ClusterChoice = field(default_factory=ClusterChoice)
    store: Path | None = None
    space: int | None = None

    @property
    def folder(self) -> Path:
        """Where embeddings are kept."""
        return (self.store or embedding_folder()).expanduser().absolute()

    @property
    def source(self) -> EngineSource:
        """The model, by paths that do not depend on a process' working folder."""
        choice, model = self.choice, Path(self.choice.model)
        if model.is_file():
            choice = replace(choice, model=model.absolute())
        if choice.adapter is not None:
            choice = replace(choice, adapter=choice.adapter.absolute())
        return EngineSource(choice, (self.folder, self.space))


@dataclass(frozen=True)
class BatchStarted:
    """A stage begins: there are so many images, or parts of images, to work on."""

    total: int


@dataclass(frozen=True)
class TaskDone:
    """One more image, or part of one, is finished: `done` of `total`, failed ones included."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class TaskFailed:
    """An image, or a part of it, could not be worked on; the others go on."""

    name: str
    done: int
    total: int
    error: PeftSamError


@dataclass(frozen=True)
class BatchFinished:
    """All images are done, or the batch was asked to stop.

    Attributes
    ----------
    images
        How many are finished altogether, of `total`.
    failed
        What was wrong, by the name of the image.
    output
        Where the results are.
    tiles, computed
        Embeddings there are now (one per plane, or tile of a large plane), and how many of
        them were not in the store before; None where results are labels.
    objects, empty
        Objects that were asked for, and how many of them have no pixel; None where results
        are embeddings.
    """

    total: int
    images: int
    failed: dict[str, str]
    output: Path
    tiles: int | None = None
    computed: int | None = None
    objects: int | None = None
    empty: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that apply, ready for JSON."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "output": str(self.output)}


BatchEvent = BatchStarted | TaskDone | TaskFailed | BatchFinished


def embed_batch(
    images: Sequence[Path],
    plan: BatchPlan | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[BatchEvent]:
    """Put the embeddings of images into the store, where docks and commands find them.

    Each plane of a stack has one, and is a task of the workers; a large plane is embedded
    tile by tile and is several. What is in the store is not computed again, so that a
    second run goes on where the first was ended.

    Parameters
    ----------
    images
        Files or zarr folders, or folders of them.
    stop
        Asked several times per second; True ends the batch early.

    Yields
    ------
    BatchEvent
        `BatchStarted`, then `TaskDone` or `TaskFailed`, at last `BatchFinished`.

    Raises
    ------
    InputFileError
        If there is no image.
    ConfigurationError
        If the store or its disk has no space for all of the embeddings.
    ExportError
        If the store cannot be written.
    PeftSamError
        If the model cannot be used (`ModelChoice.open`) or the workers cannot be
        (`open_workers`, `Workers.run`).
    """
    plan = plan or BatchPlan()
    model = find_architecture(plan.choice.model)
    shapes = {path: _shape(path) for path in [path.absolute() for path in _images(images)]}
    _make_folder(plan.folder)
    needed = bytes_of_images(filter(None, shapes.values()), model)
    check_space(plan.folder, plan.space, needed)
    parts = [part for path, shape in shapes.items() for part in _parts(path, shape, model)]
    batch = Batch([Task(_name(part), str(part.path), (part,)) for part in parts])
    work = Work(replace(plan.source, keeps_prefixes=True), embed_part)  # as the docks do
    tiles = computed = 0
    with open_workers(plan.cluster, len(parts)) as workers:
        for event, result in batch.run(workers, work, stop):
            if result is not None:
                tiles, computed = tiles + result.tiles, computed + result.computed
            yield event
    yield replace(batch.finished(plan.folder), tiles=tiles, computed=computed)


def segment_batch(
    images: Path,
    prompts: Path,
    output: Path,
    plan: BatchPlan | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[BatchEvent]:
    """Segment prompted objects in the images of a folder; one OME-Zarr of labels for each.

    Labels are those of `segment_file`. A second run writes them again, the same ones; what
    takes the time, embedding, it finds in the store.

    Parameters
    ----------
    images, prompts
        Folders of images and of prompts files (see `read_prompts`), paired by name.
    output
        Folder for ``NAME.ome.zarr``; made if need be.
    stop
        Asked several times per second; True ends the batch early.

    Yields
    ------
    BatchEvent
        As `embed_batch`.

    Raises
    ------
    InputFileError
        If no image has prompts.
    PromptError
        If a prompts file is not valid.
    ExportError
        If `output` cannot be written.
    PeftSamError
        As `embed_batch`.
    """
    plan = plan or BatchPlan()
    pairs = pair_prompts(images, prompts)
    if output.exists() and output.samefile(images):
        raise ConfigurationError(f"{output} is the folder of the images: choose another one")
    for _, _, asked in pairs:
        read_prompts(asked)
    _make_folder(output)
    folder = output.absolute()
    objects = empty = 0
    with (
        tempfile.TemporaryDirectory(
            dir=folder, prefix=".tmp-", ignore_cleanup_errors=True
        ) as made,  # of this run alone: others may write into the folder, too
        open_workers(plan.cluster, len(pairs)) as workers,
    ):
        batch = Batch([
            Task(
                name,
                name,
                (image.absolute(), asked.absolute(), folder / f"{name}.ome.zarr", Path(made)),
            )
            for name, image, asked in pairs
        ])  # fmt: skip
        for event, report in batch.run(workers, Work(plan.source, segment_image), stop):
            if report is not None:
                objects, empty = objects + report.objects, empty + len(report.empty)
            yield event
    yield replace(batch.finished(output), objects=objects, empty=empty)


@dataclass(frozen=True)
class Task:
    """What is done for an image, or for a part of it, and what to call it."""

    name: str
    image: str
    arguments: tuple[Any, ...]


class Batch:
    """Tasks on their way.

    Parameters
    ----------
    tasks
        Those of one image may be several.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._done = 0
        self._left = Counter(task.image for task in tasks)
        self._failed: dict[str, str] = {}

    def run(
        self, workers: Workers, work: Work[Any, ResultT], stop: Callable[[], bool]
    ) -> Iterator[tuple[BatchEvent, ResultT | None]]:
        """Yield an event per task, with its result if it has one."""
        yield BatchStarted(len(self._tasks)), None
        for outcome in workers.run(work, [task.arguments for task in self._tasks], stop):
            yield self._event(outcome), outcome.result

    def _event(self, outcome: Outcome[Any]) -> BatchEvent:
        task, total = self._tasks[outcome.index], len(self._tasks)
        self._done += 1
        if outcome.error is None:
            self._left[task.image] -= 1
            return TaskDone(task.name, self._done, total)
        self._failed.setdefault(task.image, str(outcome.error))
        return TaskFailed(task.name, self._done, total, outcome.error)

    @property
    def complete(self) -> bool:
        """Whether no task is left."""
        return self._done == len(self._tasks)

    def finished(self, output: Path) -> BatchFinished:
        """Return what the tasks came to."""
        done = sum(left == 0 for left in self._left.values())
        return BatchFinished(len(self._left), done, dict(self._failed), output)


def _images(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        folder = source.is_dir() and not is_zarr(source)
        inside = list(list_images(source).values()) if folder else [source]
        if not inside:
            raise InputFileError(f"{source}: holds no image; name a folder of images, or an image")
        found += inside
    return found


def _shape(path: Path) -> tuple[int, ...] | None:
    try:
        return image_shape(path)
    except PeftSamError:
        return None  # its task will say so


def _parts(path: Path, shape: tuple[int, ...] | None, model: Architecture) -> list[Part]:
    """Return the tasks for an image: one for each plane, some for each large one."""
    if shape is None:
        return [Part(path)]
    *stack, height, width = shape
    tiles = len(tile_grid((height, width), model))
    parts = min(tiles, math.ceil(height * width / _PART))
    return [
        Part(path, index, number, parts) for index in np.ndindex(*stack) for number in range(parts)
    ]


def _name(part: Part) -> str:
    plane = str(list(part.index)) if part.index else ""
    share = f", part {part.number + 1} of {part.parts}" if part.parts > 1 else ""
    return f"{part.path.name}{plane}{share}"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(
            f"cannot write {folder}: {error.strerror or error}; choose a folder you may write to"
        ) from error
    check_output(folder / "entry")
