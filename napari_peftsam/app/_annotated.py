"""Annotated planes of a document, copied for a training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from napari_peftsam.document import Document, ObjectRecord, PlaneKey
from napari_peftsam.embeddings import tile_grid
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.training import AnnotatedPlane, AnnotatedTile, tiles_with_objects
from napari_peftsam.types import LabelArray, Plane, Prompts, Window

__all__ = ["CopiedPlane", "annotated_planes"]


@dataclass(frozen=True, eq=False)
class CopiedPlane:
    """A plane with copies of its labels and prompts; its pixels are not read yet.

    Attributes
    ----------
    name, image
        As in `AnnotatedPlane`.
    pixels
        ``(H, W)`` or ``(H, W, 3)``, perhaps on disk.
    labels
        ``(H, W)`` integers; of a large plane, its tiles with objects.
    prompts
        Those of the objects by label.
    """

    name: str
    image: str
    pixels: Plane
    labels: LabelArray | tuple[AnnotatedTile, ...]
    prompts: Mapping[int, Prompts]

    def read(self) -> Iterator[AnnotatedPlane]:
        """Yield the plane, or the tiles of a large one, with pixels; slow."""
        if isinstance(self.labels, tuple):
            yield from (tile.read(self.name, self.image) for tile in self.labels)
        else:
            pixels = np.array(self.pixels)
            yield AnnotatedPlane(self.name, self.image, pixels, self.labels, self.prompts)


def annotated_planes(document: Document, engine: Engine) -> Iterator[CopiedPlane]:
    """Yield the planes with objects, with the prompts that made them; reads no pixels.

    Images whose file is not there are left out.
    """
    found: dict[PlaneKey, list[ObjectRecord]] = defaultdict(list)
    for image in document.images:
        for record in document.records(image):
            for each in record.planes:
                found[PlaneKey(image, each.index)].append(record)
    for plane in document.planes_with_objects():
        if document.image(plane.image).pixels is None:
            continue
        records = found[plane]
        given = {r.label: r.prompts_in(plane.index) for r in records}
        prompts = {label: each for label, each in given.items() if each}
        pixels, labels = document.pixels(plane), document.labels(plane)
        name = document.image(plane.image).name + str(list(plane.index) if plane.index else "")
        kept: LabelArray | tuple[AnnotatedTile, ...] = ()
        if len(tile_grid(pixels.shape, engine.model)) > 1:
            region = document.image(plane.image).region
            places = {r.label: Window.from_slices(*region(r.label)[-2:]) for r in records}
            tiled = engine.tiled(pixels, plane.image)
            kept = tuple(tiles_with_objects(tiled, labels, places, prompts))
        else:
            kept = labels.copy()
        yield CopiedPlane(name, plane.image, pixels, kept, prompts)
