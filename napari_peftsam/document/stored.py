"""Conversion between the state of a document and the rows of its store."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.document.changes import DOCUMENT_FIELDS, State, Touched
from napari_peftsam.document.codec import load
from napari_peftsam.document.image_info import OBJECTS
from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.store import Rows, Store
from napari_peftsam.document.tiles import put_tile, tile_bytes, tiles_at

__all__ = ["Content", "read_state", "rows_of"]


def read_state(content: Content) -> State:
    """Return the state that a store holds; labels and records are read when they are needed."""
    state, store = State(), content.store
    for image, info in store.images().items():
        state.images[image] = DocumentImage(image, info, content=content)
    for name, text in store.fields().items():
        if name in DOCUMENT_FIELDS:
            setattr(state, name, load(DOCUMENT_FIELDS[name], text))
    return state


def rows_of(state: State, touched: Touched) -> Rows:
    """Return the rows of everything that was touched, as it is now."""
    images, rows = state.images, Rows()
    for image in touched.infos:
        rows.images[image] = images[image].info
    for image, labels in touched.objects.items():
        known = images[image].records
        rows.objects |= {(image, OBJECTS, label): known.get(label) for label in labels}
    for (image, label_set), where in touched.where.items():
        array = images[image].array(label_set)
        for key in tiles_at(image, label_set, where, array.shape):
            rows.tiles[key] = tile_bytes(array, key)
    for name in touched.fields:
        rows.fields[name] = getattr(state, name)
    return rows


class Content:
    """Labels and records of a project's images.

    Attributes
    ----------
    store
        Where they are; a copy takes its place when the project is saved under another name.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def read_labels(self, image: DocumentImage, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Write the stored tiles into arrays by label set; those of new label sets are added."""
        for key, data in self.store.tiles(image.id):
            if key.label_set not in arrays:
                arrays[key.label_set] = np.zeros(image.shape, np.uint8)
            put_tile(arrays[key.label_set], key, data)

    def read_records(self, image: ImageId) -> dict[int, ObjectRecord]:
        """Return the stored records by label."""
        return self.store.objects(image)
