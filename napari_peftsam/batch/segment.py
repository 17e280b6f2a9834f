"""Labels of prompted objects: of one image, and of the images of a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from napari_peftsam.batch.automatic import AutomaticCounts, segment_all
from napari_peftsam.batch.cluster import open_workers
from napari_peftsam.batch.embed import embed_plane
from napari_peftsam.batch.plan import (
    BatchEvent,
    BatchPlan,
    Stop,
    finished,
    make_folder,
)
from napari_peftsam.batch.prompts_file import (
    check_prompts,
    check_prompts_inside,
    read_prompts_for,
)
from napari_peftsam.batch.run import Task, TaskFunction
from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.embeddings import PlaneEmbedding, TiledImage
from napari_peftsam.errors import ConfigurationError, ExportError, ImageError
from napari_peftsam.export import (
    ExportContext,
    check_replaceable,
    create_labels,
    export_labels,
)
from napari_peftsam.files import (
    atomic_path,
    find_images,
    image_name,
    open_image,
    pair_prompts,
    temporary_prefix,
)
from napari_peftsam.geometry import sizes
from napari_peftsam.metadata import AS_THE_FILE_SAYS, UNKNOWN, ImageMetadata, ReadOptions
from napari_peftsam.outputs import check_not_an_input, check_output, write_failure
from napari_peftsam.planes import LazyImage
from napari_peftsam.segmentation import RegionLabels
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import LabelArray, PixelArray, Prompts

_MOST_TILES = 10**6  # each takes a tenth of a second or more
_ASK_AXES = ", or, if these are channels, say --axes CYX and which --channels to use"
_CHUNK = 1024  # pixels along each axis of the scratch array


@dataclass(frozen=True)
class SegmentReport:
    """Objects, labels of prompted ones without a pixel, and the file of a segmentation.

    Attributes
    ----------
    counts
        What became of the proposals; None if objects were prompted.
    """

    objects: int
    empty: tuple[int, ...]
    output: Path
    counts: AutomaticCounts | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        found = {"objects": self.objects, "output": str(self.output)}
        if self.counts is None:
            return found | {"empty": list(self.empty)}
        return found | {"stages": self.counts.to_dict()}


@dataclass(frozen=True, eq=False)
class PromptedImage:
    """One image plane, perhaps on disk, with prompts for its objects that lie inside.

    `prompts` is None if all objects are to be found without.
    """

    path: Path
    pixels: PixelArray | LazyImage = field(repr=False)
    prompts: tuple[Prompts, ...] | None = field(repr=False)
    metadata: ImageMetadata = UNKNOWN

    @classmethod
    def open(
        cls,
        image: Path,
        prompts: Path | None,
        output: Path,
        options: ReadOptions = AS_THE_FILE_SAYS,
    ) -> PromptedImage:
        """Read prompts and open the image, if its labels can be written to `output`.

        Raises
        ------
        PeftSamError
            If a file cannot be used, or a prompt lies outside the image.
        """
        check_not_an_input(output, *filter(None, (image, prompts)))
        if output.suffix.lower() == ".zarr" and output.is_dir():
            check_replaceable(output)
        else:
            check_output(output, (".tif", ".tiff", ".zarr"))
        # Of a set of files, the prompts are for the plane in this one.
        file = open_image(image, replace(options, own_planes=True))
        if len(file.metadata.axes) > 2:
            shape = file.pixels.shape
            raise ImageError(
                f"{image} is a stack of shape {shape}: save one plane of it"
                + (_ASK_AXES if file.metadata.names[:-2] == "q" else "")
            )
        if prompts is None:
            return cls(image, file.pixels, None, file.metadata)
        asked = read_prompts_for(file, image.name, prompts, options.number_pieces)
        check_prompts_inside(asked, (file.pixels.shape[0], file.pixels.shape[1]), prompts)
        return cls(image, file.pixels, asked, file.metadata)

    @property
    def context(self) -> ExportContext:
        """Name, axes and pixel size of the image, for the file of its labels."""
        return ExportContext.of(self.metadata, image_name=self.path.name)

    def segment(
        self, engine: Engine, output: Path, config: AutomaticConfig | None = None
    ) -> SegmentReport:
        """Segment the objects and write their labels; object ``i`` (from 1) gets label ``i``.

        `config` is for what is found without prompts.
        """
        try:
            return self._segment(engine, output, config)
        except ImageError as error:
            if self.path.name in str(error):
                raise
            raise ImageError(f"{self.path}: {error}") from error

    def _segment(
        self, engine: Engine, output: Path, config: AutomaticConfig | None
    ) -> SegmentReport:
        if self.prompts is None:
            return self._segment_all(engine, output, config or AutomaticConfig())
        image = engine.tiled(self.pixels, self.path.name)
        if len(image.grid) > 1:
            return _segment_in_parts(engine, image, self.prompts, self.context, output)
        [encoded] = embed_plane(engine, str(self.path), self.pixels)
        embedding = PlaneEmbedding(encoded.embedding.key, image, encoded.embedding)
        labels = segment_plane(engine, embedding, self.prompts)
        found = set(labels.ravel().tolist())
        empty = tuple(i for i in range(1, len(self.prompts) + 1) if i not in found)
        written = export_labels(labels, output, None, self.context)
        return SegmentReport(len(self.prompts), empty, written)

    def _segment_all(self, engine: Engine, output: Path, config: AutomaticConfig) -> SegmentReport:
        image = engine.tiled(self.pixels, self.path.name)
        shape = image.grid.window.shape
        if len(image.grid) == 1:
            labels = np.zeros(shape, np.int32)
            counts = segment_all(engine, self.pixels, self.path.name, labels, config)
            written = export_labels(labels, output, None, self.context)
            return SegmentReport(counts.objects, (), written, counts)
        if len(image.grid) > _MOST_TILES:
            raise ImageError(
                f"{image.name} is {sizes(shape)} pixels, {len(image.grid):,} tiles, which would "
                "take weeks: segment a part of it, or give prompts"
            )
        check_zarr_output(output, image.name, shape)
        with atomic_path(output) as temporary:
            stored = create_labels(temporary, shape, self.context)
            counts = segment_all(engine, self.pixels, self.path.name, stored, config)
        return SegmentReport(counts.objects, (), output, counts)


def segment_plane(
    engine: Engine, embedding: PlaneEmbedding, prompts: Sequence[Prompts]
) -> LabelArray:
    """Segment prompted objects of a plane that fits into memory; ``(H, W)`` int32."""
    labels = np.zeros(embedding.image.grid.window.shape, np.int32)
    regions = RegionLabels(labels, np.zeros(labels.shape, np.float32))
    for label, best in enumerate(engine.best_logits(embedding, prompts), start=1):
        regions.write(label, *best)
    return labels


def check_zarr_output(output: Path, name: str, shape: tuple[int, int]) -> None:
    """Raise `ConfigurationError` unless the labels of a large plane can be written there."""
    if output.suffix.lower() != ".zarr":
        raise ConfigurationError(
            f"{name} is {shape[0]} x {shape[1]} pixels: its labels are written part by part, which "
            f"{output.suffix} files do not allow; end the name of the output in .zarr"
        )


def _segment_in_parts(
    engine: Engine,
    image: TiledImage,
    prompts: Sequence[Prompts],
    context: ExportContext,
    output: Path,
) -> SegmentReport:
    """Write an OME-Zarr label image, only the parts that hold objects.

    Only the tiles around the prompts are embedded.
    """
    grid = image.grid
    check_zarr_output(output, image.name, grid.window.shape)
    embedding = PlaneEmbedding(image.key(engine.model, engine.live.encoder), image)
    try:
        folder = tempfile.TemporaryDirectory(dir=output.parent, prefix=temporary_prefix())
    except OSError as error:
        raise ExportError(f"cannot write {output}: {write_failure(error)}") from error
    with folder as scratch, atomic_path(output) as temporary:
        shape = grid.window.shape
        labels = create_labels(temporary, shape, context)
        highest = zarr.create_array(
            Path(scratch, "highest.zarr"), shape=shape, chunks=(_CHUNK, _CHUNK),
            dtype="float32", fill_value=0,
        )  # fmt: skip
        regions = RegionLabels(labels, highest)
        # Objects of one tile come while its embedding is in memory.
        tiles = [grid.tile_at(*one.extent.middle) for one in prompts]
        numbers = sorted(range(len(prompts)), key=lambda n: (tiles[n].row, tiles[n].col))
        found = engine.best_logits(embedding, [prompts[number] for number in numbers])
        for number, best in zip(numbers, found, strict=True):
            regions.write(number + 1, *best)
    empty = tuple(n for n in range(1, len(prompts) + 1) if not regions.area(n))
    return SegmentReport(len(prompts), empty, output)


def segment_batch(
    images: Path,
    prompts: Path | None,
    output: Path,
    plan: BatchPlan | None = None,
    stop: Stop = lambda: False,
    config: AutomaticConfig | None = None,
) -> Iterator[BatchEvent]:
    """Segment objects in the images of a folder; one OME-Zarr of labels for each.

    The labels equal the ones of `napari_peftsam.segment_file`. A second run writes the same ones
    again, and finds the embeddings, which take the time, in the store.

    Parameters
    ----------
    images, prompts
        Folders of images and of prompts files (see `read_prompts`), paired by name. Without
        prompts all objects are looked for.
    output
        Folder for ``NAME.ome.zarr``; made if need be.
    stop
        Asked several times per second; True ends the batch early.
    config
        How to look for objects without prompts.

    Yields
    ------
    BatchEvent
        As `napari_peftsam.batch.embed.embed_batch`.

    Raises
    ------
    InputFileError
        If no image has prompts, or there is no image.
    PromptError
        If a prompts file is not valid.
    ExportError
        If `output` cannot be written.
    """
    plan = plan or BatchPlan()
    options = plan.reading
    pairs = (
        [(image_name(path.name), path, None) for path in find_images([images])]
        if prompts is None
        else pair_prompts(images, prompts)
    )
    if output.exists() and images.exists() and output.samefile(images):
        raise ConfigurationError(f"{output} is the folder of the images: choose another one")
    for _, _, asked in pairs:
        if asked is not None:
            check_prompts(asked)
    make_folder(output)
    folder = output.absolute()
    with (
        # Of this run alone: others may write into the folder, too.
        tempfile.TemporaryDirectory(
            dir=folder, prefix=temporary_prefix(), ignore_cleanup_errors=True
        ) as scratch,
        open_workers(plan.cluster, len(pairs)) as workers,
    ):
        tasks = []
        for name, *paths in pairs:
            image, asked = (path and path.absolute() for path in paths)
            arguments = image, asked, folder / f"{name}.ome.zarr", Path(scratch), options, config
            tasks.append(Task(name, arguments, name))
        done = yield from workers.run(TaskFunction(plan.source, _segment_image), tasks, stop)
    found = {event.name: event.result for event in done if event.result}
    objects = sum(report.objects for report in found.values())
    empty = sum(len(report.empty) for report in found.values())
    names = [task.name for task in tasks if task.name in found and found[task.name].counts]
    each = tuple({"name": name} | found[name].to_dict() for name in names)
    yield finished(tasks, done, output, objects=objects, empty=empty, per_image=each)


def _segment_image(  # noqa: PLR0913, PLR0917
    engine: Engine,
    image: Path,
    prompts: Path | None,
    output: Path,
    scratch: Path,
    options: ReadOptions,
    config: AutomaticConfig | None,
) -> SegmentReport:
    """Make the labels of one image in the folder `scratch`, then move them to `output`.

    The maker of `scratch`, on the same disk, removes what a process that died left there.
    """
    prompted = PromptedImage.open(image, prompts, output, options)
    made = prompted.segment(engine, scratch / output.name, config)
    with atomic_path(output) as temporary:
        made.output.rename(temporary)
    return replace(made, output=output)
