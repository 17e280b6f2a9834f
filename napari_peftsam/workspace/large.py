"""Large images without a viewer: all tiles embedded, prompted objects written as labels."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_peftsam.embeddings import (
    Embedding,
    EmbedEvent,
    Encoded,
    EncodeFailed,
    EncodeProgress,
    EncodeStarted,
    TiledEmbedding,
    TiledImage,
    is_large,
)
from napari_peftsam.errors import ConfigurationError, ExportError
from napari_peftsam.export import ExportContext, check_replaceable, create_labels
from napari_peftsam.files import atomic_path, open_image
from napari_peftsam.planes import plane_of
from napari_peftsam.segmentation import Predictor, RegionLabels, segment
from napari_peftsam.types import LabelArray, Plane, Prompts, Window
from napari_peftsam.workspace._folders import check_output
from napari_peftsam.workspace.engine import Engine

__all__ = [
    "EmbedProgress",
    "EmbedReport",
    "SegmentReport",
    "check_label_output",
    "check_zarr_output",
    "embed_images",
    "embed_plane",
    "plane_indices",
    "segment_large",
    "segment_plane",
]

_CHUNK = 1024  # pixels along each axis of the scratch array


@dataclass(frozen=True)
class SegmentReport:
    """What a segmentation came to: objects asked for, labels without a pixel, the file."""

    objects: int
    empty: tuple[int, ...]
    output: Path

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return {**asdict(self), "empty": list(self.empty), "output": str(self.output)}


@dataclass(frozen=True)
class EmbedProgress:
    """How far the embedding of images is.

    Attributes
    ----------
    name
        The image, or its plane.
    tile, tiles
        Tile number `tile` (from 1) of as many; 1 of 1 for a plane that fits one frame.
    fraction
        Share of this plane that is done, in [0, 1].
    """

    name: str
    tile: int
    tiles: int
    fraction: float


@dataclass(frozen=True)
class EmbedReport:
    """Planes and tiles that were embedded, and how many of the tiles were stored before."""

    planes: int
    tiles: int
    from_store: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return asdict(self)


def embed_images(
    engine: Engine, images: Sequence[Path], first: Window | None = None
) -> Generator[EmbedProgress | EmbedReport]:
    """Embed all planes of images into the engine's store; large ones tile by tile.

    What is stored is passed over: an interrupted run goes on where it was. Closeable;
    memory does not depend on the size of the images.

    Parameters
    ----------
    engine
        With a store.
    images
        Files or zarr folders.
    first
        The tiles nearest to this window of a large plane come first, e.g. the visible ones.

    Yields
    ------
    EmbedProgress or EmbedReport
        The report comes last.

    Raises
    ------
    InputFileError, ImageError, CheckpointError
        If an image or the model cannot be used; the message names the image.
    ConfigurationError
        If the engine has no store.
    """
    if engine.store is None:
        raise ConfigurationError("there is no store to embed into: give the engine one")
    planes = tiles = stored = 0
    for path in images:
        pixels = open_image(path)
        for index in plane_indices(pixels.shape):
            planes += 1
            name = f"{path.name}{list(index) if index else ''}"
            for event in embed_plane(engine, name, plane_of(pixels, index), first):
                if isinstance(event, EmbedProgress):
                    yield event
                else:
                    tiles, stored = tiles + 1, stored + event.from_store
    yield EmbedReport(planes, tiles, stored)


def plane_indices(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return where the planes of an image or stack ``(..., H, W[, 3])`` are."""
    colours = len(shape) > 2 and shape[-1] == 3
    return tuple(np.ndindex(shape[: len(shape) - 2 - colours]))


def embed_plane(
    engine: Engine,
    name: str,
    plane: Plane,
    first: Window | None = None,
    part: tuple[int, int] = (0, 1),
) -> Iterator[EmbedProgress | Encoded]:
    """Embed a plane, or part number `part` (from 0) of so many parts of it.

    A plane that fits one frame is part 0 altogether. See `embed_images`.
    """
    events: Iterator[EmbedEvent]
    number, parts = part
    if is_large(plane.shape, engine.model):
        image = engine.tiled(plane, name)
        ordered = image.grid.ordered(first)
        begin, end = (len(ordered) * n // parts for n in (number, number + 1))
        events = engine.embed_tiles(image, ordered[begin:end])
    elif number == 0:
        events = engine.embed(name, plane)
    else:
        return
    tile, tiles = 1, 1
    for event in events:
        if isinstance(event, EncodeFailed):
            raise type(event.error)(f"{name}: {event.error}") from event.error
        if isinstance(event, EncodeStarted):
            tile, tiles = event.index + 1, event.total
        done = event.fraction if isinstance(event, EncodeProgress) else 0.0
        if isinstance(event, Encoded):
            yield event
            done = 1.0
        yield EmbedProgress(name, tile, tiles, (tile - 1 + done) / tiles)


def segment_plane(
    engine: Engine, embedding: Embedding | TiledEmbedding, prompts: Sequence[Prompts]
) -> LabelArray:
    """Segment prompted objects of a plane that fits into memory; ``(H, W)`` int32.

    As `napari_peftsam.segmentation.segment`, also where the plane is worked on in tiles.
    """
    if isinstance(embedding, Embedding):
        return segment(Predictor(engine.model), embedding, prompts)
    grid = embedding.image.grid
    labels = np.zeros((grid.height, grid.width), np.int32)
    regions = RegionLabels(labels, np.zeros(labels.shape, np.float32), grid.stride)
    for label, one in enumerate(prompts, start=1):
        prediction = engine.predict(embedding, one)
        assert prediction is not None, "nobody swaps adapters meanwhile"
        regions.write(label, prediction.earlier(0))
    return labels


def check_label_output(output: Path) -> None:
    """Raise unless labels can be written to `output`: TIFF, or an OME-Zarr folder of ours."""
    if output.suffix.lower() == ".zarr" and output.is_dir():
        check_replaceable(output)
        return
    check_output(output, (".tif", ".tiff", ".zarr"))


def check_zarr_output(output: Path, name: str, shape: tuple[int, int]) -> None:
    """Raise `ConfigurationError` unless the labels of a large plane can be written there."""
    if output.suffix.lower() != ".zarr":
        raise ConfigurationError(
            f"{name} is {shape[0]} x {shape[1]} pixels: its labels are written part by part, which "
            f"{output.suffix} files do not allow; end the name of the output in .zarr"
        )


def segment_large(
    engine: Engine, image: TiledImage, prompts: Sequence[Prompts], output: Path
) -> SegmentReport:
    """Segment prompted objects of a large image and write them as an OME-Zarr label image.

    Object ``i`` (from 1) gets label ``i``. Only the tiles around the prompts are embedded,
    and only the parts of the labels that hold objects are written.

    Raises
    ------
    ConfigurationError
        If `output` does not end in ``.zarr``: other formats need all labels in memory.
    ExportError
        If it cannot be written; an older one is untouched then.
    PromptError, ImageError, CheckpointError
        If the prompts, the image or the model cannot be used.
    """
    grid = image.grid
    check_zarr_output(output, image.name, grid.window.shape)
    embedding = image.embedding(engine.model, engine.encoder_adapter)
    context = ExportContext(image_name=image.name)
    try:
        folder = tempfile.TemporaryDirectory(dir=output.parent, prefix=".tmp-")
    except OSError as error:
        raise ExportError(f"cannot write {output}: {error.strerror or error}") from error
    with folder as scratch, atomic_path(output) as temporary:
        shape = (grid.height, grid.width)
        labels = create_labels(temporary, shape, context)
        highest = zarr.create_array(
            Path(scratch, "highest.zarr"), shape=shape, chunks=(_CHUNK, _CHUNK),
            dtype="float32", fill_value=0,
        )  # fmt: skip
        regions = RegionLabels(labels, highest, grid.stride)
        for number in _by_place(prompts, image):
            prediction = engine.predict(embedding, prompts[number])
            assert prediction is not None, "nobody swaps adapters meanwhile"
            regions.write(number + 1, prediction.earlier(0))
    empty = tuple(n for n in range(1, len(prompts) + 1) if not regions.area(n))
    return SegmentReport(len(prompts), empty, output)


def _by_place(prompts: Sequence[Prompts], image: TiledImage) -> list[int]:
    """Return the objects by tile, so that those of one tile come while its embedding is known."""

    def place(number: int) -> tuple[int, int]:
        box, points = prompts[number].box, prompts[number].points
        at = (points[0].row, points[0].col) if box is None else (box.row0, box.col0)
        tile = image.grid.tile_at(*at)
        return tile.row, tile.col

    return sorted(range(len(prompts)), key=place)
