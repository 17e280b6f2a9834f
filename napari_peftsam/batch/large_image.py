"""Segmentation of one large image by several processes, region by region."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import zarr

from napari_peftsam.batch.cluster import open_workers
from napari_peftsam.batch.plan import (
    BatchEvent,
    BatchFinished,
    BatchPlan,
    Stop,
    image_of_batch,
)
from napari_peftsam.batch.run import Task, TaskDone, TaskFunction, Worker, Workers
from napari_peftsam.batch.segment import PromptedImage, check_zarr_output
from napari_peftsam.embeddings import PlaneEmbedding, tile_grid
from napari_peftsam.errors import ConfigurationError, PeftSamError
from napari_peftsam.export import create_labels
from napari_peftsam.files import atomic_path, temporary_prefix
from napari_peftsam.metadata import ReadOptions
from napari_peftsam.models import find_architecture
from napari_peftsam.segmentation import RegionLabels, logits_in_pixels
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import MaskPrompt, Prompts, Window

_PLACE = 2048  # pixels: objects so near to each other share tiles, hence a task
_TOGETHER = 32  # objects per task at most
_REGION = 2048  # pixels; a multiple of the chunks, so that no two tasks write one chunk

_Group = tuple[tuple[int, Prompts], ...]
R = TypeVar("R")


class _StoppedError(Exception):
    """The batch was asked to stop."""


def segment_large_image(
    image: Path,
    prompts: Path,
    output: Path,
    plan: BatchPlan | None = None,
    stop: Stop = lambda: False,
) -> Iterator[BatchEvent]:
    """Segment the objects of a prompts file in one large image; the workers share them.

    The labels equal the ones of `napari_peftsam.segment_file`. First the objects are predicted,
    neighbours by one worker, with the embeddings that this needs; then the labels are
    written, in disjoint regions of whole chunks. Memory does not depend on the size of the
    image. A second run reuses the embeddings of an interrupted one.

    Parameters
    ----------
    image
        One plane of several tiles, see `napari_peftsam.embeddings.tile_grid`.
    prompts
        A JSON file, see `read_prompts`; its object ``i`` (from 1) gets label ``i``.
    output
        The OME-Zarr folder to write; the workers must see its parent folder, too.
    stop
        Asked several times per second; True ends the batch early, without an output.

    Yields
    ------
    BatchEvent
        `TaskDone` for each task of two stages, at last `BatchFinished`.

    Raises
    ------
    ConfigurationError
        If the image is a single tile, or `output` does not end in ``.zarr``.
    PeftSamError
        If an input, the output or the workers cannot be used.
    """
    plan = plan or BatchPlan()
    options = plan.reading
    prompted = PromptedImage.open(image, prompts, output, options)
    height, width = prompted.pixels.shape[:2]
    if len(tile_grid((height, width), find_architecture(plan.choice.model))) == 1:
        raise ConfigurationError(
            f"{image} fits one frame of the model: use `segment`, or name a folder of images"
        )
    check_zarr_output(output, image.name, (height, width))
    given = prompted.prompts or ()
    asked, plane = len(given), Window(0, 0, height, width)
    try:
        with (
            open_workers(plan.cluster, asked) as workers,
            tempfile.TemporaryDirectory(dir=output.parent, prefix=temporary_prefix()) as scratch,
            atomic_path(output) as temporary,
        ):
            array = create_labels(temporary, (height, width), prompted.context)
            tasks = _predictions(prompted, Path(scratch).absolute(), options)
            predicting = TaskFunction(plan.source, _predict_objects)
            found = yield from _run(workers, predicting, tasks, stop, image)
            places = {label: place for one in found for label, place in one.items()}
            tasks = _compositions(places, plane, Path(temporary, array.path).absolute())
            composing = TaskFunction(_nothing, _compose_region)
            seen = yield from _run(workers, composing, tasks, stop, image)
    except _StoppedError:
        yield BatchFinished(1, 0, {}, output)
        return
    yield BatchFinished(1, 1, {}, output, objects=asked, empty=asked - len(set().union(*seen)))


def _run(
    workers: Workers, function: TaskFunction[R], tasks: Sequence[Task], stop: Stop, image: Path
) -> Generator[TaskDone[R], None, list[R]]:
    """Run one stage and return its results; the first failure, or a stop, ends it."""
    results: list[R] = []
    for event in workers.run(function, tasks, stop):
        if event.error is not None:
            raise type(event.error)(f"{image}: {event.error}") from event.error
        results += [event.result] if event.result is not None else []
        yield event
    if len(results) < len(tasks):
        raise _StoppedError
    return results


def _predictions(prompted: PromptedImage, scratch: Path, options: ReadOptions) -> list[Task]:
    """Return the tasks of the first stage: objects whose prompts share tiles."""
    image, options = prompted.path.absolute(), replace(options, own_planes=True)
    return [
        Task(f"objects {group[0][0]}, ...", (image, group, scratch, options))
        for group in _neighbours(prompted.prompts or ())
    ]


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


def _compositions(
    places: dict[int, tuple[Window, Path]], plane: Window, labels: Path
) -> list[Task]:
    """Return the tasks of the second stage: regions, with their objects in the order of labels."""
    regions: dict[tuple[int, int], list[tuple[int, Path]]] = defaultdict(list)
    for label, (window, path) in sorted(places.items()):
        inside = window & plane
        bottom, right = inside.stop
        for row in range(inside.row // _REGION, -(-bottom // _REGION)):
            for col in range(inside.col // _REGION, -(-right // _REGION)):
                regions[row * _REGION, col * _REGION].append((label, path))
    return [
        Task(
            f"labels at {row}, {col}",
            (labels, Window(row, col, _REGION, _REGION) & plane, tuple(objects)),
        )
        for (row, col), objects in sorted(regions.items())
    ]


def _predict_objects(
    engine: Engine, image: Path, objects: _Group, scratch: Path, options: ReadOptions
) -> dict[int, tuple[Window, Path]]:
    """Put the logits of objects into a file; return for each label its window and the file."""
    tiled = engine.tiled(image_of_batch(image, options), image.name)
    embedding = PlaneEmbedding(tiled.key(engine.model, engine.live.encoder), tiled)
    path, stride = scratch / f"{objects[0][0]}.npz", tiled.grid.stride
    windows, arrays = {}, {"stride": np.array(stride)}
    for label, prompts in objects:
        try:
            prediction = engine.predict(embedding, prompts)
        except PeftSamError as error:
            raise type(error)(f"object {label}: {error}") from error
        assert prediction is not None, "nobody swaps adapters here"
        best = prediction.mask_prompt(0)
        windows[label] = logits_in_pixels(best, stride)[1], path
        arrays[f"logits{label}"], arrays[f"offset{label}"] = best.logits, np.array(best.offset)
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]  # its other option is a flag
    return windows


def _nothing(_worker: Worker) -> None:
    """Prepare nothing: composing needs no model."""


def _compose_region(
    _nothing: None, labels: Path, region: Window, objects: Sequence[tuple[int, Path]]
) -> frozenset[int]:
    """Write the labels of a region of whole chunks; return those that have a pixel in it.

    Regions are disjoint, so that several processes may write at once, and what a process
    that died left is simply written again.

    Parameters
    ----------
    labels
        The zarr array.
    objects
        Labels with the files of `_predict_objects`, in the order of labels.
    """
    values = np.zeros(region.shape, np.int32)
    regions = RegionLabels(values, np.zeros(region.shape, np.float32), (region.row, region.col))
    for label, path in objects:
        with np.load(path) as file:
            row, col = file[f"offset{label}"].tolist()
            best = MaskPrompt(file[f"logits{label}"], (row, col))
            regions.write(label, *logits_in_pixels(best, int(file["stride"])))
    array = zarr.open_array(labels, mode="r+")
    array[region.slices] = values
    return frozenset(np.unique(values).tolist()) - {0}
