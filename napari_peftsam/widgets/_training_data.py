"""What there is to train on, counted while the user annotates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_peftsam.document import Document

if TYPE_CHECKING:
    from napari_peftsam.training import AnnotatedPlane, Split

__all__ = ["MIN_OBJECTS", "TrainingData", "annotated_planes", "describe"]

MIN_OBJECTS = 3
_LARGEST = 64_000_000  # pixels: beyond that, looking at all of them takes too long


@dataclass(frozen=True)
class TrainingData:
    """Numbers of annotated images and objects."""

    images: int = 0
    objects: int = 0
    names: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, document: Document) -> TrainingData:
        """Count the objects of a document."""
        counts = {image.name: len(image.records) for image in document.images.values()}
        names = tuple(name for name, count in counts.items() if count)
        return cls(len(names), sum(counts.values()), names)

    @property
    def is_enough(self) -> bool:
        """Whether a finetuning can start."""
        return self.objects >= MIN_OBJECTS

    def __str__(self) -> str:
        return f"{_count(self.images, 'image')} · {_count(self.objects, 'object')}"


def describe(data: TrainingData, split: Split | None = None) -> str:
    """Return one sentence: what is trained on, or what is missing."""
    if not data.objects:
        return f"Accept at least {MIN_OBJECTS} objects to finetune: annotate an image first."
    if not data.is_enough:
        missing = _count(MIN_OBJECTS - data.objects, "more object")
        return f"{_count(data.objects, 'object')} so far: accept {missing} to finetune."
    held_out = f", {len(split.held_out)} held out (by {split.by})" if split else ""
    return f"Train on {data}{held_out}"


def annotated_planes(document: Document) -> tuple[AnnotatedPlane, ...]:
    """Return the planes with objects, labels for pixels: enough to say how they are split.

    The labels are not copied. Empty if they are too many to be looked at in passing.
    """
    from napari_peftsam.training import AnnotatedPlane

    planes = document.planes_with_objects()
    if sum(document.labels(plane).size for plane in planes) > _LARGEST:
        return ()
    return tuple(
        AnnotatedPlane(f"{p.image}{p.index}", p.image, document.labels(p), document.labels(p))
        for p in planes
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
