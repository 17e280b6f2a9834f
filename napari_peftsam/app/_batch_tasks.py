"""What a worker does with an image, or a part of one; it builds the model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
import zarr

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.engine import Engine
from napari_peftsam.app.large import (
    SegmentReport,
    check_label_output,
    embed_plane,
    plane_indices,
)
from napari_peftsam.app.single import PromptedImage
from napari_peftsam.embeddings import EmbeddingStore, Encoded, PlaneEmbedding
from napari_peftsam.errors import ExportError, PeftSamError
from napari_peftsam.files import atomic_path, open_image
from napari_peftsam.planes import LazyImage, plane_of
from napari_peftsam.segmentation import RegionLabels, logits_in_pixels
from napari_peftsam.types import Earlier, PixelArray, Prompts, Window
from napari_peftsam.workers import Place

__all__ = [
    "Embedded",
    "EngineSource",
    "Found",
    "Part",
    "compose_region",
    "embed_part",
    "nothing",
    "segment_image",
    "segment_objects",
]

_Stamps = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class EngineSource:
    """How any process gets the model of a batch; called, it returns the one kept here.

    Attributes
    ----------
    store
        Folder of embeddings, which all processes share, and its disk space in bytes (None:
        nothing is removed from it).
    keeps_prefixes
        See `Engine`. Where only labels are wanted, it would waste space, and processes
        that use what others keep would have other rounding errors than one process alone.
    batch
        Tells batches apart: each opens images anew, since what lies in a zarr folder may be
        another image by then.
    """

    choice: ModelChoice
    store: tuple[Path, int | None]
    keeps_prefixes: bool = False
    batch: str = field(default_factory=lambda: uuid4().hex, compare=False)

    def __call__(self, place: Place) -> Engine:
        """Return the model with its adapter; slow the first time, and when a file changed.

        Raises
        ------
        PeftSamError
            See `ModelChoice.open`.
        """
        if place.threads is not None:
            torch.set_num_threads(place.threads)
        if place.number is not None and torch.cuda.is_available():
            torch.cuda.set_device(place.number % torch.cuda.device_count())
        _forget_images_before(self.batch)
        return _opened(self, _stamps(Path(self.choice.model), self.choice.adapter))


def _stamps(*files: Path | None) -> _Stamps:
    found = [(str(path), path.stat()) for path in files if path and path.exists()]
    return tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in found)


@lru_cache(maxsize=1)
def _opened(source: EngineSource, _stamps: _Stamps) -> Engine:
    engine = source.choice.open(EmbeddingStore(*source.store)).engine
    engine.keeps_prefixes = source.keeps_prefixes
    return engine


@lru_cache(maxsize=1)  # the parts of one image mostly come one after the other
def _opened_image(path: Path, _stamps: _Stamps) -> PixelArray | LazyImage:
    return open_image(path)


@lru_cache(maxsize=1)
def _forget_images_before(_batch: str) -> None:
    _opened_image.cache_clear()


def nothing(_place: Place) -> None:
    """Prepare nothing, for tasks that need no model."""


# --- embeddings ----------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Part `number` (from 0) of `parts` of a plane, or of all planes, of an image file."""

    path: Path
    index: tuple[int, ...] | None = None
    number: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Embedded:
    """How many tiles a part of a plane has (1 if it is one frame), and how many were new."""

    tiles: int
    computed: int


def embed_part(engine: Engine, part: Part) -> Embedded:
    """Put the embeddings of a part of an image plane into the store.

    Raises
    ------
    InputFileError, ImageError
        If the image cannot be used.
    ExportError
        If the store cannot keep an embedding.
    """
    pixels = _opened_image(part.path, _stamps(part.path))
    tiles = computed = 0
    for index in plane_indices(pixels.shape) if part.index is None else [part.index]:
        name, plane = str(part.path) + str(list(index) or ""), plane_of(pixels, index)
        for event in embed_plane(engine, name, plane, part=(part.number, part.parts)):
            tiles, computed = tiles + 1, computed + (not event.from_store)
            _check_stored(engine, name, event)
    return Embedded(tiles, computed)


def _check_stored(engine: Engine, name: str, made: Encoded) -> None:
    store = engine.store
    if store is not None and not made.kept:
        raise ExportError(
            f"{store.folder}: the embedding of {name} could not be stored: check the free space "
            "and the permissions"
        )


# --- labels --------------------------------------------------------------------------


def segment_image(
    engine: Engine, image: Path, prompts: Path, output: Path, scratch: Path
) -> SegmentReport:
    """Write the labels of one image; what `segment_file` does, and its errors.

    They are made in the folder `scratch`, on the same disk: whoever made that removes what
    a process that died left.
    """
    check_label_output(output)
    made = PromptedImage.open(image, prompts).segment(engine, scratch / output.name)
    with atomic_path(output) as temporary:
        made.output.rename(temporary)
    return replace(made, output=output)


@dataclass(frozen=True)
class Found:
    """The objects of one file in the scratch folder; by label, where they may have pixels."""

    path: Path
    windows: dict[int, Window]
    stride: int


def segment_objects(
    engine: Engine, image: Path, objects: Sequence[tuple[int, Prompts]], scratch: Path
) -> Found:
    """Predict objects of a large image, given by label, and put their logits into a file.

    Raises
    ------
    PromptError, ImageError
        If the prompts of an object or the image cannot be used.
    """
    tiled = engine.tiled(_opened_image(image, _stamps(image)), image.name)
    embedding = PlaneEmbedding(tiled.key(engine.model, engine.encoder_adapter), tiled)
    windows, arrays = {}, {}
    for label, prompts in objects:
        try:
            prediction = engine.predict(embedding, prompts)
        except PeftSamError as error:
            raise type(error)(f"object {label}: {error}") from error
        assert prediction is not None, "nobody swaps adapters here"
        best = prediction.earlier(0)
        windows[label] = logits_in_pixels(best, tiled.grid.stride)[1]
        arrays[f"logits{label}"] = best.logits
        arrays[f"offset{label}"] = np.array(best.offset)
    path = scratch / f"{objects[0][0]}.npz"
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]  # its other option is a flag
    return Found(path, windows, tiled.grid.stride)


def compose_region(
    _nothing: None, labels: Path, region: Window, objects: Sequence[tuple[int, Path]], stride: int
) -> frozenset[int]:
    """Write the labels of a region of whole chunks; return those that have a pixel in it.

    Regions are disjoint, so that several processes may write at once, and what a process
    that died left is simply written again.

    Parameters
    ----------
    labels
        The zarr array.
    objects
        Labels with the files that `segment_objects` put them into, in the order of labels.
    """
    values = np.zeros(region.shape, np.int32)
    regions = RegionLabels(values, np.zeros(region.shape, np.float32), (region.row, region.col))
    for label, path in objects:
        with np.load(path) as file:
            row, col = file[f"offset{label}"].tolist()
            best = Earlier(file[f"logits{label}"], (row, col))
            regions.write(label, *logits_in_pixels(best, stride))
    array = zarr.open_array(labels, mode="r+")
    array[region.slices] = values
    return frozenset(np.unique(values).tolist()) - {0}
