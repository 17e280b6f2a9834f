"""Objects: prompts and candidates of the pending one, provenance of the accepted ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, NewType

from napari_peftsam.document.records import ModelVersion
from napari_peftsam.errors import LabelError, PromptError
from napari_peftsam.types import BoolArray, Box, MaskPrompt, Point, Prediction, Prompts, Window

__all__ = [
    "ImageId", "NewObject", "ObjectPlane", "ObjectRecord", "Overlap", "Pending", "PendingObject",
    "PlaneKey",
]  # fmt: skip

ImageId = NewType("ImageId", str)
"""Identifies an image in its document; renaming the image does not change it."""

Overlap = Literal["keep", "overwrite", "replace"]
"""Rule for pixels of existing objects.

``"keep"``: they keep them. ``"overwrite"``: the new object is cut out of them. ``"replace"``: those
that share half of their area, or of the new object's, are removed; the others keep theirs.
"""

MANUAL = "manual"
"""The model name of objects that were painted by hand."""
IMPORTED = "imported"
"""The model name of objects that came in with a label array."""


@dataclass(frozen=True)
class PlaneKey:
    """One 2D plane of an image.

    Attributes
    ----------
    image
        The image's id.
    index
        Position along the leading axes of a stack, e.g. ``(z,)`` or ``(t, z)``;
        empty for a 2D image.
    """

    image: ImageId
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class ObjectPlane:
    """A plane in which an object has pixels, and the prompts it was given there."""

    index: tuple[int, ...] = ()
    prompts: Prompts = field(default_factory=Prompts)


@dataclass(frozen=True)
class ObjectRecord:
    """Provenance of one accepted object.

    Attributes
    ----------
    label
        Its value in the label array of its image.
    planes
        The planes in which it has pixels, the one it was made in first.
    model, adapter
        Names of the model and adapter that predicted the mask; `model` is ``"manual"`` for
        painted and ``"imported"`` for imported objects; `adapter` is empty where there was none.
    score
        Predicted IoU in [0, 1] of the accepted candidate, None if unknown.
    candidate
        Index of the accepted candidate; 0 has the best score.
    corrected
        Whether its pixels were edited by hand (or merged) after it was accepted.
    created, modified
        UTC times in ISO 8601.
    category
        Its class, e.g. ``"nucleus"``; empty if it has none.
    label_set
        The label set that holds it; empty for that of objects without a class.
    automatic
        Whether it was a proposal, whose prompts nobody gave.
    """

    label: int
    planes: tuple[ObjectPlane, ...]
    model: str = ""
    adapter: str = ""
    score: float | None = None
    candidate: int = 0
    corrected: bool = False
    created: str = ""
    modified: str = ""
    category: str = ""
    label_set: str = ""
    automatic: bool = False

    @property
    def index(self) -> tuple[int, ...]:
        """The plane it was made in, as a position along the leading axes."""
        return self.planes[0].index

    @property
    def prompts(self) -> Prompts:
        """Its prompts in the plane it was made in."""
        return self.planes[0].prompts

    @property
    def source(self) -> str:
        """Its origin: box, point, painted, imported or automatic."""
        given = [plane.prompts for plane in self.planes if plane.prompts]
        if given and not self.automatic:
            return "point" if given[0].box is None else "box"
        return {MANUAL: "painted", IMPORTED: "imported"}.get(self.model, "automatic")

    def prompts_in(self, index: tuple[int, ...]) -> Prompts:
        """Return its prompts in one plane, none if there are none."""
        return next((p.prompts for p in self.planes if p.index == index), Prompts())

    def in_planes(self, indices: Iterable[tuple[int, ...]]) -> ObjectRecord:
        """Return the record of the object once it lies in just these planes (one at least)."""
        left = sorted(indices)
        kept = [plane for plane in self.planes if plane.index in left]
        known = {plane.index for plane in kept}
        planes = (*kept, *(ObjectPlane(index) for index in left if index not in known))
        return self if planes == self.planes else replace(self, planes=planes)

    def to_dict(self) -> dict[str, Any]:
        """Return its provenance as JSON types, every field but the label set included."""
        record: dict[str, Any] = {
            "label": self.label,
            "planes": [
                {"index": list(plane.index), "prompts": _prompts_dict(plane.prompts)}
                for plane in self.planes
            ],
            "source": self.source,
        }
        return record | {name: getattr(self, name) for name in _KEPT_AS_THEY_ARE}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ObjectRecord:
        """Return the record that `to_dict` gave; `LabelError` if it is none."""
        try:
            planes = tuple(
                ObjectPlane(tuple(map(int, each["index"])), _prompts_of(each["prompts"]))
                for each in record["planes"]
            )
            known = {name: record[name] for name in _KEPT_AS_THEY_ARE if name in record}
            proposed = record.get("source") == "automatic" and any(p.prompts for p in planes)
            return cls(int(record["label"]), planes, **known, automatic=proposed)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LabelError(f"the provenance of an object cannot be read ({error!r})") from error


@dataclass(frozen=True, eq=False)
class NewObject:
    """An object to accept.

    Attributes
    ----------
    prompts
        The user's prompts; may be empty.
    mask
        ``(H, W)`` of the whole plane, or of the part of it that begins at `offset`.
    score
        Predicted IoU in [0, 1], None if unknown.
    offset
        Row and column of the first pixel of `mask`, None for a mask of the whole plane.
    candidate
        Index of the candidate that `mask` is.
    model, adapter
        Names of the model and adapter that predicted it.
    label
        The object that it is in this plane, where its pixels are replaced; 0 for a new one.
    category
        The class of a new object; empty: the one in use.
    automatic
        Whether it was a proposal, whose prompts nobody gave.
    """

    prompts: Prompts
    mask: BoolArray
    score: float | None = None
    offset: tuple[int, int] | None = None
    candidate: int = 0
    model: str = ""
    adapter: str = ""
    label: int = 0
    category: str = ""
    automatic: bool = False

    @classmethod
    def best_of(cls, prompts: Prompts, prediction: Prediction, by: ModelVersion) -> NewObject:
        """Return the best candidate of a prediction."""
        best = prediction.trimmed()
        score = float(best.scores[0])
        return cls(prompts, best.masks[0], score, best.offset, 0, by.model, by.adapter)

    def record(self, label: int, index: tuple[int, ...], now: str) -> ObjectRecord:
        """Return the record of the object once it is accepted in one plane."""
        return ObjectRecord(
            label,
            (ObjectPlane(index, self.prompts),),
            self.model,
            self.adapter,
            None if self.score is None else float(self.score),
            self.candidate,
            created=now,
            modified=now,
            category=self.category,
            automatic=self.automatic,
        )

    def revised(self, old: ObjectRecord, index: tuple[int, ...], now: str) -> ObjectRecord:
        """Return the record of an accepted object that has this mask in one plane from now on."""
        new = self.record(old.label, index, now)
        planes = tuple(new.planes[0] if p.index == index else p for p in old.planes)
        planes += () if new.planes[0] in planes else new.planes
        kept = {name: getattr(old, name) for name in ("created", "category", "label_set")}
        return replace(new, planes=planes, **kept)


def merged(first: ObjectRecord, others: Iterable[ObjectRecord], now: str) -> ObjectRecord:
    """Return the record of an object that took over `others`, with their prompts plane by plane."""
    planes: dict[tuple[int, ...], list[Prompts]] = {}
    for record in (first, *others):
        for plane in record.planes:
            planes.setdefault(plane.index, []).append(plane.prompts)
    together = tuple(ObjectPlane(index, _union(each)) for index, each in planes.items())
    return replace(first, planes=together, score=None, corrected=True, modified=now)


def _union(prompts: list[Prompts]) -> Prompts:
    if len(prompts) == 1:
        return prompts[0]
    boxes = [p.box for p in prompts if p.box is not None]
    box = None
    if len(boxes) == len(prompts):  # the union means something only if each has a box
        lows = min(b.row0 for b in boxes), min(b.col0 for b in boxes)
        box = Box(*lows, max(b.row1 for b in boxes), max(b.col1 for b in boxes))
    # A negative point of one may lie in another, where it would now be wrong.
    return Prompts(tuple(p for each in prompts for p in each.points if p.positive), box)


def _prompts_dict(prompts: Prompts) -> dict[str, Any]:
    box = None if prompts.box is None else asdict(prompts.box)
    return {"points": [asdict(point) for point in prompts.points], "box": box}


def _prompts_of(given: Mapping[str, Any]) -> Prompts:
    box = given["box"]
    points = tuple(Point(**point) for point in given["points"])
    return Prompts(points, None if box is None else Box(**box))


_KEPT_AS_THEY_ARE = (
    "model", "adapter", "score", "candidate", "corrected", "created", "modified", "category"
)  # fmt: skip


# --- the pending object -------------------------------------------------------------

KEPT = 200
"""Number of states of the prompts that keep their candidates, and the shown one."""


@dataclass(frozen=True)
class Pending:
    """Prompts not accepted yet, all in one plane.

    Attributes
    ----------
    plane
        The plane of the prompts; None without prompts.
    queue
        Prompts of the pending object, then of those that follow it.
    revision
        Identifies this state of the pending object's prompts.
    refines
        Revision and candidate whose mask the next prediction refines, if there is one.
    reopens
        Label of the accepted object that the pending one is to replace in this plane, else 0.
    """

    plane: PlaneKey | None = None
    queue: tuple[Prompts, ...] = ()
    revision: int = 0
    refines: tuple[int, int] | None = None
    reopens: int = 0

    def __bool__(self) -> bool:
        return bool(self.queue)

    def on(self, plane: PlaneKey) -> Pending:
        """Return itself, or nothing pending if it lies in another plane."""
        return self if self.plane == plane else Pending()

    def with_queue(self, plane: PlaneKey, queue: Sequence[Prompts], revision: int) -> Pending:
        """Return it with other prompts; the first keeps its revision if it stays the same."""
        kept = tuple(each for each in queue if each)
        if not kept:
            return Pending()
        here = self.on(plane)
        if here and here.queue[0] == kept[0]:
            return replace(here, queue=kept)
        is_same_object = len(kept) >= len(here.queue)  # else the first one left the queue
        return Pending(plane, kept, revision, reopens=here.reopens if is_same_object else 0)


@dataclass(frozen=True, eq=False)
class PendingObject:
    """The pending object as it is shown.

    Attributes
    ----------
    plane
        The plane of the object.
    prompts
        The user's prompts so far, never empty.
    revision
        Identifies this state of the prompts; pass it back with the prediction.
    candidates
        The answer to these prompts, in the smallest part of the plane that holds them all;
        None while it is awaited.
    made_by
        The model version that predicted the candidates.
    choice
        Index of the shown candidate.
    mask_prompt, weights
        The candidate to refine, None if there is none, and the `ModelVersion.weights` it is of.
    reopens
        Label of the accepted object that it is to replace in this plane, else 0.
    """

    plane: PlaneKey
    prompts: Prompts
    revision: int
    candidates: Prediction | None
    made_by: ModelVersion
    choice: int
    mask_prompt: MaskPrompt | None
    weights: str
    reopens: int = 0

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

    def mask_prompt_for(self, version: ModelVersion) -> MaskPrompt | None:
        """Return `mask_prompt` if `version` can refine it, i.e. has the weights that gave it."""
        return self.mask_prompt if self.weights == version.weights else None

    def as_new_object(self) -> NewObject:
        """Return the shown candidate as an object to accept; there must be one."""
        assert self.mask is not None, "nothing is shown"
        by = self.made_by
        return NewObject(
            self.prompts, self.mask, self.score, self.offset, self.choice, by.model, by.adapter,
            self.reopens,
        )  # fmt: skip


def check_candidates(prediction: Prediction, shape: tuple[int, int]) -> None:
    """Raise `PromptError` unless candidates cover a part of a plane of this shape."""
    count, window = len(prediction), prediction.window
    inside = window & Window(0, 0, *shape) == window
    is_one = prediction.masks.shape == (count, *window.shape)
    if count < 1 or not is_one or not inside or prediction.plane_shape != shape:
        where = "" if prediction.part_of is None else f" at {prediction.offset}"
        raise PromptError(
            f"the candidates have shape {prediction.masks.shape}{where}, expected (K, "
            f"{shape[0]}, {shape[1]}) with K >= 1, or a part of it: predict them from this plane"
        )
