"""One large image segmented by several processes, labels written region by region."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from napari_peftsam.app._batch_tasks import compose_region, nothing, segment_objects
from napari_peftsam.app._folders import check_not_an_input
from napari_peftsam.app.batch import (
    Batch,
    BatchEvent,
    BatchFinished,
    BatchPlan,
    Task,
    TaskFailed,
)
from napari_peftsam.app.large import check_label_output, check_zarr_output
from napari_peftsam.app.single import PromptedImage
from napari_peftsam.embeddings import tile_grid
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.export import ExportContext, create_labels
from napari_peftsam.files import atomic_path
from napari_peftsam.models import find_architecture
from napari_peftsam.types import Prompts, Window
from napari_peftsam.workers import Work, Workers, open_workers

__all__ = ["segment_spread"]

_PLACE = 2048  # pixels: objects so near to each other share tiles, hence a task
_TOGETHER = 32  # objects per task at most
_REGION = 2048  # pixels; a multiple of the chunks, so that no two tasks write one chunk

_Group = tuple[tuple[int, Prompts], ...]
ResultT = TypeVar("ResultT")


class _StoppedError(Exception):
    """The batch was asked to stop."""


def segment_spread(
    image: Path,
    prompts: Path,
    output: Path,
    plan: BatchPlan | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[BatchEvent]:
    """Segment the objects of a prompts file in one large image; the workers share them.

    Labels are those of `segment_file`. First the objects are predicted, neighbours by one
    worker, with the embeddings that this needs; then the labels are written, in disjoint
    regions of whole chunks. Memory does not depend on the size of the image. A second run
    finds the embeddings of one that was ended.

    Parameters
    ----------
    image
        One plane that is worked on in tiles, see `napari_peftsam.embeddings.tile_grid`.
    prompts
        A JSON file, see `read_prompts`; its object ``i`` (from 1) gets label ``i``.
    output
        The OME-Zarr folder to write; the workers must see its parent folder, too.
    stop
        Asked several times per second; True ends the batch early, without an output.

    Yields
    ------
    BatchEvent
        `BatchStarted`, `TaskDone`, at last `BatchFinished`.

    Raises
    ------
    ConfigurationError
        If the image fits one frame of the model, or `output` does not end in ``.zarr``.
    PeftSamError
        As `segment_file`, and if the workers cannot be used (`open_workers`).
    """
    plan = plan or BatchPlan()
    check_not_an_input(output, image, prompts)
    check_label_output(output)
    prompted = PromptedImage.open(image, prompts)
    height, width = prompted.pixels.shape[:2]
    if len(tile_grid((height, width), find_architecture(plan.choice.model))) == 1:
        raise ConfigurationError(
            f"{image} fits one frame of the model: use `segment`, or name a folder of images"
        )
    check_zarr_output(output, image.name, (height, width))
    here = Window(0, 0, height, width)
    asked = len(prompted.prompts)
    try:
        with (
            open_workers(plan.cluster, asked) as workers,
            tempfile.TemporaryDirectory(dir=output.parent, prefix=".tmp-") as scratch,
            atomic_path(output) as temporary,
        ):
            array = create_labels(temporary, here.shape, ExportContext(image_name=image.name))
            stages = _Stages(workers, stop, image)
            groups = _neighbours(prompted.prompts)
            yield from stages.predict(plan, groups, Path(scratch).absolute())
            yield from stages.compose(Path(temporary, array.path).absolute(), here)
    except _StoppedError:
        yield BatchFinished(1, 0, {}, output)
        return
    yield BatchFinished(1, 1, {}, output, objects=asked, empty=asked - len(stages.seen))


class _Stages:
    """What has become of the objects so far."""

    def __init__(self, workers: Workers, stop: Callable[[], bool], image: Path) -> None:
        self._workers, self._stop, self._image = workers, stop, image
        self._places: dict[int, tuple[Window, Path]] = {}
        self._stride = 1
        self.seen: set[int] = set()

    def predict(
        self, plan: BatchPlan, groups: Sequence[_Group], scratch: Path
    ) -> Iterator[BatchEvent]:
        """Predict all objects into files."""
        tasks = [
            Task(f"objects {group[0][0]}, ...", "", (self._image.absolute(), group, scratch))
            for group in groups
        ]
        for event, found in self._run(Work(plan.source, segment_objects), tasks):
            if found is not None:
                self._stride = found.stride
                self._places |= {n: (window, found.path) for n, window in found.windows.items()}
            yield event

    def compose(self, array: Path, plane: Window) -> Iterator[BatchEvent]:
        """Write the labels of all regions that hold an object."""
        tasks = [
            Task(
                f"labels at {region.row}, {region.col}", "", (array, region, objects, self._stride)
            )
            for region, objects in self._regions(plane)
        ]
        for event, seen in self._run(Work(nothing, compose_region), tasks):
            self.seen |= seen or set()
            yield event

    def _run(
        self, work: Work[Any, ResultT], tasks: Sequence[Task]
    ) -> Iterator[tuple[BatchEvent, ResultT | None]]:
        batch = Batch(tasks)
        for event, result in batch.run(self._workers, work, self._stop):
            if isinstance(event, TaskFailed):
                raise type(event.error)(f"{self._image}: {event.error}") from event.error
            yield event, result
        if not batch.complete:
            raise _StoppedError

    def _regions(self, plane: Window) -> list[tuple[Window, tuple[tuple[int, Path], ...]]]:
        """Return the regions with their objects, those in the order of labels."""
        regions: dict[tuple[int, int], list[tuple[int, Path]]] = defaultdict(list)
        for label, (window, path) in sorted(self._places.items()):
            inside = window & plane
            bottom, right = inside.stop
            for row in range(inside.row // _REGION, -(-bottom // _REGION)):
                for col in range(inside.col // _REGION, -(-right // _REGION)):
                    regions[row, col].append((label, path))
        whole = {at: Window(at[0] * _REGION, at[1] * _REGION, _REGION, _REGION) for at in regions}
        return [(whole[at] & plane, tuple(regions[at])) for at in sorted(regions)]


def _neighbours(prompts: Sequence[Prompts]) -> list[_Group]:
    """Return labels with prompts in groups that share tiles."""
    places: dict[tuple[int, int], list[tuple[int, Prompts]]] = defaultdict(list)
    for label, one in enumerate(prompts, start=1):
        row, col = one.extent.middle
        places[int(row) // _PLACE, int(col) // _PLACE].append((label, one))
    return [
        tuple(place[i : i + _TOGETHER])
        for _, place in sorted(places.items())
        for i in range(0, len(place), _TOGETHER)
    ]
