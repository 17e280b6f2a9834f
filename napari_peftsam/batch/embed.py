"""Embeddings of many images, and of large ones, put into the store."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.batch.cluster import open_workers
from napari_peftsam.batch.plan import (
    BatchEvent,
    BatchPlan,
    Stop,
    finished,
    image_of_batch,
    make_folder,
)
from napari_peftsam.batch.run import Task, TaskDone, TaskFunction
from napari_peftsam.embeddings import EmbeddingStore, Encoded, EncodeFailed, room_for, tile_grid
from napari_peftsam.errors import ConfigurationError, ExportError, PeftSamError
from napari_peftsam.files import find_images, image_shape
from napari_peftsam.metadata import ReadOptions
from napari_peftsam.models import Architecture, find_architecture
from napari_peftsam.planes import plane_of, read_plane
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import PixelArray, Plane

_PART = 4 * 1024**2  # pixels of a large plane per task: seconds of work
_DESCRIPTION = 2048  # bytes of an entry beside its values
_ACTIVATIONS = 2  # frozen-block activations kept of a plane in one tile, see `Engine`


Running = Generator[TaskDone[Any], None, list[TaskDone[Any]]]


@dataclass(frozen=True)
class _Part:
    """Part `number` (from 0) of `parts` of a plane, or of all planes, of an image file."""

    path: Path
    index: tuple[int, ...] | None = None
    number: int = 0
    parts: int = 1

    @property
    def name(self) -> str:
        plane = str(list(self.index)) if self.index else ""
        share = f", part {self.number + 1} of {self.parts}" if self.parts > 1 else ""
        return f"{self.path.name}{plane}{share}"


def embed_batch(
    images: Sequence[Path], plan: BatchPlan | None = None, stop: Stop = lambda: False
) -> Iterator[BatchEvent]:
    """Put the embeddings of images into the store, where docks and commands find them.

    Each plane of a stack is one task for the workers and has one embedding. A large plane is
    embedded tile by tile, in several tasks. Stored embeddings are not computed again, so a
    second run continues where the first one ended.

    Parameters
    ----------
    images
        Files or zarr folders, or folders of them.
    stop
        Asked several times per second; True ends the batch early.

    Yields
    ------
    BatchEvent
        `TaskDone` for each task, at last `BatchFinished`.
    """
    plan = plan or BatchPlan()
    model = find_architecture(plan.choice.model)
    paths = [path.absolute() for path in find_images(images)]
    options = plan.reading
    shapes = {path: _shape(path, options) for path in paths}
    problem = _read_only(plan.folder)
    needed = sum(_bytes_of_image(shape, model) for shape in shapes.values() if shape)
    _check_space(plan.folder, plan.space, needed)
    parts = [part for path, shape in shapes.items() for part in _parts(path, shape, model)]
    tasks = [Task(part.name, (part, options), str(part.path)) for part in parts]
    source = replace(plan.source, keeps_activations=True)  # as the docks do
    with open_workers(plan.cluster, len(tasks)) as workers:
        running = workers.run(TaskFunction(source, _embed_part), tasks, stop)
        done = yield from (running if problem is None else _known(running, problem))
    tiles = sum(event.result[0] for event in done if event.result)
    new = sum(event.result[1] for event in done if event.result)
    blank = tuple(name for event in done if event.result for name in event.result[2])
    yield finished(tasks, done, plan.folder, tiles=tiles, computed=new, blank=blank)


def _read_only(folder: Path) -> ExportError | None:
    """Make the store; return why it can only be read, if so. Where all is known, that is enough."""
    try:
        make_folder(folder)
    except ExportError as problem:
        if not folder.is_dir():
            raise
        return problem
    return None


def _known(running: Running, problem: ExportError) -> Running:
    """Yield the tasks that need no writing; raise `problem` at the first other one."""
    done = []
    with closing(running):
        for event in running:
            if isinstance(event.error, ExportError):
                raise problem
            done.append(event)
            yield event
    return done


def embed_plane(
    engine: Engine, name: str, plane: Plane, part: tuple[int, int] = (0, 1)
) -> Iterator[Encoded]:
    """Embed a plane, or part ``part[0]`` (from 0) of ``part[1]`` of a large one.

    Raises
    ------
    ImageError, CheckpointError
        If the plane or the model cannot be used; the message begins with `name`.
    """
    image, (number, parts) = engine.tiled(plane, name), part
    share = slice(*(len(image.grid) * n // parts for n in (number, number + 1)))
    for event in engine.embed_tiles(image, image.grid.ordered(part=share)):
        if isinstance(event, EncodeFailed):
            raise type(event.error)(f"{name}: {event.error}") from event.error
        if isinstance(event, Encoded):
            yield event


def _embed_part(
    engine: Engine, part: _Part, options: ReadOptions
) -> tuple[int, int, tuple[str, ...]]:
    """Store the embeddings of a part; return how many there are and how many are new.

    Planes of a stack without contrast, like the empty ones at its ends, have none: their names
    come last.
    """
    pixels = image_of_batch(part.path, options)
    tiles = computed = 0
    blank: list[str] = []
    for index in _plane_indices(pixels.shape) if part.index is None else [part.index]:
        name, plane = str(part.path) + str(list(index) or ""), plane_of(pixels, index)
        if index and part.parts == 1 and _is_blank(read_plane(plane, name)):
            blank.append(name)
            continue
        for event in embed_plane(engine, name, plane, part=(part.number, part.parts)):
            tiles, computed = tiles + 1, computed + (not event.from_store)
            if engine.store is not None and not event.kept:
                raise ExportError(
                    f"{engine.store.folder}: the embedding of {name} could not be stored: check "
                    "the free space and the permissions"
                )
    return tiles, computed, tuple(blank)


def _is_blank(values: PixelArray) -> bool:
    finite = values[np.isfinite(values)]
    return not finite.size or bool(finite.min() == finite.max())


def _plane_indices(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Return the places of the planes of an image or stack ``(..., H, W[, 3])``."""
    colours = len(shape) > 2 and shape[-1] == 3
    return np.ndindex(shape[: len(shape) - 2 - colours])


def _shape(path: Path, options: ReadOptions) -> tuple[int, ...] | None:
    try:
        return image_shape(path, options)
    except PeftSamError:
        return None  # its task will say so


def _parts(path: Path, shape: tuple[int, ...] | None, model: Architecture) -> list[_Part]:
    """Return the tasks for an image: one for each plane, several for each large one."""
    if shape is None:
        return [_Part(path)]
    *stack, height, width = shape
    parts = min(len(tile_grid((height, width), model)), math.ceil(height * width / _PART))
    return [
        _Part(path, index, number, parts) for index in np.ndindex(*stack) for number in range(parts)
    ]


def _bytes_of_image(shape: tuple[int, ...], model: Architecture) -> int:
    """Return the most that the embeddings of an image ``(..., H, W)`` take."""
    tiles = len(tile_grid(shape[-2:], model))
    number = 4 * model.grid**2 * model.orientations  # bytes of a float32 of each token
    size = tiles * (number * model.embedding_width + _DESCRIPTION)
    if tiles == 1 and model.adaptable:
        size += _ACTIVATIONS * (number * model.width + model.orientations * _DESCRIPTION)
    return math.prod(shape[:-2]) * size


def _check_space(folder: Path, space: int | None, needed: int) -> None:
    """Raise `ConfigurationError` if a store of `space` bytes cannot hold `needed` bytes.

    Without a `space`, the disk of the folder sets the limit.
    """
    size = f"the embeddings of these images take up to {needed / 1e9:.3g} GB"
    if space is not None and room_for(needed) > space:
        wanted = math.ceil(room_for(needed) / 1e6) / 1e3
        raise ConfigurationError(
            f"{size}, but {folder} may hold {space / 1e9:.3g} GB: the first ones would be removed "
            f"for the last; give --space {wanted:g}, or fewer images"
        )
    if space is None and needed > (free := shutil.disk_usage(folder).free):
        # Looking through the folder takes time, so only now: what is there is not made again.
        known = EmbeddingStore(folder).size_bytes()
        if needed > free + known:
            raise ConfigurationError(
                f"{size}, but there are {free / 1e9:.3g} GB free for {folder}: choose a --store "
                "on a larger disk, or fewer images"
            )
