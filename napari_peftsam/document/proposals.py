"""Proposals: objects that may be there, until somebody accepts or rejects them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_peftsam.document.objects import ImageId, ObjectPlane, ObjectRecord, PlaneKey
from napari_peftsam.document.records import Index
from napari_peftsam.types import BoolArray, Prompts, Window

__all__ = ["Audit", "AuditPlane", "AuditTile", "NewProposal", "ProposalRecord", "Rejection"]

Rejection = Literal["nothing here", "wrong outline"]
"""Why a proposal is none: no object is there, whose pixels are background then, or one is."""


@dataclass(frozen=True, eq=False)
class NewProposal:
    """A proposal to show.

    Attributes
    ----------
    prompts
        What a person corrects it with.
    mask
        ``(h, w)`` pixels of the plane from `offset` on.
    offset
        Row and column of the first pixel of `mask`.
    score
        Expected IoU with a true object, in [0, 1].
    features
        What a scorer knows of it.
    model, adapter
        Names of the model and adapter that predicted it.
    """

    prompts: Prompts
    mask: BoolArray
    offset: tuple[int, int]
    score: float
    features: tuple[float, ...] = ()
    model: str = ""
    adapter: str = ""

    def record(self, number: int, index: Index) -> ProposalRecord:
        """Return the record of the proposal in a plane."""
        return ProposalRecord(
            number, index, self.prompts, self.score, self.features, self.model, self.adapter
        )


@dataclass(frozen=True)
class ProposalRecord:
    """A proposal of an image, or the judgement on one.

    Attributes
    ----------
    number
        Its value in the label set of proposals, unique in its image.
    index
        The plane it lies in.
    prompts, score, features, model, adapter
        As of `NewProposal`.
    iou
        IoU with the object that was accepted in its place, 0 if it was rejected; None while it
        is open. One with a judgement has no pixels any more.
    label
        The object that was accepted in its place, 0 for none; if that is deleted, it was wrong.
    unseen
        Whether it was accepted with others in one step, which says little of each.
    is_there
        Whether it was rejected for its outline only: an object is there.
    """

    number: int
    index: Index
    prompts: Prompts
    score: float
    features: tuple[float, ...] = ()
    model: str = ""
    adapter: str = ""
    iou: float | None = None
    label: int = 0
    unseen: bool = False
    is_there: bool = False

    @property
    def is_open(self) -> bool:
        """True until somebody has judged it."""
        return self.iou is None

    @property
    def is_object(self) -> bool:
        """True once somebody has found an object in its place."""
        return self.label > 0 or self.is_there

    def as_object(self, label: int, now: str, category: str) -> ObjectRecord:
        """Return the record of the object that it becomes."""
        return ObjectRecord(
            label, (ObjectPlane(self.index, self.prompts),), self.model, self.adapter,
            self.score, created=now, modified=now, category=category, automatic=True,
        )  # fmt: skip


@dataclass(frozen=True)
class AuditPlane:
    """A plane whose objects are counted.

    Attributes
    ----------
    last_proposal, last_label
        The highest number of a proposal and label of an object when the count began.
    """

    plane: PlaneKey
    last_proposal: int
    last_label: int


@dataclass(frozen=True)
class AuditTile:
    """A part of a plane, and how many objects were seen there without mask or proposal."""

    plane: PlaneKey
    window: Window
    seen: int | None = None


@dataclass(frozen=True)
class Audit:
    """A random sample of proposals and tiles, from which objects are counted.

    What is found of the proposals is in their records.

    Attributes
    ----------
    planes
        Where objects are counted.
    edges
        Scores at which a further stratum of proposals begins.
    proposals
        Image and number of those to look at.
    tiles
        Those to look at.
    of_tiles
        Number of all tiles.
    """

    planes: tuple[AuditPlane, ...]
    edges: tuple[float, ...]
    proposals: tuple[tuple[ImageId, int], ...]
    tiles: tuple[AuditTile, ...]
    of_tiles: int
