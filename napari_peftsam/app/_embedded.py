"""Record of embedded planes, from which another adapter embeds them again."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence

from napari_peftsam.document import DocumentImage, ImageId, PlaneKey
from napari_peftsam.embeddings import EmbedEvent, Encoded, EncodeFailed, tile_grid
from napari_peftsam.segmentation.engine import IN_MEMORY, Engine
from napari_peftsam.types import Window

__all__ = ["EmbeddedPlanes"]


class EmbeddedPlanes:
    """Embeds planes, and remembers of each one what embedded it last.

    May be used from any thread.
    """

    def __init__(self) -> None:
        self._made_by: dict[PlaneKey, tuple[str, str]] = {}  # model and adapter, as in the keys
        self._lock = threading.Lock()

    def forget(self, image: str) -> None:
        """Forget the planes of an image that is gone or has other pixels."""
        with self._lock:
            for plane in [plane for plane in self._made_by if plane.image == image]:
                del self._made_by[plane]

    def embed(
        self,
        engine: Engine,
        plane: PlaneKey,
        image: DocumentImage,
        visible: Window | None = None,
    ) -> Generator[EmbedEvent, None, None]:
        """Embed a plane, see `Engine.embed`, and remember it."""
        return self._embed(engine, [(plane, image)], visible)

    def reload(
        self, engine: Engine, images: Mapping[ImageId, DocumentImage], near: PlaneKey
    ) -> Generator[EmbedEvent, None, None]:
        """Embed what another adapter embedded with the engine's model, nearest first.

        Those of the image that `near` lies in come first, by their distance from it in
        planes, then those of other images, by their distance from the same place there.
        Planes of several tiles wait for prompts. A plane that cannot be embedded any more is
        forgotten. The images are looked up now, the rest happens while iterating.
        """
        model, adapter = engine.model.weights_hash, engine.live.encoder
        with self._lock:
            found = {p: by for p, (m, by) in self._made_by.items() if m == model}
        nearest = sorted(found, key=lambda plane: _distance(plane, near))
        if engine.store is None:  # its memory holds no more, beside the shown plane
            nearest = nearest[: IN_MEMORY - 1]
        outdated = [p for p in nearest if found[p] != adapter and p.image in images]
        planes = [(plane, images[plane.image]) for plane in outdated]
        grids = [tile_grid(image.plane_shape, engine.model) for _, image in planes]
        at_once = [each for each, grid in zip(planes, grids, strict=True) if len(grid) == 1]
        return self._embed(engine, at_once)

    def _embed(
        self,
        engine: Engine,
        planes: Sequence[tuple[PlaneKey, DocumentImage]],
        visible: Window | None = None,
    ) -> Generator[EmbedEvent, None, None]:
        for plane, image in planes:
            for event in engine.embed(plane.image, image.plane_pixels(plane), visible):
                if isinstance(event, (Encoded, EncodeFailed)):
                    self._note(plane, event)
                yield event

    def _note(self, plane: PlaneKey, event: Encoded | EncodeFailed) -> None:
        with self._lock:
            if isinstance(event, Encoded):
                key = event.embedding.key
                self._made_by[plane] = (key.model, key.adapter)
            else:
                self._made_by.pop(plane, None)


def _distance(plane: PlaneKey, near: PlaneKey) -> tuple[bool, int]:
    steps = sum(abs(a - b) for a, b in zip(plane.index, near.index, strict=False))
    return plane.image != near.image, steps
