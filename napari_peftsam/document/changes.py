"""The state of a document, its reversible changes, and both as rows of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, get_type_hints

import numpy as np

from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.objects import (
    KEPT,
    ImageId,
    ObjectRecord,
    Pending,
    PendingObject,
    check_candidates,
)
from napari_peftsam.document.proposals import Audit, ProposalRecord
from napari_peftsam.document.records import (
    OBJECTS,
    PROPOSALS,
    ImageInfo,
    LiveAdapter,
    ModelVersion,
    Run,
    StoredAdapter,
)
from napari_peftsam.document.regions import Integers, Region, union
from napari_peftsam.document.store import Store
from napari_peftsam.document.tables import (
    Row,
    decode,
    decompress,
    dump,
    from_json,
    tile_bytes,
    tiles_at,
)
from napari_peftsam.errors import ImageError
from napari_peftsam.types import LabelArray, Prediction

__all__ = [
    "DOCUMENT_FIELDS", "Change", "FieldChange", "LabelChange", "ObjectChange", "ProposalChange",
    "State", "Touched", "apply", "decode_changes", "encode_changes", "inverse", "read_state",
    "rows_of", "set_field", "set_proposals", "set_records",
]  # fmt: skip


Answer = tuple[Prediction, ModelVersion]
"""Candidates for one state of the prompts, and the model version that predicted them."""


@dataclass
class Touched:
    """Parts of a state that were changed."""

    # Written region, and starts and lengths of runs of positions, by image and label set.
    pixels: dict[tuple[ImageId, str], Region] = field(default_factory=dict)
    runs: dict[tuple[ImageId, str], list[tuple[Integers, Integers]]] = field(default_factory=dict)
    # Labels and proposals whose records changed, by image.
    objects: dict[ImageId, set[int]] = field(default_factory=dict)
    proposals: dict[ImageId, set[int]] = field(default_factory=dict)
    # Images of which something small changed.
    infos: dict[ImageId, None] = field(default_factory=dict)
    # Names of the document's own fields that changed.
    fields: dict[str, None] = field(default_factory=dict)


@dataclass(eq=False)
class State:
    """Content of a document.

    Attributes
    ----------
    images
        All images, removed ones included, in the order in which they were added.
    pending
        Prompts not accepted yet.
    choices
        Shown candidates by the revision of their prompts; of others the first is shown.
    category
        The class of objects made from now on; empty for none.
    adapters, live, runs
        Trained and loaded adapters, the one in use, and the reports of the training runs.
    audit
        What is looked at to count objects.
    answers
        Candidates by revision; not stored.
    number, time
        Number and UTC time, in ISO 8601, of the action that is being done.
    touched
        Parts changed since the last `take_touched`.
    """

    images: dict[ImageId, DocumentImage] = field(default_factory=dict)
    pending: Pending = field(default_factory=Pending)
    choices: dict[int, int] = field(default_factory=dict)
    category: str = ""
    adapters: tuple[StoredAdapter, ...] = ()
    live: LiveAdapter = field(default_factory=LiveAdapter)
    runs: tuple[Run, ...] = ()
    audit: Audit | None = None
    answers: dict[int, Answer] = field(default_factory=dict)
    number: int = 0
    time: str = ""
    touched: Touched = field(default_factory=Touched)

    @property
    def shown(self) -> PendingObject | None:
        """The pending object with its candidates, None before the first prompt."""
        pending = self.pending
        if pending.plane is None:
            return None
        candidates, made_by = self.answers.get(pending.revision, (None, ModelVersion()))
        choice = self.choices.get(pending.revision, 0)
        if candidates is None or choice >= len(candidates):
            choice = 0  # of other candidates, of which there were more
        mask_prompt, weights = None, ""
        if pending.refines is not None and pending.refines[0] in self.answers:
            refined, by = self.answers[pending.refines[0]]
            mask_prompt, weights = refined.mask_prompt(pending.refines[1]), by.weights
        return PendingObject(
            pending.plane, pending.queue[0], pending.revision,
            candidates, made_by, choice, mask_prompt, weights, pending.reopens,
        )  # fmt: skip

    def image(self, image: ImageId) -> DocumentImage:
        """Return an image; an unknown or removed one is an `ImageError` listing the others."""
        found = self.images.get(image)
        if found is None or found.info.is_removed:
            here = (i.name for i in self.images.values() if not i.info.is_removed)
            known = ", ".join(map(repr, here)) or "none"
            raise ImageError(f"there is no image {image!r}: add it first (there are: {known})")
        return found

    def keep_answer(self, prediction: Prediction, made_by: ModelVersion) -> None:
        """Keep the candidates for the pending prompts; the oldest ones make room."""
        assert self.pending.plane is not None
        check_candidates(prediction, self.image(self.pending.plane.image).plane_shape)
        self.answers[self.pending.revision] = prediction.trimmed(), made_by
        while len(self.answers) > KEPT:
            del self.answers[next(iter(self.answers))]

    def take_touched(self) -> Touched:
        """Return the parts changed since the last call."""
        taken, self.touched = self.touched, Touched()
        return taken


DOCUMENT_FIELDS: dict[str, Any] = {
    name: hint
    for name, hint in get_type_hints(State).items()
    if name in ("pending", "choices", "category", "adapters", "live", "runs", "audit")
}
"""The document's stored fields and their types."""


def read_state(store: Store) -> State:
    """Return the state in a store; labels and records are read on first use."""
    state = State()
    for image, info in store.images().items():
        state.images[image] = DocumentImage(image, info, store=store)
    for name, text in store.fields().items():
        if name in DOCUMENT_FIELDS:
            setattr(state, name, decode(DOCUMENT_FIELDS[name], text))
    return state


def rows_of(state: State, touched: Touched) -> list[Row]:
    """Return the current rows of all touched parts."""
    rows: list[Row] = [("images", (i,), dump(state.images[i].info)) for i in touched.infos]
    for image, labels in touched.objects.items():
        rows += _record_rows(image, OBJECTS, state.images[image].records, labels)
    for image, numbers in touched.proposals.items():
        rows += _record_rows(image, PROPOSALS, state.images[image].proposals, numbers)
    for (image, label_set), runs in touched.runs.items():
        array = state.images[image].array(label_set)
        tiles = tiles_at(image, label_set, runs, array.shape)
        rows += [("tiles", key, tile_bytes(array, key)) for key in tiles]
    rows += [("fields", (name,), dump(getattr(state, name))) for name in touched.fields]
    return rows


def _record_rows(
    image: ImageId, label_set: str, records: Mapping[int, object], labels: Iterable[int]
) -> Iterator[Row]:
    for label in labels:
        text = dump(records[label]) if label in records else None
        yield "objects", (image, label_set, label), text


# --- changes ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class LabelChange:
    """Set pixels of one image, at ``(R,)`` runs of flat positions without overlap; R >= 1.

    `old` and `new` are the label(s) before and after: one for all pixels or one each.
    """

    image: ImageId
    starts: LabelArray
    lengths: LabelArray
    old: int | LabelArray
    new: int | LabelArray
    label_set: str = OBJECTS

    @classmethod
    def of(
        cls, image: ImageId, where: Integers, old: Any, new: Any, label_set: str = OBJECTS
    ) -> LabelChange:
        """Return the change of pixels at N >= 1 flat positions."""
        first = np.append(0, np.flatnonzero(np.diff(where) != 1) + 1)
        starts = where[first].astype(np.int64)
        lengths = np.diff(first, append=len(where)).astype(np.int32)
        made = cls(image, starts, lengths, _compact(old), _compact(new), label_set)
        vars(made)["where"] = where
        return made

    @cached_property
    def where(self) -> Integers:
        """The flat positions of its pixels, ``(N,)``."""
        ends = np.cumsum(self.lengths)
        offsets = np.repeat(self.starts - (ends - self.lengths), self.lengths)
        return offsets + np.arange(ends[-1])

    def do(self, state: State) -> None:
        """Write the new labels."""
        key = self.image, self.label_set
        region = state.images[self.image].put(self.label_set, self.where, self.old, self.new)
        known = state.touched.pixels.get(key)
        state.touched.pixels[key] = region if known is None else union(known, region)
        state.touched.runs.setdefault(key, []).append((self.starts, self.lengths))


@dataclass(frozen=True, eq=False)
class ObjectChange:
    """Set, replace or remove (None) records of one image."""

    image: ImageId
    before: dict[int, ObjectRecord | None]
    after: dict[int, ObjectRecord | None]

    def do(self, state: State) -> None:
        """Write the new records."""
        _put(state.images[self.image].records, self.after)
        state.touched.objects.setdefault(self.image, set()).update(self.after)


@dataclass(frozen=True, eq=False)
class ProposalChange:
    """Set, replace or remove (None) proposals of one image."""

    image: ImageId
    before: dict[int, ProposalRecord | None]
    after: dict[int, ProposalRecord | None]

    def do(self, state: State) -> None:
        """Write the new proposals."""
        _put(state.images[self.image].proposals, self.after)
        state.touched.proposals.setdefault(self.image, set()).update(self.after)


def _put(records: dict[int, Any], after: Mapping[int, Any]) -> None:
    for label, record in after.items():
        if record is None:
            records.pop(label, None)
        else:
            records[label] = record


@dataclass(frozen=True, eq=False)
class FieldChange:
    """Set a field of an image's `ImageInfo`, or of the document's `State` (image None)."""

    image: ImageId | None
    name: str
    before: Any
    after: Any

    def do(self, state: State) -> None:
        """Write the new value."""
        if self.image is None:
            setattr(state, self.name, self.after)
            state.touched.fields[self.name] = None
        else:
            entry = state.images[self.image]
            entry.info = replace(entry.info, **{self.name: self.after})
            state.touched.infos[self.image] = None


Change = LabelChange | ObjectChange | FieldChange | ProposalChange
"""Any change."""


def inverse(change: Change) -> Change:
    """Return the change that takes this one back."""
    if isinstance(change, LabelChange):
        made = replace(change, old=change.new, new=change.old)
        vars(made)["where"] = change.where
        return made
    swapped: dict[str, Any] = {"before": change.after, "after": change.before}
    return replace(change, **swapped)


def changed_pixels(change: Change) -> int:
    """Return the number of pixels that a change sets."""
    return int(change.lengths.sum()) if isinstance(change, LabelChange) else 0


def set_field(
    state: State, name: str, value: Any, image: ImageId | None = None
) -> tuple[Change, ...]:
    """Return the change of a field of an image or the document, none if it has the value."""
    before = getattr(state if image is None else state.images[image].info, name)
    return () if before == value else (FieldChange(image, name, before, value),)


def set_records(
    state: State, image: ImageId, after: Mapping[int, ObjectRecord | None]
) -> tuple[Change, ...]:
    """Return the change of the records that differ from those in `after` (None: removed)."""
    records = state.images[image].records
    differing = {k: r for k, r in after.items() if records.get(k) != r}
    if not differing:
        return ()
    return (ObjectChange(image, {k: records.get(k) for k in differing}, differing),)


def set_proposals(
    state: State, image: ImageId, after: Mapping[int, ProposalRecord | None]
) -> tuple[Change, ...]:
    """Return the change of proposals (None: removed)."""
    known = state.images[image].proposals
    before = {number: known.get(number) for number in after}
    return (ProposalChange(image, before, dict(after)),) if after else ()


def apply(
    state: State,
    changes: Sequence[Change],
    following: Iterable[Change],
    save: Callable[[Touched], None],
    is_saved: Callable[[], bool],
) -> Touched:
    """Apply changes and the `following` ones they require, and save them.

    If `save` raises, they are taken back, unless they are saved nevertheless.
    """
    for change in changes:
        # What cannot be read is found before anything is changed.
        if not isinstance(change, FieldChange):
            state.images[change.image].read()
    done: list[Change] = []
    try:
        for change in chain(changes, following):
            done.append(change)
            change.do(state)
        touched = state.take_touched()
        save(touched)
    except BaseException:
        if not is_saved():
            for change in reversed(done):
                inverse(change).do(state)
        state.take_touched()
        raise
    return touched


_KINDS: tuple[type[Any], ...] = Change.__args__
_IMAGE_FIELDS = get_type_hints(ImageInfo)


@dataclass(frozen=True, eq=False)
class _Stored:
    """Changes in the form in which they are encoded: kind and fields of each."""

    kinds: tuple[str, ...]
    labels: tuple[LabelChange, ...]
    objects: tuple[ObjectChange, ...]
    fields: tuple[FieldChange, ...]
    proposals: tuple[ProposalChange, ...] = ()


def encode_changes(changes: tuple[Change, ...]) -> _Stored:
    """Return changes as one value that `codec.encode` takes."""
    by_kind = (tuple(c for c in changes if isinstance(c, kind)) for kind in _KINDS)
    return _Stored(tuple(type(c).__name__ for c in changes), *by_kind)


def decode_changes(text: bytes, payload: bytes) -> tuple[Change, ...]:
    """Read back changes from the compressed text and the payload of `encode_changes`."""
    stored: _Stored = decode(_Stored, decompress(text).decode(), payload)
    left: dict[str, Iterator[Change]] = {
        "LabelChange": iter(stored.labels),
        "ObjectChange": iter(stored.objects),
        "FieldChange": map(_typed, stored.fields),
        "ProposalChange": iter(stored.proposals),
    }
    return tuple(next(left[kind]) for kind in stored.kinds)


def _typed(change: FieldChange) -> FieldChange:
    """Give the values of a field, which were read as plain JSON, their type."""
    hint = (DOCUMENT_FIELDS if change.image is None else _IMAGE_FIELDS)[change.name]
    before, after = (from_json(hint, v) for v in (change.before, change.after))
    return replace(change, before=before, after=after)


def _compact(values: Any) -> int | LabelArray:
    if isinstance(values, int | np.integer):
        return int(values)
    first = values[0]
    return int(first) if np.all(values == first) else values
