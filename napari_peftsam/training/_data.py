"""Data of a run: training views in random order, and held-out objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from napari_peftsam.embeddings import Embedding, embedding_key
from napari_peftsam.errors import TrainingError
from napari_peftsam.evaluation import Target, box_ious, click_ious
from napari_peftsam.models import Architecture, SamModel
from napari_peftsam.peft import Adapter
from napari_peftsam.segmentation import Predictor
from napari_peftsam.training._encoder import PlaneEncoder
from napari_peftsam.training._samples import TURNS, ModelPlane, prepare_planes
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import (
    AnnotatedPlane,
    Split,
    TrainedObjects,
    TrainingObject,
    cut_into_tiles,
    split_objects,
)

__all__ = ["HeldOut", "RunData", "View", "Views", "draw_held_out", "validation_iou"]

_HELD_OUT_AT_MOST = 32  # objects: a validation must stay short beside the training
# A model that answers the first click well and corrections badly costs the user clicks, so
# corrections count too; only three of them, since a validation takes time from the training.
_CLICKS = 3
_REAL_PROMPTS = 0.25  # how often an object is trained on the user's own prompts
_MOST_ZOOM = 2.0
_SEEN, _ORDER, _TURNS = range(3)  # independent streams of random numbers

HeldOut = Mapping[int, tuple[Target, ...]]
"""Held-out objects by the index of their plane."""


@dataclass(frozen=True, eq=False)
class RunData:
    """Objects of a run.

    Attributes
    ----------
    split
        Objects to train on and objects held out.
    planes
        The planes that hold any of them, by index.
    held_out
        Objects of the validations.
    trained
        Objects that the result and the adapters before it were trained on.
    """

    split: Split
    planes: Mapping[int, ModelPlane]
    held_out: HeldOut
    trained: TrainedObjects

    @classmethod
    def prepare(
        cls,
        model: SamModel,
        planes: Sequence[AnnotatedPlane],
        config: TrainingConfig,
        earlier: Sequence[Adapter],
    ) -> RunData:
        """Split the objects and bring their planes into the model's frame.

        Objects that the adapters `earlier` were trained on are not held out if there are others.
        """
        planes = cut_into_tiles(planes, model)
        known = _trained_on(earlier)
        split = split_objects(planes, config.held_out, config.seed, known)
        prepared = prepare_planes(planes, (*split.training, *split.held_out), model)
        split = _visible(split, prepared)
        held_out = draw_held_out(split.held_out, planes, _HELD_OUT_AT_MOST, config.seed)
        return cls(split, prepared, held_out, _union(known, planes, split))


def _trained_on(adapters: Sequence[Adapter]) -> TrainedObjects:
    """Return the objects that any of these adapters was trained on, as their files say."""
    found: dict[str, set[int]] = {}
    for adapter in adapters:
        listed = adapter.provenance.get("trained_on")
        if isinstance(listed, Mapping):
            for name, labels in listed.items():
                found.setdefault(name, set()).update(labels)
    return found


def _union(
    trained: TrainedObjects, planes: Sequence[AnnotatedPlane], split: Split
) -> TrainedObjects:
    union = {name: set(labels) for name, labels in trained.items()}
    for item in split.training:
        union.setdefault(planes[item.plane].name, set()).add(item.label)
    return union


def _visible(split: Split, prepared: Mapping[int, ModelPlane]) -> Split:
    """Drop training objects without a pixel in the model's frame."""
    seen = {plane: set(prepared[plane].labels.unique().tolist()) for plane in prepared}
    kept = tuple(o for o in split.training if o.label in seen[o.plane])
    if not kept:
        raise TrainingError(
            "all objects are smaller than a pixel of the model's input: cut the images into "
            "smaller pieces first"
        )
    return replace(split, training=kept)


# --- training views ---------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Objects of one plane in a micro-batch.

    Attributes
    ----------
    objects
        At least one, all of one plane.
    turn
        Rotation and flip of the plane, 0 to 7.
    zoom
        Magnification, for models that are trained on crops.
    own_prompts
        Whether the user's own prompts are the first ones.
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
    """All views of a run, in an order that depends on the seed only.

    Attributes
    ----------
    objects, planes
        Objects to train on, and their planes by index.
    architecture
        Decides whether the model is trained on crops or whole frames.
    size
        Objects of a view, at most.
    seed
        Of all random choices.
    limit
        Number of epochs after which the same views come again, in another order, so that
        activations of frozen blocks are computed only once; None for new views in each epoch.
        A plane that is seen as a whole has one rotation and flip in each epoch.
    """

    objects: Sequence[TrainingObject]
    planes: Mapping[int, ModelPlane]
    architecture: Architecture
    size: int
    seed: int
    limit: int | None = None

    def __iter__(self) -> Iterator[tuple[float, View]]:
        """Yield views without end, with the epochs completed; each has every object once."""
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
        """Return a group of objects in one view, or in two if one has own prompts."""
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
        """Return all objects in groups of neighbours."""
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


# --- validation -------------------------------------------------------------------


def draw_held_out(
    objects: Sequence[TrainingObject], planes: Sequence[AnnotatedPlane], at_most: int, seed: int
) -> HeldOut:
    """Choose at most `at_most` of the objects at random."""
    rng = np.random.default_rng(seed)
    targets: dict[int, tuple[Target, ...]] = {}
    for index in sorted(rng.permutation(len(objects))[:at_most].tolist()):
        item = objects[index]
        target = Target.from_mask(planes[item.plane].labels == item.label)
        targets[item.plane] = (*targets.get(item.plane, ()), target)
    return targets


def validation_iou(encoder: PlaneEncoder, held_out: HeldOut) -> float:
    """Return the mean IoU over the objects: of a tight box, and after 1, 2 and 3 clicks."""
    predictor = Predictor(encoder.model)
    found: list[float] = []
    with torch.inference_mode():
        for index, targets in held_out.items():
            embedding = _embedding(encoder, index)
            found += box_ious(predictor, embedding, targets).tolist()
            for ious in click_ious(predictor, embedding, targets, _CLICKS):
                found += ious.tolist()
    return float(np.mean(found))


def _embedding(encoder: PlaneEncoder, index: int) -> Embedding:
    plane = encoder.planes[index]
    key = embedding_key(encoder.model, plane.source.pixels, intensity_range=plane.source.limits)
    features = encoder.features(index)[0].float().cpu().numpy()
    return Embedding(key, plane.frame, features)
