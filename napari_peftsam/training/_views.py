"""Which objects are seen when, and how the image around them is turned and magnified."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_peftsam.models import Architecture
from napari_peftsam.training._samples import TURNS, ModelPlane
from napari_peftsam.training.dataset import TrainingObject

__all__ = ["View", "Views"]

_REAL_PROMPTS = 0.25  # how often an object is trained on the user's own prompts
_MOST_ZOOM = 2.0
_SEEN, _ORDER, _TURNS = range(3)  # independent streams of random numbers


@dataclass(frozen=True)
class View:
    """Objects of one plane as a micro-batch sees them.

    Attributes
    ----------
    objects
        At least one, all of one plane.
    turn
        Orientation of the plane, 0 to 7.
    zoom
        Magnification, for models that are trained on crops.
    own_prompts
        Whether the user's own prompts come first, where the object has any.
    """

    objects: tuple[TrainingObject, ...]
    turn: int = 0
    zoom: float = 1.0
    own_prompts: bool = False

    @property
    def plane(self) -> int:
        """Index of the plane."""
        return self.objects[0].plane


@dataclass(frozen=True, eq=False)
class Views:
    """All views of a run, in an order that depends on nothing but the seed.

    Attributes
    ----------
    objects
        To train on.
    planes
        That hold them, by index.
    architecture
        Says whether the model is trained on crops or whole frames.
    size
        Objects of a view, at most.
    seed
        Of all random choices.
    limit
        After so many epochs the same views come again, in another order, so that what does
        not change about them need be computed only once; None for new ones for ever. A
        plane that is seen as a whole has one orientation in each epoch.
    """

    objects: Sequence[TrainingObject]
    planes: Mapping[int, ModelPlane]
    architecture: Architecture
    size: int
    seed: int
    limit: int | None = None

    def __iter__(self) -> Iterator[tuple[float, View]]:
        """Yield views for ever, each with the epochs that are done after it.

        Each epoch sees every object once.
        """
        for epoch in itertools.count():
            views = self._epoch(epoch)
            order = self._random(_ORDER, epoch).permutation(len(views))
            for done, index in enumerate(order, start=1):
                yield epoch + done / len(views), views[index]

    def _epoch(self, epoch: int) -> list[View]:
        number = epoch if self.limit is None else epoch % self.limit
        rng = self._random(_SEEN, number)
        groups = self._neighbours(rng)
        return [view for objects in groups for view in self._seen(objects, number, rng)]

    def _seen(
        self, objects: tuple[TrainingObject, ...], epoch: int, rng: np.random.Generator
    ) -> list[View]:
        """Return a group of objects in one view, or in two if one has prompts of its own."""
        turn, drawn = int(rng.integers(TURNS)), rng.random()
        if self.limit is not None and not self._crops:
            turns = self._random(_TURNS, objects[0].plane).permutation(TURNS)
            turn = int(turns[epoch % TURNS])
        # Objects of all sizes: the few annotated ones must not teach that there is one size.
        zoom = math.exp(math.log(_MOST_ZOOM) * rng.uniform(-1, 1))
        prompted = objects[0].label in self.planes[objects[0].plane].source.prompts
        if prompted and drawn < _REAL_PROMPTS:
            # Objects prompted by hand have layouts of their own, so one at a time.
            own, others = View(objects[:1], own_prompts=True), objects[1:]
            return [own, View(others, turn, zoom)] if others else [own]
        return [View(objects, turn, zoom)]

    def _neighbours(self, rng: np.random.Generator) -> list[tuple[TrainingObject, ...]]:
        """Return all objects, those in one group near to each other."""
        side, size = self.architecture.training_side, self.size
        cells: dict[tuple[int, int, int], list[TrainingObject]] = {}
        shift = rng.random(2)
        for index in rng.permutation(len(self.objects)):
            item = self.objects[index]
            frame = self.planes[item.plane].frame
            centre = np.array([item.bbox[0] + item.bbox[2], item.bbox[1] + item.bbox[3]]) / 2
            # Cells of the crop's size, placed anew in every epoch.
            where = centre * frame.scale / side + shift if self._crops else (0, 0)
            row, col = (int(n) for n in where)
            cells.setdefault((item.plane, row, col), []).append(item)
        return [
            tuple(cell[i : i + size]) for cell in cells.values() for i in range(0, len(cell), size)
        ]

    @property
    def _crops(self) -> bool:
        return self.architecture.training_side < self.architecture.image_size

    def _random(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, index))
