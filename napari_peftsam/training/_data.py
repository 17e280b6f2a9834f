"""What a run learns from and is measured on, in the model's frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import SamModel
from napari_peftsam.peft import Adapter
from napari_peftsam.training._samples import ModelPlane, prepare_planes
from napari_peftsam.training._validation import HeldOut
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import AnnotatedPlane, Split, TrainedObjects, split_objects
from napari_peftsam.training.tiles import cut_into_tiles

__all__ = ["RunData"]

_HELD_OUT_AT_MOST = 32  # objects: a validation must stay short beside the training


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
        What validations look at.
    trained
        What the result will have learned from, adapters before it included.
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

        Parameters
        ----------
        earlier
            Adapters whose training objects should not be held out.

        Raises
        ------
        TrainingError
            If there are too few objects, or all are too small.
        ImageError, LabelError
            If an image or its labels cannot be used.
        """
        planes = cut_into_tiles(planes, model)
        known = _trained_on(earlier)
        split = split_objects(planes, config.held_out, config.seed, known)
        prepared = prepare_planes(planes, (*split.training, *split.held_out), model)
        split = _visible(split, prepared)
        held_out = HeldOut.draw(split.held_out, planes, _HELD_OUT_AT_MOST, config.seed)
        return cls(split, prepared, held_out, _union(known, planes, split))


def _trained_on(adapters: Sequence[Adapter]) -> TrainedObjects:
    """Return what any of these adapters learned from, as their files say."""
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
    """Leave out training objects without a pixel in the model's frame: too small to learn."""
    seen = {plane: set(prepared[plane].labels.unique().tolist()) for plane in prepared}
    kept = tuple(o for o in split.training if o.label in seen[o.plane])
    if not kept:
        raise TrainingError(
            "all objects are smaller than a pixel of the model's input: cut the images into "
            "smaller pieces first"
        )
    return replace(split, training=kept)
