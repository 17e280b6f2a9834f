"""Edits as pairs of `do` and `undo`; making one changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from napari_peftsam.annotation._state import SessionState
from napari_peftsam.annotation.current import Draft
from napari_peftsam.annotation.images import AnnotatedImage, Indices
from napari_peftsam.annotation.records import ObjectRecord
from napari_peftsam.types import LabelArray

__all__ = ["ChangeDraft", "ChangeRecords", "Edit", "PatchLabels", "Step", "patch"]


class Edit(Protocol):
    """A change of the session's state that can be taken back."""

    def do(self, state: SessionState) -> None:
        """Apply the change to the state before it."""

    def undo(self, state: SessionState) -> None:
        """Restore the state before it exactly."""

    def renamed(self, old: str, new: str) -> Edit:
        """Return the same edit after an image was renamed."""

    def without(self, image: str) -> Edit | None:
        """Return the edit after an image was removed, None if nothing is left of it."""


@dataclass(frozen=True, eq=False)
class PatchLabels:
    """Set pixels of one image; keeps only the pixels that change.

    Attributes
    ----------
    image
        Name of the image.
    where
        ``(N,)`` flat positions, N >= 1, without repeats.
    old, new
        The label(s) before and after: one for all pixels or ``(N,)``.
    """

    image: str
    where: Indices
    old: int | LabelArray
    new: int | LabelArray

    def do(self, state: SessionState) -> None:
        """Write the new labels."""
        state.write_labels(self.image, self.where, self.new)

    def undo(self, state: SessionState) -> None:
        """Write the old labels."""
        state.write_labels(self.image, self.where, self.old)

    def renamed(self, old: str, new: str) -> PatchLabels:
        """Follow the renaming of an image."""
        return replace(self, image=new) if self.image == old else self

    def without(self, image: str) -> PatchLabels | None:
        """Vanish with the image."""
        return None if self.image == image else self


@dataclass(frozen=True, eq=False)
class ChangeRecords:
    """Set, replace or remove (None) records of one image, and its next label."""

    image: str
    before: Mapping[int, ObjectRecord | None]
    after: Mapping[int, ObjectRecord | None]
    next_labels: tuple[int, int]

    def do(self, state: SessionState) -> None:
        """Write the new records."""
        state.write_records(self.image, self.after, self.next_labels[1])

    def undo(self, state: SessionState) -> None:
        """Write the old records."""
        state.write_records(self.image, self.before, self.next_labels[0])

    def renamed(self, old: str, new: str) -> ChangeRecords:
        """Follow the renaming of an image."""
        if self.image != old:
            return self
        before, after = (
            {label: record and record.renamed(old, new) for label, record in side.items()}
            for side in (self.before, self.after)
        )
        return ChangeRecords(new, before, after, self.next_labels)

    def without(self, image: str) -> ChangeRecords | None:
        """Vanish with the image."""
        return None if self.image == image else self


class ChangeDraft:
    """Exchange the object being made for another state of it.

    Doing and undoing are the same exchange, so that candidates which arrived or
    were chosen after the edit come back with a redo as well.
    """

    def __init__(self, other: Draft) -> None:
        self._other = other

    def do(self, state: SessionState) -> None:
        """Exchange the drafts."""
        other, self._other = self._other, state.draft
        state.set_draft(other)

    def undo(self, state: SessionState) -> None:
        """Exchange them back."""
        self.do(state)

    def renamed(self, old: str, new: str) -> ChangeDraft:
        """Follow the renaming of an image."""
        return ChangeDraft(self._other.renamed(old, new))

    def without(self, image: str) -> ChangeDraft:
        """Empty the draft if it lies in the removed image."""
        current = self._other.current
        return ChangeDraft(Draft()) if current and current.plane.image == image else self


@dataclass(frozen=True, eq=False)
class Step:
    """Edits that are done and undone as one.

    Attributes
    ----------
    label
        What the user did, e.g. ``"accept object 3"``.
    image
        The image it was done in.
    edits
        In the order in which they are done.
    """

    label: str
    image: str
    edits: tuple[Edit, ...]

    def do(self, state: SessionState) -> None:
        """Do all, first to last."""
        for edit in self.edits:
            edit.do(state)

    def undo(self, state: SessionState) -> None:
        """Undo all, last to first."""
        for edit in reversed(self.edits):
            edit.undo(state)

    def renamed(self, old: str, new: str) -> Step:
        """Follow the renaming of an image."""
        image = new if self.image == old else self.image
        return Step(self.label, image, tuple(e.renamed(old, new) for e in self.edits))

    def without(self, image: str) -> Step | None:
        """Keep what concerns other images."""
        kept = tuple(e for e in (edit.without(image) for edit in self.edits) if e is not None)
        return replace(self, edits=kept) if kept else None


def patch(
    image: AnnotatedImage, where: Indices, new: int | LabelArray, old: LabelArray | None = None
) -> PatchLabels:
    """Return the edit that sets pixels; `old` is read from the image unless given."""
    before = image.take(where) if old is None else old
    after = new if isinstance(new, int) else _compact(new)
    return PatchLabels(image.name, where, _compact(before), after)


def _compact(values: LabelArray) -> int | LabelArray:
    first = values[0]
    return int(first) if np.all(values == first) else values
