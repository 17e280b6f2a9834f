"""Actions on a document as values.

An action is a frozen dataclass with a JSON form; the arrays of those that carry pixels go
into a compressed payload. The log of a project's actions rebuilds its labels without model,
image or imported file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from napari_peftsam.document.objects import ImageId, NewObject, ObjectRecord, Overlap, PlaneKey
from napari_peftsam.document.proposals import Audit, NewProposal, Rejection
from napari_peftsam.document.records import (
    OBJECTS,
    CompleteRegion,
    ImageInfo,
    ImageSource,
    Run,
    StoredAdapter,
)
from napari_peftsam.document.tables import decode, encode
from napari_peftsam.errors import ProjectError
from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.types import Box, LabelArray, Point, Prompts, Window

__all__ = [
    "Accept",
    "AcceptObjects",
    "AcceptProposals",
    "Action",
    "AddAdapter",
    "AddImage",
    "AddPoint",
    "AddRun", "BeginCount", "Categorize",
    "ChooseCandidate", "CountTile",
    "DeleteObjects",
    "Discard",
    "ImportLabels",
    "LocateImage",
    "MarkComplete",
    "MergeObjects",
    "Paint",
    "PaintBackground",
    "QueuePrompts",
    "Redo",
    "RejectProposals",
    "RemoveImage",
    "RemoveLastPrompt",
    "RenameImage",
    "Reopen",
    "ReplacePixels",
    "SetBox",
    "SetPrompts",
    "SetQueue",
    "Suggest",
    "Undo",
    "UseAdapter", "UseCategory",
]  # fmt: skip


@dataclass(frozen=True)
class AddImage:
    """Add an image.

    Attributes
    ----------
    image
        Its id, which no image has or ever had.
    info
        Name, shape, colours and origin.
    labels
        ``(..., H, W)`` objects it comes with, None for none.
    records
        Provenance of those objects; the others count as imported.
    others
        Labels of further label sets.
    """

    image: ImageId
    info: ImageInfo
    labels: LabelArray | None = field(default=None, compare=False)
    records: tuple[ObjectRecord, ...] = ()
    others: dict[str, LabelArray] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class RemoveImage:
    """Remove an image with its objects; undo brings them back."""

    image: ImageId


@dataclass(frozen=True)
class RenameImage:
    """Rename an image."""

    image: ImageId
    name: str


@dataclass(frozen=True)
class ReplacePixels:
    """Put other pixels of the same spatial shape under an image's objects.

    `rgb` and `metadata` are as of `ImageInfo`; None leaves them as they are.
    """

    image: ImageId
    source: ImageSource | None = None
    rgb: bool | None = None
    metadata: ImageMetadata | None = None


@dataclass(frozen=True)
class LocateImage:
    """Record the new location of an image's file."""

    image: ImageId
    source: ImageSource


@dataclass(frozen=True)
class AddPoint:
    """Add a point to the pending object; in another plane, start an object there."""

    plane: PlaneKey
    point: Point


@dataclass(frozen=True)
class SetBox:
    """Set the box of the pending object, or remove it (None)."""

    plane: PlaneKey
    box: Box | None


@dataclass(frozen=True)
class SetPrompts:
    """Replace all prompts of the pending object; no prompts discard it."""

    plane: PlaneKey
    prompts: Prompts


@dataclass(frozen=True)
class Reopen:
    """Make an accepted object pending again, with its prompts in this plane.

    Accepting it replaces the object's pixels there; discarding it leaves the object as it is. The
    prompts of other objects in this plane follow it. Without prompts of its own, the box around
    the object is its prompt.
    """

    plane: PlaneKey
    label: int


@dataclass(frozen=True)
class RemoveLastPrompt:
    """Remove the newest point of the pending object or, without points, its box."""


@dataclass(frozen=True)
class QueuePrompts:
    """Ask for one object per `Prompts`, after those already asked for in this plane."""

    plane: PlaneKey
    prompts: tuple[Prompts, ...]

    @classmethod
    def boxes(cls, plane: PlaneKey, boxes: Sequence[Box]) -> QueuePrompts:
        """Return the action that asks for one object per box."""
        return cls(plane, tuple(Prompts(box=box) for box in boxes))


@dataclass(frozen=True)
class SetQueue:
    """Replace the prompts of the pending object and of all that follow it; drop empty ones."""

    plane: PlaneKey
    prompts: tuple[Prompts, ...]


@dataclass(frozen=True)
class Discard:
    """Discard the pending object, and those that follow it if `everything`."""

    everything: bool = False


@dataclass(frozen=True)
class ChooseCandidate:
    """Show another candidate of the pending object."""

    index: int


@dataclass(frozen=True)
class Accept:
    """Make the shown candidate an object and go on to the next in the queue.

    Attributes
    ----------
    overlap
        See `Overlap`.
    shown
        The candidate; filled in when the action is done.
    """

    overlap: Overlap = "keep"
    shown: NewObject | None = field(default=None, compare=False)


@dataclass(frozen=True)
class AcceptObjects:
    """Accept many objects in one step; prompts of those that get a pixel leave the queue.

    Attributes
    ----------
    objects
        Where they overlap, the first keeps the pixels unless `overlap` is "overwrite".
    overlap
        Rule for pixels of existing objects.
    """

    plane: PlaneKey
    objects: tuple[NewObject, ...] = field(compare=False)
    overlap: Overlap = "keep"


@dataclass(frozen=True)
class Suggest:
    """Show proposals in place of the open ones that were there.

    Those that lie on accepted objects of the class in use by half are left out.

    Attributes
    ----------
    proposals
        Where they overlap, the first keeps the pixels.
    part
        Where they were looked for; None for all of the plane.
    """

    plane: PlaneKey
    proposals: tuple[NewProposal, ...] = field(compare=False)
    part: Window | None = None


@dataclass(frozen=True)
class AcceptProposals:
    """Make proposals objects, which take no pixel of others."""

    plane: PlaneKey
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class RejectProposals:
    """Take proposals away, and remember that they are none; see `Rejection`."""

    plane: PlaneKey
    numbers: tuple[int, ...]
    reason: Rejection = "nothing here"


@dataclass(frozen=True)
class BeginCount:
    """Draw what to look at, in place of an earlier count's."""

    audit: Audit


@dataclass(frozen=True)
class CountTile:
    """Say how many objects without mask or proposal are in a tile of the count (from 0)."""

    tile: int
    seen: int


@dataclass(frozen=True)
class DeleteObjects:
    """Remove objects and their pixels."""

    image: ImageId
    labels: tuple[int, ...]


@dataclass(frozen=True)
class MergeObjects:
    """Make two or more objects one, which keeps the first label."""

    image: ImageId
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Categorize:
    """Give objects a class, to whose label set they move; an empty name takes it away."""

    image: ImageId
    labels: tuple[int, ...]
    category: str


@dataclass(frozen=True)
class UseCategory:
    """Choose the class of the objects that are made from now on; an empty name is none.

    They lie in the label set of the class, over objects of other classes.
    """

    category: str


@dataclass(frozen=True)
class Paint:
    """Paint labels.

    Touched objects without a record here count as corrected, objects without pixels are removed,
    and unknown labels become objects painted by hand.

    Attributes
    ----------
    where
        ``(N,)`` flat positions (C order) in the label array, ascending, without repeats.
    new
        Their label, or ``(N,)`` labels.
    old
        Their labels before; None reads them from the label array. Required from a caller
        that paints into the shared array itself.
    records
        Provenance of touched objects that were predicted.
    step
        What undo calls it.
    label_set
        The label set that is painted in.
    """

    image: ImageId
    where: LabelArray = field(compare=False)
    new: int | LabelArray = field(compare=False)
    old: int | LabelArray | None = field(default=None, compare=False, metadata={"stored": False})
    records: tuple[ObjectRecord, ...] = ()
    step: str = "paint"
    label_set: str = OBJECTS


@dataclass(frozen=True)
class PaintBackground:
    """Declare pixels background, or revoke that; `where` as in `Paint`."""

    image: ImageId
    where: LabelArray = field(compare=False)
    is_background: bool = True


@dataclass(frozen=True)
class MarkComplete:
    """Declare that all objects in a region are annotated, or revoke that."""

    image: ImageId
    region: CompleteRegion = field(default_factory=CompleteRegion)
    is_complete: bool = True


@dataclass(frozen=True)
class ImportLabels:
    """Make label sets of an image, by default that of objects without a class, equal to others.

    Attributes
    ----------
    labels
        ``(..., H, W)`` non-negative integers.
    records
        Provenance of its objects. Without one, objects whose pixels stay the same keep
        their record and the others count as imported.
    label_set
        Where `labels` go.
    others
        Labels of further label sets.
    """

    image: ImageId
    labels: LabelArray = field(compare=False)
    records: tuple[ObjectRecord, ...] = ()
    label_set: str = OBJECTS
    others: dict[str, LabelArray] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class AddAdapter:
    """List a trained or loaded adapter."""

    adapter: StoredAdapter


@dataclass(frozen=True)
class UseAdapter:
    """Make an adapter of the list live; an empty name is the bare model."""

    name: str
    strength: float = 1.0
    model: str = ""


@dataclass(frozen=True)
class AddRun:
    """Keep the report of a training run."""

    run: Run


@dataclass(frozen=True)
class Undo:
    """Take the last step back."""


@dataclass(frozen=True)
class Redo:
    """Do the last undone step again."""


Action = (
    AddImage | RemoveImage | RenameImage | ReplacePixels | LocateImage
    | AddPoint | SetBox | SetPrompts | Reopen | RemoveLastPrompt | QueuePrompts | SetQueue | Discard
    | ChooseCandidate | Accept | AcceptObjects | Suggest | AcceptProposals | RejectProposals
    | BeginCount | CountTile | DeleteObjects | MergeObjects
    | Categorize | UseCategory | Paint | PaintBackground | MarkComplete | ImportLabels
    | AddAdapter | UseAdapter | AddRun | Undo | Redo
)  # fmt: skip
"""Any action."""

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Action.__args__}


def encode_action(action: Action) -> tuple[str, str, bytes]:
    """Return the kind of an action, its fields as JSON text, and its pixels."""
    return type(action).__name__, *encode(action)


def decode_action(kind: str, text: str, payload: bytes) -> Action:
    """Rebuild an action from `encode_action`; `ProjectError` if it is damaged or newer."""
    if kind not in _KINDS:
        raise ProjectError(f"the project holds an action {kind!r}: open it with a newer version")
    action: Action = decode(_KINDS[kind], text, payload)
    return action
