"""The three kinds of reversible change: pixels, object records and single fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, get_type_hints

import numpy as np

from napari_peftsam.document.codec import decode, decompress, from_json
from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.records import OBJECTS, ImageInfo
from napari_peftsam.document.regions import Integers, union
from napari_peftsam.document.state import DOCUMENT_FIELDS, State, Touched
from napari_peftsam.types import LabelArray

__all__ = [
    "Change",
    "FieldChange",
    "LabelChange",
    "ObjectChange",
    "apply",
    "decode_changes",
    "encode_changes",
]


@dataclass(frozen=True, eq=False)
class LabelChange:
    """Set pixels of one image; holds only the pixels that change.

    Attributes
    ----------
    image
        The image's id.
    starts, lengths
        ``(R,)`` runs of flat positions; R >= 1, without overlap.
    old, new
        The label(s) before and after: one for all pixels or one each.
    label_set
        The label set the pixels are in.
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
        first = np.flatnonzero(np.concatenate([[True], where[1:] != where[:-1] + 1]))
        starts = where[first].astype(np.int64)
        lengths = np.diff(first, append=len(where)).astype(np.int32)
        return cls(image, starts, lengths, _compact(old), _compact(new), label_set)

    @property
    def where(self) -> Integers:
        """The flat positions of its pixels, ``(N,)``."""
        ends = np.cumsum(self.lengths)
        offsets = np.repeat(self.starts - (ends - self.lengths), self.lengths)
        return offsets + np.arange(ends[-1])

    def do(self, state: State) -> None:
        """Write the new labels."""
        where, key = self.where, (self.image, self.label_set)
        region = state.images[self.image].put(self.label_set, where, self.old, self.new)
        known = state.touched.pixels.get(key)
        state.touched.pixels[key] = region if known is None else union(known, region)
        state.touched.where.setdefault(key, []).append(where)

    def inverse(self) -> LabelChange:
        """Return the change that takes this one back."""
        return replace(self, old=self.new, new=self.old)


@dataclass(frozen=True, eq=False)
class ObjectChange:
    """Set, replace or remove (None) records of one image."""

    image: ImageId
    before: dict[int, ObjectRecord | None]
    after: dict[int, ObjectRecord | None]

    def do(self, state: State) -> None:
        """Write the new records."""
        records = state.images[self.image].records
        for label, record in self.after.items():
            if record is None:
                records.pop(label, None)
            else:
                records[label] = record
        state.touched.objects.setdefault(self.image, set()).update(self.after)

    def inverse(self) -> ObjectChange:
        """Return the change that takes this one back."""
        return ObjectChange(self.image, self.after, self.before)


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

    def inverse(self) -> FieldChange:
        """Return the change that takes this one back."""
        return FieldChange(self.image, self.name, self.after, self.before)


Change = LabelChange | ObjectChange | FieldChange
"""Any change."""


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
                change.inverse().do(state)
        state.take_touched()
        raise
    return touched


_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Change.__args__}
_IMAGE_FIELDS = get_type_hints(ImageInfo)


@dataclass(frozen=True, eq=False)
class _Stored:
    """Changes in the form in which they are encoded: kind and fields of each."""

    kinds: tuple[str, ...]
    labels: tuple[LabelChange, ...]
    objects: tuple[ObjectChange, ...]
    fields: tuple[FieldChange, ...]


def encode_changes(changes: tuple[Change, ...]) -> _Stored:
    """Return changes as one value that `codec.encode` takes."""
    by_kind: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for change in changes:
        by_kind[type(change).__name__].append(change)
    labels, objects, fields = (tuple(by_kind[kind]) for kind in _KINDS)
    return _Stored(tuple(type(c).__name__ for c in changes), labels, objects, fields)


def decode_changes(text: bytes, payload: bytes) -> tuple[Change, ...]:
    """Read back changes from the compressed text and the payload of `encode_changes`."""
    stored: _Stored = decode(_Stored, decompress(text).decode(), payload)
    left: dict[str, Iterator[Change]] = {
        "LabelChange": iter(stored.labels),
        "ObjectChange": iter(stored.objects),
        "FieldChange": map(_typed, stored.fields),
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
