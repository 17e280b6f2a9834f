"""What there is to train on, counted while the user annotates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_peftsam.annotation import Session

if TYPE_CHECKING:
    from napari_peftsam.training import AnnotatedPlane, Split

__all__ = ["MIN_OBJECTS", "TrainingData", "annotated_planes", "describe"]

MIN_OBJECTS = 3
_LARGEST = 64_000_000  # pixels: beyond that, looking at all of them takes too long


@dataclass(frozen=True)
class TrainingData:
    """Numbers of images and objects of a session."""

    images: int = 0
    objects: int = 0
    names: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, session: Session) -> TrainingData:
        """Count the objects of a session."""
        counts = {name: len(session.records(name)) for name in session.images}
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


def annotated_planes(session: Session) -> tuple[AnnotatedPlane, ...]:
    """Return the planes with objects, labels for pixels: enough to say how they are split.

    The labels are not copied. Empty if they are too many to be looked at in passing.
    """
    from napari_peftsam.training import AnnotatedPlane

    planes = session.planes_with_objects()
    if sum(session.labels(plane).size for plane in planes) > _LARGEST:
        return ()
    return tuple(
        AnnotatedPlane(f"{p.image}{p.index}", p.image, session.labels(p), session.labels(p))
        for p in planes
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
