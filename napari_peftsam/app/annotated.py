"""The planes of a document with their objects, as a training learns from them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from napari_peftsam.app.regions import background_in
from napari_peftsam.document import (
    Document,
    DocumentImage,
    ObjectRecord,
    PlaneKey,
    Snapshot,
    class_of,
)
from napari_peftsam.peft import Adapter
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.training import (
    AnnotatedPlane,
    Split,
    TrainingConfig,
    split_objects,
    tiles_with_objects,
    trained_objects,
)
from napari_peftsam.types import BoolArray, Window

_MOST_PIXELS = 64_000_000  # to look at in passing
_TILE = re.compile(r" \[\d+, \d+\]$")  # at the end of the name of a plane that is a tile


def annotated_planes(document: Document, engine: Engine) -> Callable[[], Iterator[AnnotatedPlane]]:
    """Note the objects as they are now; return a function that copies labels and reads pixels.

    It yields the planes, or the tiles with objects of a large one. It is slow, and may be called
    in any thread while the document changes. Images whose file is not there are left out.
    """
    noted = []
    for image in (i for i in document.images.values() if i.pixels is not None):
        found: dict[tuple[tuple[int, ...], str], list[ObjectRecord]] = defaultdict(list)
        for record in document.records(image.id):
            for each in record.planes:
                found[each.index, record.label_set].append(record)
        snapshot, channels = image.snapshot(), image.info.metadata.read_with.channels
        for (index, label_set), records in sorted(found.items()):
            beside = [name for of, name in found if of == index and name != label_set]
            tiled = engine.tiled(image.plane_pixels(PlaneKey(image.id, index)), image.id)
            name = _plane_name(image, index, label_set)
            background = partial(background_in, snapshot, image.info.complete, index)
            others = partial(_objects_in, snapshot, beside, index)
            noted.append((
                name, image.id, channels, tiled, snapshot, index, label_set, records, background,
                others,
            ))  # fmt: skip

    def read() -> Iterator[AnnotatedPlane]:
        for name, of, channels, tiled, snapshot, index, label_set, records, empty, others in noted:
            given = {r.label: r.prompts_in(index) for r in records}
            prompts = {label: each for label, each in given.items() if each}
            labels = partial(snapshot.labels, label_set, index)
            if len(tiled.grid) > 1:
                places = {r.label: snapshot.window(r.label) for r in records}
                for tile in tiles_with_objects(tiled, labels, places, prompts, empty, others):
                    title = f"{name} {tile.name}"
                    yield replace(tile, name=title, image=of, channels=channels)
            else:
                whole = np.array(tiled.plane)
                kept, known = labels(tiled.grid.window), empty(tiled.grid.window)
                yield AnnotatedPlane(
                    name, of, whole, kept, prompts, channels=channels, background=known,
                    others=others(tiled.grid.window),
                )  # fmt: skip

    return read


def _objects_in(
    image: Snapshot, label_sets: Sequence[str], index: tuple[int, ...], window: Window
) -> BoolArray | None:
    """Return where a window of a plane has objects of some label sets; None for no label sets."""
    found = [image.labels(name, index, window) > 0 for name in label_sets]
    return np.logical_or.reduce(found) if found else None


def planned_split(
    document: Document, config: TrainingConfig, live: Adapter | None
) -> Callable[[], Split | None]:
    """Note the planes as they are now; return a function that splits their objects.

    As a training would that is judged against the live adapter; of large planes, which it cuts
    into tiles, the numbers agree. It looks at all labels, which are not copied, so it is slow; it
    gives None where these are too many to look at in passing.
    """
    noted = [
        (_plane_name(image, index, label_set), image.id, image.array(label_set)[index])
        for image in document.images.values()
        if image.pixels is not None and image.id not in config.leave_out
        for index, label_set in image.places
    ]

    def split() -> Split | None:
        if not noted or sum(labels.size for _, _, labels in noted) > _MOST_PIXELS:
            return None
        given = trained_objects([] if live is None else [live])
        trained: dict[str, set[int]] = {}
        for name, labels in given.items():
            trained.setdefault(_TILE.sub("", name), set()).update(labels)
        planes = [AnnotatedPlane(name, of, labels, labels) for name, of, labels in noted]
        return split_objects(planes, config.held_out, config.seed, trained, config.check_on)

    return split


def _plane_name(image: DocumentImage, index: tuple[int, ...], label_set: str) -> str:
    where = str(list(index)) if index else ""
    return " ".join(filter(None, (image.name + where, class_of(label_set))))
