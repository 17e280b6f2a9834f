"""The base of a session: its images, its history and how it tells of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from types import MappingProxyType
from typing import Any

from napari_peftsam.annotation._objects import imported
from napari_peftsam.annotation._state import SessionState
from napari_peftsam.annotation.current import Draft
from napari_peftsam.annotation.edits import Edit, Step
from napari_peftsam.annotation.events import SessionEvents
from napari_peftsam.annotation.history import History
from napari_peftsam.annotation.images import AnnotatedImage, annotated_image, spatial
from napari_peftsam.annotation.records import ObjectRecord, PlaneKey
from napari_peftsam.errors import ImageError
from napari_peftsam.types import LabelArray, Plane

__all__ = ["Apply", "ImageSession"]

Apply = Callable[[Edit], None]
"""Does an edit as a part of the present step."""


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class ImageSession:
    """The part of `Session` that holds images and steps; see there."""

    def __init__(self, depth: int = 200, clock: Callable[[], str] = _utc_now) -> None:
        self.events = SessionEvents()
        self.history = History(depth)
        self._clock = clock
        self._state = SessionState()
        self._revisions = count(1)

    @property
    def images(self) -> Mapping[str, AnnotatedImage]:
        """The images by name; read-only."""
        return MappingProxyType(self._state.images)

    def image(self, name: str) -> AnnotatedImage:
        """Return an image; an unknown name is an `ImageError`."""
        return self._state.image(name)

    def add_image(
        self,
        name: str,
        pixels: Any,
        *,
        rgb: bool | None = None,
        labels: LabelArray | None = None,
        records: Sequence[ObjectRecord] = (),
    ) -> None:
        """Add an image; not undoable.

        Parameters
        ----------
        name
            A name that no other image has.
        pixels
            ``(..., H, W)`` or ``(..., H, W, 3|4)``; kept, not copied.
        rgb
            Whether the last axis holds colours; None guesses from its length.
        labels
            ``(..., H, W)`` integers to write objects into; shared, not copied. The
            objects it holds are taken over. None makes an empty int32 array.
        records
            Provenance of objects in `labels`; the others count as imported.

        Raises
        ------
        ImageError
            If the name is taken or the shape holds no planes.
        LabelError
            If the labels are read-only, not integers, negative or of another shape.
        """
        self._check_free(name)
        image = annotated_image(name, pixels, rgb, labels)
        if labels is not None:
            self._take_over(image, records)
        self._state.images[name] = image
        self.events.image_added.emit(name)

    def replace_pixels(self, name: str, pixels: Any) -> None:
        """Put other pixels of the same spatial shape under an image's objects; not undoable.

        Prompts, objects and records stay as they are.

        Raises
        ------
        ImageError
            If the name is unknown or the spatial shape differs.
        """
        image = self.image(name)
        array, shape = spatial(name, pixels, image.rgb)
        if shape != image.shape:
            raise ImageError(
                f"the new pixels of {name!r} have the spatial shape {shape}, its objects "
                f"{image.shape}: give pixels of that shape, or add them as another image"
            )
        image.pixels = array
        self.events.pixels_changed.emit(name)

    def remove_image(self, name: str) -> None:
        """Remove an image with its objects and all steps that concern it; not undoable."""
        self.image(name)
        draft = self._state.draft
        if draft.current is not None and draft.current.plane.image == name:
            self._state.set_draft(Draft())
        del self._state.images[name]
        self.history.map(lambda step: step.without(name))
        self._tell()
        self.events.image_removed.emit(name)

    def rename_image(self, old: str, new: str) -> None:
        """Rename an image, in records, prompts and history alike; not undoable."""
        self.image(old)
        if old == new:
            return
        self._check_free(new)
        images = self._state.images
        renamed = {new if name == old else name: image for name, image in images.items()}
        images.clear()
        images.update(renamed)  # keeps the order of the images
        image = images[new]
        image.name = new
        image.records = {k: record.renamed(old, new) for k, record in image.records.items()}
        self._state.draft = self._state.draft.renamed(old, new)
        self.history.map(lambda step: step.renamed(old, new))
        self.events.image_renamed.emit(old, new)

    def pixels(self, plane: PlaneKey) -> Plane:
        """Return ``(H, W)`` or ``(H, W, 3|4)``: the pixels of a plane, a view.

        Of an array on disk nothing is read; slice it, or use `numpy.asarray` on it.
        """
        return self.image(plane.image).plane_pixels(plane)

    def labels(self, plane: PlaneKey) -> LabelArray:
        """Return ``(H, W)``: a view of the labels of a plane. Write through the session only."""
        return self.image(plane.image).plane_labels(plane)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo; `history.undo_label` says which."""
        return self.history.undo_label is not None

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to redo; `history.redo_label` says which."""
        return self.history.redo_label is not None

    def undo(self) -> str | None:
        """Undo the last step and return what it was, None if there is none."""
        step = self.history.step_back()
        if step is None:
            return None
        step.undo(self._state)
        self._tell()
        return step.label

    def redo(self) -> str | None:
        """Redo the last undone step and return what it was, None if there is none."""
        step = self.history.step_forward()
        if step is None:
            return None
        step.do(self._state)
        self._tell()
        return step.label

    def clear_history(self) -> None:
        """Forget all steps, e.g. after opening a file."""
        self.history.clear()
        self.events.history_changed.emit()

    # --- for the parts above --------------------------------------------------------

    @contextmanager
    def _step(self, label: str, image: str) -> Iterator[Apply]:
        """Do edits as one undoable step; if one fails, all before it are taken back."""
        edits: list[Edit] = []

        def apply(edit: Edit) -> None:
            edit.do(self._state)
            edits.append(edit)

        try:
            yield apply
        except BaseException:
            Step(label, image, tuple(edits)).undo(self._state)
            self._state.take_changes()  # nothing changed in the end
            raise
        if edits:
            self.history.push(Step(label, image, tuple(edits)))
            self._tell()

    def _tell(self, history: bool = True) -> None:
        self._state.take_changes().emit(self.events)
        if history:
            self.events.history_changed.emit()

    def _check_free(self, name: str) -> None:
        if name in self.images:
            raise ImageError(f"the session has an image {name!r} already: choose another name")

    def _take_over(self, image: AnnotatedImage, records: Sequence[ObjectRecord]) -> None:
        given, now = own_records(image, records), self._clock()
        for label in image.find_objects():
            record = given.get(label) or imported(label, image.plane_of(label), now)
            image.put_record(label, record)
            image.next_label = max(image.next_label, label + 1)


def own_records(image: AnnotatedImage, records: Sequence[ObjectRecord]) -> dict[int, ObjectRecord]:
    """Return records by label, placed in `image`; a misfitting plane is an `ImageError`."""
    own = {r.label: replace(r, plane=replace(r.plane, image=image.name)) for r in records}
    for record in own.values():
        image.check_plane(record.plane)
    return own
