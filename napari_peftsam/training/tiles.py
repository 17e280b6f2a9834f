"""Large planes are trained on as they are used: in tiles at the resolution of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np

from napari_peftsam.embeddings import Tile, TiledImage, is_large, tiled_image
from napari_peftsam.models import SamModel
from napari_peftsam.training.dataset import AnnotatedPlane, objects_of
from napari_peftsam.types import LabelArray, Prompts, Window

__all__ = ["AnnotatedTile", "cut_into_tiles", "tiles_with_objects"]


def cut_into_tiles(planes: Sequence[AnnotatedPlane], model: SamModel) -> tuple[AnnotatedPlane, ...]:
    """Return planes of which large ones were replaced by their tiles with objects; reads them.

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
        yield tile.read(plane.name, plane.image)


@dataclass(frozen=True, eq=False)
class AnnotatedTile:
    """A tile of a large plane and its objects as they were when it was cut.

    Attributes
    ----------
    source
        The plane; its pixels are not read yet.
    tile
        Which part of it.
    place
        The part of the plane in which the tile's own objects lie.
    labels
        ``(H, W)`` integer: the labels there; a copy.
    prompts
        By label, the prompts of the objects that belong to this tile, in its pixels.
    """

    source: TiledImage
    tile: Tile
    place: Window
    labels: LabelArray
    prompts: Mapping[int, Prompts]

    def read(self, name: str, image: str) -> AnnotatedPlane:
        """Return it as a plane of its own, whose plane is called `name`; slow.

        Raises
        ------
        ImageError
            If its pixels cannot be read.
        """
        kept = np.zeros(self.tile.window.shape, self.labels.dtype)
        inside = self.place.seen_from(self.tile.window)
        kept[inside.slices] = np.where(np.isin(self.labels, [*self.prompts]), self.labels, 0)
        return AnnotatedPlane(
            f"{name} [{self.tile.row}, {self.tile.col}]", image, self.source.read(self.tile), kept,
            {label: one for label, one in self.prompts.items() if one}, self.source.limits,
        )  # fmt: skip


def tiles_with_objects(
    image: TiledImage,
    labels: LabelArray,
    places: Mapping[int, Window],
    prompts: Mapping[int, Prompts],
) -> Iterator[AnnotatedTile]:
    """Yield the tiles of a large plane that hold the middle of an object.

    Each object is in one tile only, lest it be trained on in one and held out in another;
    in that tile's halo the others count as unlabelled. What reaches beyond the tile is cut.

    Parameters
    ----------
    image
        The plane.
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
        place = reduce(or_, (places[label] for label in own)) & tile.window & image.grid.window
        given = {n: prompts.get(n, Prompts()).within(tile.window) for n in own}
        yield AnnotatedTile(image, tile, place, np.array(labels[place.slices]), given)
