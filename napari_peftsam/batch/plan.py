"""Plans of batches: the model, the workers, the tasks and their results."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import InitVar, asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from napari_peftsam.batch.cluster import ClusterChoice
from napari_peftsam.batch.run import Task, TaskDone, Worker
from napari_peftsam.errors import ExportError
from napari_peftsam.folders import embedding_folder, expanded
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ReadOptions
from napari_peftsam.types import ModelReference

if TYPE_CHECKING:
    from napari_peftsam.embeddings import EmbeddingStore
    from napari_peftsam.planes import LazyImage
    from napari_peftsam.segmentation.engine import Engine
    from napari_peftsam.types import PixelArray

_log = logging.getLogger(__name__)
R = TypeVar("R")
Stop = Callable[[], bool]
_Stamps = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class ModelSource:
    """Choice of a model and its device.

    Attributes
    ----------
    model
        A name of the registry, or the path of a checkpoint; with its frame, as ``vit_b@512``.
    adapter
        An adapter file made for this model; None for the bare model.
    device
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    precision
        ``auto``, ``fp32``, ``bf16`` or ``fp16``, see `napari_peftsam.models.pick_precision`.
    frame
        Only to make it with: takes the place of the frame in `model`; None changes nothing.
    """

    model: str | Path = "builtin"
    adapter: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    frame: InitVar[int | None] = None

    def __post_init__(self, frame: int | None) -> None:
        if frame is not None:
            reference = replace(ModelReference.parse(self.model), frame=frame)
            object.__setattr__(self, "model", str(reference))

    def reading(self, options: ReadOptions) -> ReadOptions:
        """Return options that read the adapter's own channels where none are chosen."""
        from napari_peftsam.peft import load_adapter

        channels = "" if self.adapter is None else load_adapter(self.adapter).channels
        chosen = options.channels.lower()
        is_named = not any(part.isdigit() for part in (*chosen.split(","), channels))
        if channels and chosen and is_named and chosen != channels.lower():
            _log.warning(
                "%s was trained with the channels %s, not with %s",
                self.adapter, channels, options.channels,
            )  # fmt: skip
        return replace(options, default_channels=channels)

    def engine(self, store: EmbeddingStore | None = None) -> Engine:
        """Return the model with its adapter live; slow."""
        from napari_peftsam.models import build, pick_device
        from napari_peftsam.peft import load_adapter
        from napari_peftsam.segmentation.engine import Engine

        model = build(self.model, pick_device(self.device), precision=self.precision)
        engine = Engine(model, store)
        if self.adapter is not None:
            engine.use(load_adapter(self.adapter))
        return engine


@dataclass(frozen=True)
class EngineSource:
    """A model that each process builds once; a call returns the process's instance.

    Attributes
    ----------
    store
        Folder of embeddings, which all processes share, and its disk space in bytes (None:
        nothing is removed from it).
    keeps_activations
        See `Engine`. For labels alone it would waste space, and processes that use what
        others keep would have other rounding errors than one process alone.
    batch
        Identity of the batch: each opens images anew, as a zarr folder may hold another
        image by then.
    """

    source: ModelSource
    store: tuple[Path, int | None]
    keeps_activations: bool = False
    batch: str = field(default_factory=lambda: uuid4().hex, compare=False)

    def __call__(self, worker: Worker) -> Engine:
        """Return the model with its adapter; slow the first time, and when a file changed."""
        import torch

        if worker.threads is not None:
            torch.set_num_threads(worker.threads)
        if worker.number is not None and torch.cuda.is_available():
            torch.cuda.set_device(worker.number % torch.cuda.device_count())
        _forget_images_before(self.batch)
        source = ModelReference.parse(self.source.model).source
        return _opened(self, _stamps(Path(source), self.source.adapter))


def image_of_batch(path: Path, options: ReadOptions = AS_THE_FILE_SAYS) -> PixelArray | LazyImage:
    """Open an image; the last one is kept in this process until its file changes."""
    return _opened_image(path, options, _stamps(path))


def _stamps(*files: Path | None) -> _Stamps:
    found = [(str(path), path.stat()) for path in files if path and path.exists()]
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in found)


@lru_cache(maxsize=1)
def _opened(source: EngineSource, _stamps: _Stamps) -> Engine:
    from napari_peftsam.embeddings import EmbeddingStore

    engine = source.source.engine(EmbeddingStore(*source.store))
    engine.keeps_activations = source.keeps_activations
    return engine


@lru_cache(maxsize=1)  # the parts of one image mostly come one after the other
def _opened_image(path: Path, options: ReadOptions, _stamps: _Stamps) -> PixelArray | LazyImage:
    from napari_peftsam.files import open_image

    return open_image(path, options).pixels


@lru_cache(maxsize=1)
def _forget_images_before(_batch: str) -> None:
    _opened_image.cache_clear()


@dataclass(frozen=True)
class BatchPlan:
    """Model, workers and store of a batch.

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
        a batch removes nothing, since the folder may be shared with programs that have a
        larger budget. Those keep to their own: the docks to their preference.
    options
        Axes, channels and the rest of what the image files leave open.
    """

    choice: ModelSource = field(default_factory=ModelSource)
    cluster: ClusterChoice = field(default_factory=ClusterChoice)
    store: Path | None = None
    space: int | None = None
    options: ReadOptions = AS_THE_FILE_SAYS

    @property
    def reading(self) -> ReadOptions:
        """The options, with the adapter's own channels where none are chosen."""
        return self.choice.reading(self.options)

    @property
    def folder(self) -> Path:
        """Folder of the embeddings."""
        return expanded(self.store or embedding_folder()).absolute()

    @property
    def source(self) -> EngineSource:
        """The model, by paths that do not depend on a process' working folder."""
        choice, model = self.choice, Path(self.choice.model)
        if model.is_file():
            choice = replace(choice, model=model.absolute())
        if choice.adapter is not None:
            choice = replace(choice, adapter=choice.adapter.absolute())
        return EngineSource(choice, (self.folder, self.space))


# --- events --------------------------------------------------------------------------


@dataclass(frozen=True)
class BatchFinished:
    """All images are done, or the batch was asked to stop.

    Attributes
    ----------
    images
        Finished images of `total`, in this and earlier stages.
    failed
        Reasons by the name of the image.
    output
        File or folder of the results.
    tiles, computed
        Embeddings there are now (one per plane, or tile of a large plane), and how many of
        them were not in the store before; None where results are labels.
    blank
        Names of planes of a stack without any contrast, which have no embedding.
    objects, empty
        Objects, and how many prompted ones have no pixel; None where results are embeddings.
    per_image
        Objects and ``stages`` of each finished image that was segmented without prompts.
    """

    total: int
    images: int
    failed: dict[str, str]
    output: Path
    tiles: int | None = None
    computed: int | None = None
    objects: int | None = None
    empty: int | None = None
    blank: tuple[str, ...] = ()
    per_image: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the figures that apply, ready for JSON."""
        values = {name: v for name, v in asdict(self).items() if v is not None and v != ()}
        return {**values, "output": str(self.output)}


BatchEvent = TaskDone[Any] | BatchFinished


def finished(
    tasks: Sequence[Task], done: Sequence[TaskDone[Any]], output: Path, **figures: Any
) -> BatchFinished:
    """Return the report of a batch; an image is finished when all of its tasks are."""
    left = Counter(task.image for task in tasks)
    failed: dict[str, str] = {}
    for event in done:
        if event.error is None:
            left[event.task.image] -= 1
        else:
            failed.setdefault(event.task.image, str(event.error))
    images = sum(number == 0 for number in left.values())
    return BatchFinished(len(left), images, failed, output, **figures)


def make_folder(folder: Path) -> None:
    """Make a folder for results; raise `ExportError` if it is not writable."""
    from napari_peftsam.folders import create_folder
    from napari_peftsam.outputs import check_output, write_failure

    try:
        create_folder(folder)
    except OSError as error:
        raise ExportError(f"cannot write {folder}: {write_failure(error)}") from error
    check_output(folder / "entry")
