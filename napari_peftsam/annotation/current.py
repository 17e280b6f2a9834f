"""The object being made, the queue behind it, and how both are kept in the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from napari_peftsam.annotation.records import PlaneKey
from napari_peftsam.types import BoolArray, Earlier, Prediction, Prompts

__all__ = ["Answerer", "CurrentObject", "Draft"]


@dataclass(frozen=True)
class Answerer:
    """What answered prompts; equal ones give equal answers.

    Attributes
    ----------
    model, adapter
        Names, for the record.
    weights
        Identifies the model's weights: another model cannot refine its logits.
    embedding
        Identifies the embedding.
    decoder
        Identifies the adapter that decodes it: as an embedding's, it may be of the base model.
    """

    model: str = ""
    adapter: str = ""
    weights: str = ""
    embedding: object = None
    decoder: str = ""


@dataclass(frozen=True, eq=False)
class CurrentObject:
    """The object being made.

    Attributes
    ----------
    plane
        Where it is.
    prompts
        What the user said so far, never empty.
    revision
        Names this state of the prompts; hand it back with the answer to them.
    candidates
        The answer to these prompts, None while it is awaited; cut down to the part of the
        plane that holds them, since whole masks would cost K bytes per pixel of the image
        and step of the history.
    choice
        Index of the shown candidate.
    previous
        The candidate shown before the last point was added, for the predictor to refine;
        None if there is nothing to refine.
    made_by, previous_by
        What gave `candidates` and `previous`.
    """

    plane: PlaneKey
    prompts: Prompts
    revision: int
    candidates: Prediction | None = None
    choice: int = 0
    previous: Earlier | None = None
    made_by: Answerer = Answerer()
    previous_by: Answerer = Answerer()

    @property
    def mask(self) -> BoolArray | None:
        """The shown candidate, None while it is awaited; the part of the plane at `offset`."""
        return None if self.candidates is None else self.candidates.masks[self.choice]

    @property
    def offset(self) -> tuple[int, int]:
        """Row and column of the first pixel of `mask`."""
        return (0, 0) if self.candidates is None else self.candidates.offset

    @property
    def score(self) -> float | None:
        """Predicted IoU of the shown candidate, None while it is awaited."""
        return None if self.candidates is None else float(self.candidates.scores[self.choice])

    def refined(self, prompts: Prompts, revision: int) -> CurrentObject:
        """Return the object with more points; the shown candidate becomes `previous`."""
        previous, by = self.previous, self.previous_by
        if self.candidates is not None:
            previous, by = self.candidates.earlier(self.choice), self.made_by
        return CurrentObject(self.plane, prompts, revision, previous=previous, previous_by=by)

    def previous_for(self, answerer: Answerer) -> Earlier | None:
        """Return `previous` if `answerer` can refine it, i.e. has the weights that gave it."""
        return self.previous if self.previous_by.weights == answerer.weights else None


@dataclass(frozen=True, eq=False)
class Draft:
    """The object being made and the prompts of those that follow it in the same plane."""

    current: CurrentObject | None = None
    pending: tuple[Prompts, ...] = ()

    @property
    def prompts(self) -> tuple[PlaneKey | None, tuple[Prompts, ...]]:
        """The plane and all prompts in it, current first: equal if nothing was prompted."""
        if self.current is None:
            return None, ()
        return self.current.plane, (self.current.prompts, *self.pending)

    def on(self, plane: PlaneKey) -> Draft:
        """Return this draft, or an empty one if it lies in another plane."""
        return self if self.current is not None and self.current.plane == plane else Draft()

    def advanced(self, revision: int) -> Draft:
        """Return the draft without its current object; the next in the queue takes over."""
        if self.current is None or not self.pending:
            return Draft()
        return Draft(CurrentObject(self.current.plane, self.pending[0], revision), self.pending[1:])

    def queued(self, plane: PlaneKey, more: Sequence[Prompts], revision: int) -> Draft:
        """Return the draft with more objects at the end of its queue."""
        here = self.on(plane)
        if here.current is None:
            return Draft(CurrentObject(plane, more[0], revision), tuple(more[1:]))
        return replace(here, pending=(*here.pending, *more))

    def without_prompts(self, plane: PlaneKey, done: Sequence[Prompts], revision: int) -> Draft:
        """Return the draft without the objects whose prompts are `done`."""
        if self.current is None or self.current.plane != plane:
            return self
        left = tuple(p for p in self.pending if p not in done)
        rest = replace(self, pending=left)
        return rest.advanced(revision) if self.current.prompts in done else rest

    def renamed(self, old: str, new: str) -> Draft:
        """Return the draft following the renaming of an image."""
        current = self.current
        if current is None or current.plane.image != old:
            return self
        return replace(self, current=replace(current, plane=replace(current.plane, image=new)))
