"""The annotation session: images, prompts, objects and their history, with events.

Everything a dock does to objects goes through a `Session`, and so do the command
line and the tests. It is numpy only and belongs to one thread: call it and listen
to it in the thread that made it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.annotation._image_session import Apply, own_records
from napari_peftsam.annotation._objects import (
    NewObject,
    Overlap,
    PaintAtom,
    check_objects,
    import_patch,
    imported,
    manual,
    mask_patch,
    merged,
    paint_patch,
    records_after,
)
from napari_peftsam.annotation._prompt_session import PromptSession
from napari_peftsam.annotation.edits import ChangeDraft, ChangeRecords, PatchLabels, patch
from napari_peftsam.annotation.images import AnnotatedImage, check_labels
from napari_peftsam.annotation.records import ObjectRecord, PlaneKey
from napari_peftsam.errors import LabelError, PromptError
from napari_peftsam.types import BoolArray, LabelArray, Prompts

__all__ = ["Session"]


class Session(PromptSession):
    """Images being annotated, the object being made, and the accepted objects.

    Parameters
    ----------
    depth
        How many steps can be undone.
    clock
        Returns the present UTC time in ISO 8601.

    Attributes
    ----------
    events
        Signals; they are emitted when a step is complete.
    history
        What can be undone and redone.
    """

    # --- reading objects ------------------------------------------------------------

    def records(self, image: str) -> tuple[ObjectRecord, ...]:
        """Return the records of an image's objects, by label."""
        records = self.image(image).records
        return tuple(records[label] for label in sorted(records))

    def object_mask(self, image: str, label: int) -> BoolArray:
        """Return ``(H, W)``: the pixels of an object in the plane it was made in."""
        entry = self.image(image)
        check_objects(entry, [label])
        return entry.mask(label, entry.records[label].plane)

    def object_area(self, image: str, label: int) -> int:
        """Return the number of pixels of an object."""
        entry = self.image(image)
        check_objects(entry, [label])
        return entry.area(label)

    def planes_with_objects(self) -> tuple[PlaneKey, ...]:
        """Return the planes in which objects were made, by image and index."""
        planes: list[PlaneKey] = []
        for image in self.images.values():
            planes += sorted({r.plane for r in image.records.values()}, key=lambda p: p.index)
        return tuple(planes)

    # --- writing objects ------------------------------------------------------------

    def accept(self, *, model: str = "", adapter: str = "", overlap: Overlap = "keep") -> int:
        """Make the shown candidate an object and move on to the next in the queue.

        Parameters
        ----------
        model, adapter
            Names of what predicted it, for the record; default: what `set_candidates` said.
        overlap
            "keep": existing objects keep their pixels; "overwrite": the new one takes them.

        Returns
        -------
        int
            The label of the new object.

        Raises
        ------
        PromptError
            If there is no candidate to accept or no pixel is left for it.
        """
        current = self.current
        if current is None or current.mask is None:
            raise PromptError(
                "there is no mask to accept: "
                + ("click on an object first" if current is None else "wait for the prediction")
            )
        image = self.image(current.plane.image)
        label, now, by = image.next_label, self._clock(), current.made_by
        with self._step(f"accept object {label}", image.name) as apply:
            new = NewObject(current.prompts, current.mask, current.score, current.offset)
            edit = mask_patch(image, current.plane, new, overlap)
            if edit is None:
                raise PromptError(_nothing_left([new]))
            record = ObjectRecord(
                label, current.plane, current.prompts, model or by.model, adapter or by.adapter,
                current.score, current.choice, corrected=False, created=now, modified=now,
            )  # fmt: skip
            self._write_object(apply, image, edit, record)
            apply(ChangeDraft(self._state.draft.advanced(next(self._revisions))))
        return label

    def accept_objects(
        self,
        plane: PlaneKey,
        objects: Iterable[NewObject | tuple[Prompts, BoolArray, float | None]],
        *,
        model: str = "",
        adapter: str = "",
        overlap: Overlap = "keep",
    ) -> tuple[int, ...]:
        """Make many objects in one undoable step; prompts answered here leave the queue.

        Parameters
        ----------
        plane
            Where they are.
        objects
            Prompts (may be empty), ``(H, W)`` mask and predicted IoU (or None) of each,
            see `NewObject` for masks of a part of the plane; of overlapping ones the
            first keeps the pixels unless `overlap` is "overwrite".

        Returns
        -------
        tuple of int
            The label of each, 0 where no pixel was left for it.

        Raises
        ------
        PromptError
            If no pixel is left for any of them, or a mask has another size.
        """
        image, now = self.image(plane.image), self._clock()
        image.check_plane(plane)
        new = [NewObject(*each) for each in objects]
        labels: list[int] = []
        name = "accept 1 object" if len(new) == 1 else f"accept {len(new)} objects"
        with self._step(name, image.name) as apply:
            for each in new:
                label, edit = image.next_label, mask_patch(image, plane, each, overlap)
                labels.append(0 if edit is None else label)
                if edit is not None:
                    record = ObjectRecord(
                        label, plane, each.prompts, model, adapter, each.score, 0,
                        corrected=False, created=now, modified=now,
                    )  # fmt: skip
                    self._write_object(apply, image, edit, record)
            if new and not any(labels):
                raise PromptError(_nothing_left(new))
            done = [o.prompts for o in new if o.prompts]
            rest = self._state.draft.without_prompts(plane, done, next(self._revisions))
            if rest.prompts != self._state.draft.prompts:
                apply(ChangeDraft(rest))
        # A later object of the batch may have overwritten an earlier one entirely.
        return tuple(label if label in image.records else 0 for label in labels)

    def delete_object(self, image: str, label: int) -> None:
        """Remove an object and its pixels; an unknown label is a `LabelError`."""
        entry = self.image(image)
        check_objects(entry, [label])
        with self._step(f"delete object {label}", image) as apply:
            self._relabel(apply, entry, [label], 0, {})

    def delete_objects(self, image: str, labels: Sequence[int]) -> None:
        """Remove several objects in one undoable step; as `delete_object` otherwise."""
        entry = self.image(image)
        check_objects(entry, labels)
        each = list(dict.fromkeys(labels))
        if each:
            with self._step(f"delete {len(each)} objects", image) as apply:
                self._relabel(apply, entry, each, 0, {})

    def merge_objects(self, image: str, labels: Sequence[int]) -> int:
        """Make two or more objects one, which keeps the first label; return it."""
        entry = self.image(image)
        check_objects(entry, labels)
        first, *others = dict.fromkeys(labels)
        if not others:
            raise LabelError("merging needs two different objects: select one more")
        records = entry.records
        record = merged(records[first], [records[o] for o in others], self._clock())
        name = f"merge objects {', '.join(map(str, (first, *others)))}"
        with self._step(name, image) as apply:
            self._relabel(apply, entry, others, first, {first: record})
        return first

    def record_paint(
        self, image: str, indices: tuple[Any, ...], old: npt.ArrayLike, new: npt.ArrayLike
    ) -> None:
        """Record pixels that the caller painted into the shared labels; see `record_stroke`."""
        self.record_stroke(image, [PaintAtom(indices, old, new)])

    def record_stroke(self, image: str, atoms: Sequence[PaintAtom]) -> None:
        """Record painting that was done in the shared label array as one undoable step.

        Touched objects count as corrected, objects without pixels are removed, and
        labels that were not known become objects "painted" by hand. The new labels
        are written once more, so it does not matter whether the caller reports
        before or after it paints (napari does the one or the other).

        Raises
        ------
        LabelError
            If pixels lie outside the labels or a label is negative.
        """
        entry, now = self.image(image), self._clock()
        edit = paint_patch(entry, atoms)
        if edit is None:
            return

        def corrected(record: ObjectRecord) -> ObjectRecord:
            return replace(record, corrected=True, modified=now)

        with self._step("paint", image) as apply:
            apply(edit)
            self._state.changes.mark_painted()
            create = lambda label: manual(label, entry.plane_of(label), now)  # noqa: E731
            apply(records_after(entry, edit, corrected, create))

    def set_labels(
        self, image: str, labels: LabelArray, *, records: Sequence[ObjectRecord] = ()
    ) -> None:
        """Make the labels of an image equal to `labels`, in one undoable step.

        Parameters
        ----------
        image
            Name of the image.
        labels
            ``(..., H, W)`` non-negative integers; copied into the shared array.
        records
            Provenance of its objects. Without one, objects whose pixels stay the
            same keep their record and the others count as imported.
        """
        entry, now = self.image(image), self._clock()
        check_labels(image, labels, entry.shape)
        given = own_records(entry, records)

        def record(label: int) -> ObjectRecord:
            return given.get(label) or imported(label, entry.plane_of(label), now)

        with self._step("import labels", image) as apply:
            edit = import_patch(entry, labels)
            if edit is not None:
                apply(edit)
                apply(records_after(entry, edit, lambda r: record(r.label), record))
            told = {k: r for k, r in given.items() if entry.records.get(k, r) != r}
            if told:
                self._put_records(apply, entry, dict(told))

    # --- helpers --------------------------------------------------------------------

    def _write_object(
        self, apply: Apply, image: AnnotatedImage, edit: PatchLabels, record: ObjectRecord
    ) -> None:
        """Write a new object; objects that lose pixels to it are modified or vanish."""
        apply(edit)
        apply(
            records_after(
                image,
                edit,
                update=lambda known: replace(known, modified=record.created),
                create=lambda _: record,
            )
        )

    def _relabel(
        self,
        apply: Apply,
        image: AnnotatedImage,
        labels: Sequence[int],
        new: int,
        records: Mapping[int, ObjectRecord],
    ) -> None:
        """Give the pixels of objects to `new`; they lose their records, `records` are set."""
        where = [image.where(label) for label in labels]
        apply(patch(image, np.concatenate(where), new))
        self._put_records(apply, image, {**dict.fromkeys(labels), **records})

    def _put_records(
        self, apply: Apply, image: AnnotatedImage, after: Mapping[int, ObjectRecord | None]
    ) -> None:
        before = {label: image.records.get(label) for label in after}
        apply(ChangeRecords(image.name, before, after, (image.next_label,) * 2))


def _nothing_left(objects: Sequence[NewObject]) -> str:
    if not any(each.mask.any() for each in objects):
        return "the mask is empty: add a point on the object or choose another candidate"
    return (
        "existing objects cover the whole mask: delete or merge them, or accept with "
        'overlap="overwrite"'
    )
