"""Large images without a viewer: all tiles embedded, prompted objects written as labels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_peftsam.app._folders import check_output
from napari_peftsam.app.engine import Engine
from napari_peftsam.embeddings import (
    Encoded,
    EncodeFailed,
    PlaneEmbedding,
    TiledImage,
)
from napari_peftsam.errors import ConfigurationError, ExportError
from napari_peftsam.export import ExportContext, check_replaceable, create_labels
from napari_peftsam.files import atomic_path
from napari_peftsam.segmentation import RegionLabels
from napari_peftsam.types import LabelArray, Plane, Prompts

__all__ = [
    "SegmentReport",
    "check_label_output",
    "check_zarr_output",
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


def plane_indices(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return where the planes of an image or stack ``(..., H, W[, 3])`` are."""
    colours = len(shape) > 2 and shape[-1] == 3
    return tuple(np.ndindex(shape[: len(shape) - 2 - colours]))


def embed_plane(
    engine: Engine, name: str, plane: Plane, part: tuple[int, int] = (0, 1)
) -> Iterator[Encoded]:
    """Embed a plane, or of a large one part number `part` (from 0) of so many parts.

    Raises
    ------
    ImageError, CheckpointError
        If the plane or the model cannot be used; the message begins with `name`.
    """
    image, (number, parts) = engine.tiled(plane, name), part
    tiles = image.grid.ordered()
    begin, end = (len(tiles) * n // parts for n in (number, number + 1))
    for event in engine.embed_tiles(image, tiles[begin:end]):
        if isinstance(event, EncodeFailed):
            raise type(event.error)(f"{name}: {event.error}") from event.error
        if isinstance(event, Encoded):
            yield event


def segment_plane(
    engine: Engine, embedding: PlaneEmbedding, prompts: Sequence[Prompts]
) -> LabelArray:
    """Segment prompted objects of a plane that fits into memory; ``(H, W)`` int32."""
    labels = np.zeros(embedding.image.grid.window.shape, np.int32)
    regions = RegionLabels(labels, np.zeros(labels.shape, np.float32))
    for label, best in enumerate(engine.best_logits(embedding, prompts), start=1):
        regions.write(label, *best)
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
    embedding = PlaneEmbedding(image.key(engine.model, engine.encoder_adapter), image)
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
        regions = RegionLabels(labels, highest)
        numbers = _by_place(prompts, image)
        found = engine.best_logits(embedding, [prompts[number] for number in numbers])
        for number, best in zip(numbers, found, strict=True):
            regions.write(number + 1, *best)
    empty = tuple(n for n in range(1, len(prompts) + 1) if not regions.area(n))
    return SegmentReport(len(prompts), empty, output)


def _by_place(prompts: Sequence[Prompts], image: TiledImage) -> list[int]:
    """Return the objects by tile, so that those of one tile come while its embedding is known."""

    def place(number: int) -> tuple[int, int]:
        tile = image.grid.tile_at(*prompts[number].extent.middle)
        return tile.row, tile.col

    return sorted(range(len(prompts)), key=place)
