"""Large planes are trained on as they are used: in tiles at the resolution of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from napari_peftsam.embeddings import Tile, TiledImage, is_large, tiled_image
from napari_peftsam.models import SamModel
from napari_peftsam.training.dataset import AnnotatedPlane, objects_of
from napari_peftsam.types import LabelArray, Prompts, Window

__all__ = ["cut_into_tiles", "tiles_with_objects"]


def cut_into_tiles(planes: Sequence[AnnotatedPlane], model: SamModel) -> tuple[AnnotatedPlane, ...]:
    """Return planes of which large ones were replaced by their tiles with objects.

    See `napari_peftsam.embeddings.is_large` for what is large, and `tiles_with_objects`.
    """
    return tuple(part for plane in planes for part in _parts(plane, model))


def _parts(plane: AnnotatedPlane, model: SamModel) -> Iterator[AnnotatedPlane]:
    if not is_large(plane.pixels.shape, model):
        yield plane
        return
    image = tiled_image(plane.name, plane.pixels, model)
    places = {
        o.label: Window.from_slices(slice(o.bbox[0], o.bbox[2]), slice(o.bbox[1], o.bbox[3]))
        for o in objects_of(0, plane)
    }
    for tile in tiles_with_objects(image, plane.labels, places, plane.prompts):
        yield replace(tile, image=plane.image)


def tiles_with_objects(
    image: TiledImage,
    labels: LabelArray,
    places: Mapping[int, Window],
    prompts: Mapping[int, Prompts],
) -> Iterator[AnnotatedPlane]:
    """Yield the tiles of a large plane that hold the middle of an object.

    Each object is in one tile only, lest it be trained on in one and held out in another;
    in that tile's halo the others count as unlabelled. What reaches beyond the tile is cut.

    Parameters
    ----------
    image
        The plane; the yielded ones are called after it.
    labels
        ``(H, W)`` integers; sliced, so they may lie on disk.
    places
        Where each object lies: a window that holds it.
    prompts
        The user's own prompts by label.
    """
    owners: dict[Tile, list[int]] = {}
    for label, place in places.items():
        middle = (place.row + place.stop[0]) / 2, (place.col + place.stop[1]) / 2
        owners.setdefault(image.grid.tile_at(*middle), []).append(label)
    for tile, own in sorted(owners.items(), key=lambda item: (item[0].row, item[0].col)):
        inside = tile.window & image.grid.window
        part = np.asarray(labels[inside.slices])
        kept = np.zeros(tile.window.shape, part.dtype)
        kept[: inside.height, : inside.width] = np.where(np.isin(part, own), part, 0)
        given = {label: prompts[label].within(tile.window) for label in own if label in prompts}
        yield AnnotatedPlane(
            f"{image.name} [{tile.row}, {tile.col}]", image.name, image.read(tile), kept,
            {label: one for label, one in given.items() if one}, image.limits,
        )  # fmt: skip
