"""The document: images, pending prompts, objects, adapters, and their history."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from napari_peftsam.document import actions as act
from napari_peftsam.document import derive_objects  # noqa: F401  registers its handlers
from napari_peftsam.document.changes import (
    Change,
    Touched,
    apply,
    changed_pixels,
    decode_changes,
    encode_changes,
    inverse,
    read_state,
    rows_of,
)
from napari_peftsam.document.derive import derive, free_names, numbered, utc_now
from napari_peftsam.document.events import DocumentEvents, emit
from napari_peftsam.document.images import DocumentImage, check_labels, describe_image, empty_labels
from napari_peftsam.document.objects import ImageId, ObjectRecord, Pending, PendingObject, PlaneKey
from napari_peftsam.document.proposals import Audit
from napari_peftsam.document.records import (
    OBJECTS,
    ImageSource,
    LiveAdapter,
    ModelVersion,
    Run,
    StoredAdapter,
    label_set_of,
)
from napari_peftsam.document.store import Store
from napari_peftsam.document.tables import DONE, UNDONE
from napari_peftsam.errors import ImageError, PeftSamError, ProjectError
from napari_peftsam.metadata import UNKNOWN, ImageMetadata
from napari_peftsam.types import LabelArray, Plane, Prediction, Prompts

__all__ = ["Document"]

_KEPT_PIXELS = 2**23  # of the last step, in memory: 100 MB


class Document:
    """Images being annotated, with everything that was done to them.

    `do` is the only way to change a document. An action is saved before `do` returns. The
    document belongs to the thread that made it: do and listen there. Only the actions on
    adapters and runs may come from any thread.

    Parameters
    ----------
    store
        Storage of the document; default: in memory.
    clock
        Returns the present UTC time in ISO 8601.

    Attributes
    ----------
    store, clock
        As given; a replay sets the clock.
    events
        Signals; emitted once a change is complete and saved.
    """

    def __init__(self, store: Store | None = None, clock: Callable[[], str] = utc_now) -> None:
        self.events = DocumentEvents()
        self.store = Store.in_memory() if store is None else store
        self.clock = clock
        self._lock = threading.RLock()
        self._state = read_state(self.store)
        self._last: tuple[int, tuple[Change, ...]] = 0, ()  # a step that need not be decoded

    # --- doing ----------------------------------------------------------------------

    def do(self, action: act.Action) -> Any:
        """Check an action, do it, save it, and emit signals.

        Returns
        -------
        Any
            Of `Accept` and `MergeObjects` the object's label, of `AcceptObjects` the label of
            each (0 where no pixel was left for it), of `AcceptProposals` likewise, of
            `Suggest` the number of proposals, of `AddImage` the image's id, of `Undo` and
            `Redo` what was undone or redone (None if there was nothing), else None.

        Raises
        ------
        PeftSamError
            If the action does not fit the document, or cannot be saved (`ProjectError`):
            then nothing has changed.
        """
        with self._lock:
            if isinstance(action, act.Undo | act.Redo):
                return self._move(action)
            if isinstance(action, act.AddImage):
                if action.labels is not None:
                    check_labels(action.info.name, action.labels, action.info.shape)
                return self._add(action)
            if isinstance(action, act.Accept) and action.shown is None:
                current = self.current
                if current is not None and current.mask is not None:
                    action = replace(action, shown=current.as_new_object())
            return self._do(action)

    def undo(self) -> str | None:
        """Undo the last step and return its label, None if there is none."""
        label: str | None = self.do(act.Undo())
        return label

    def redo(self) -> str | None:
        """Redo the last undone step and return its label, None if there is none."""
        label: str | None = self.do(act.Redo())
        return label

    @property
    def steps(self) -> tuple[str, ...]:
        """Labels of the steps that can be undone, oldest first."""
        return self.store.step_labels()

    @property
    def undo_label(self) -> str | None:
        """The label of the step that the next undo takes back, None if there is none."""
        step = self.store.last_step()
        return None if step is None else step.label

    @property
    def redo_label(self) -> str | None:
        """The label of the step that the next redo does again, None if there is none."""
        step = self.store.next_step()
        return None if step is None else step.label

    def _do(self, action: act.Action) -> Any:
        state = self._state
        state.number, state.time = self.store.next_number, self.clock()
        derived = derive(action, state)
        if derived.changes:
            step = None
            if derived.label:
                step = derived.label, derived.image, encode_changes(derived.changes)
            number = state.number
            self._save(action, state.time, derived.changes, step=step)
            if step is not None:
                is_small = sum(map(changed_pixels, derived.changes)) <= _KEPT_PIXELS
                self._last = (number, derived.changes) if is_small else (0, ())
        return derived.result

    def _move(self, action: act.Undo | act.Redo) -> str | None:
        back = isinstance(action, act.Undo)
        step = self.store.last_step() if back else self.store.next_step()
        if step is None:
            return None
        number, changes = self._last
        if number != step.number:
            changes = decode_changes(step.changes, step.pixels)
        if back:
            changes = tuple(inverse(change) for change in reversed(changes))
        self._save(action, self.clock(), changes, moved=(step.number, UNDONE if back else DONE))
        return step.label

    def _save(
        self,
        action: act.Action,
        time: str,
        changes: Sequence[Change],
        *,
        step: tuple[str, str | None, object] | None = None,
        moved: tuple[int, str] | None = None,
    ) -> None:
        """Do changes and save them, or take them back; then emit signals."""
        state, number = self._state, self.store.next_number
        before = state.pending, state.shown

        def save(touched: Touched) -> None:
            encoded = act.encode_action(action)
            self.store.commit(time, encoded, rows_of(state, touched), step, moved)

        following = free_names(state, changes) if moved else ()
        touched = apply(state, changes, following, save, lambda: self.store.next_number != number)
        emit(self.events, state, action, changes, touched, before)
        if step is not None or moved is not None:
            self.events.history_changed.emit()
        self.events.saved.emit()

    # --- projects -------------------------------------------------------------------

    def open(self, store: Store) -> None:
        """Show the content of another store, and close the present one.

        If the store cannot be read (`ProjectError`), the document stays as it is.
        """
        state = read_state(store)
        self.events.closing.emit()
        with self._lock:
            old, self.store, self._state = self.store, store, state
            self._last = 0, ()
        old.close()
        self.events.opened.emit()
        self.events.history_changed.emit()

    def move_to(self, store: Store) -> bool:
        """Go on in a store that holds a copy of this document, and close the present one.

        Return False, and stay, if an action was done since the copy was made.
        """
        infos = store.images()
        with self._lock:
            if store.next_number != self.store.next_number:
                return False
            old, self.store = self.store, store
            for image, info in infos.items():
                entry = self._state.images[image]
                entry.store, entry.info = store, info  # the copy may lie elsewhere than its images
        old.close()
        self.events.saved.emit()
        return True

    # --- adding images --------------------------------------------------------------

    def add_image(  # noqa: PLR0913  # what is known of an image
        self,
        name: str,
        pixels: Any,
        *,
        rgb: bool | None = None,
        labels: LabelArray | None = None,
        records: Sequence[ObjectRecord] = (),
        others: Mapping[str, LabelArray] | None = None,
        source: ImageSource | None = None,
        metadata: ImageMetadata = UNKNOWN,
    ) -> ImageId:
        """Add an image; undo steps over it.

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
        others
            Labels of further label sets.
        source, metadata
            Origin of the pixels; axes, pixel size and channels.
        """
        info, array = describe_image(name, pixels, rgb, labels)
        with self._lock:
            known = self._state.images
            image = ImageId(next(free for free in numbered(name) if free not in known))
            info = replace(info, source=source, metadata=metadata)
            return self._add(
                act.AddImage(image, info, labels, tuple(records), dict(others or {})), array, labels
            )

    def _add(
        self, action: act.AddImage, pixels: Any = None, labels: LabelArray | None = None
    ) -> ImageId:
        """Do the action with an image that is hidden until then and shares the caller's arrays."""
        image, info = action.image, replace(action.info, is_removed=True)
        images = self._state.images
        if image in images:
            raise ImageError(
                f"the id {image!r} belongs to the image {images[image].name!r}: give it another id"
            )
        where = np.flatnonzero(() if labels is None else labels)
        if labels is None:
            labels = empty_labels(info.name, info.shape, info.label_type)
        given = np.take(labels, where)
        images[image] = DocumentImage(image, info, pixels, labels)
        try:
            self._do(action)
        except BaseException:
            if images[image].info.is_removed:  # it is not if a listener raised
                del images[image]
                np.put(labels, where, given)  # the caller's own array
            raise
        return image

    def replace_pixels(
        self, image: ImageId, pixels: Any, source: ImageSource | None = None, **about: Any
    ) -> None:
        """Put other pixels under an image's objects; `source` and `about` as of `ReplacePixels`."""
        entry = self.image(image)
        before = entry.pixels
        entry.attach_pixels(pixels, about.get("rgb"))
        try:
            self.do(act.ReplacePixels(image, source, **about))
        except PeftSamError:
            entry.pixels = before
            raise

    # --- reading --------------------------------------------------------------------

    @property
    def images(self) -> Mapping[ImageId, DocumentImage]:
        """The images by id, in the order in which they were added."""
        return {k: i for k, i in self._state.images.items() if not i.info.is_removed}

    def image(self, image: ImageId) -> DocumentImage:
        """Return an image; an unknown or removed one is an `ImageError`."""
        return self._state.image(image)

    def find_image(self, name: str) -> DocumentImage | None:
        """Return the image of this name, None if there is none."""
        return next((i for i in self.images.values() if i.name == name), None)

    def pixels(self, plane: PlaneKey) -> Plane:
        """Return ``(H, W)`` or ``(H, W, 3|4)``: the pixels of a plane, a view.

        Of an array on disk nothing is read; slice it, or use `numpy.asarray` on it.
        """
        return self.image(plane.image).plane_pixels(plane)

    def labels(self, plane: PlaneKey, label_set: str = OBJECTS) -> LabelArray:
        """Return ``(H, W)``: a view of a plane of a label set, by default objects of no class."""
        return self.image(plane.image).plane_labels(plane, label_set)

    def records(self, image: ImageId) -> tuple[ObjectRecord, ...]:
        """Return the records of an image's objects, by label."""
        records = self.image(image).records
        return tuple(records[label] for label in sorted(records))

    def planes_with_objects(self) -> tuple[PlaneKey, ...]:
        """Return the planes in which objects have pixels, by image and index."""
        places = ((i.id, index) for i in self.images.values() for index, _ in i.places)
        return tuple(PlaneKey(*place) for place in dict.fromkeys(places))

    @property
    def category(self) -> str:
        """The class of the objects that are made from now on; empty for none."""
        return self._state.category

    @property
    def label_set(self) -> str:
        """The label set of the objects that are made from now on."""
        return label_set_of(self.category)

    @property
    def categories(self) -> tuple[str, ...]:
        """The classes that objects have, and the one in use, by name."""
        images = self.images.values()
        found = {record.category for image in images for record in image.records.values()}
        return tuple(sorted({*found, self.category} - {""}))

    @property
    def adapters(self) -> tuple[StoredAdapter, ...]:
        """The trained and loaded adapters, oldest first."""
        return self._state.adapters

    def add_adapter(self, data: bytes, adapter: StoredAdapter) -> None:
        """Keep an adapter's file, then list it; `StoredAdapter.digest` is filled in."""
        with suppress(ProjectError):  # slow, so without the lock; an error comes again below
            self.store.put_blob(data)
        with self._lock:  # the document may have moved to another file meanwhile
            digest = self.store.put_blob(data)
            self.do(act.AddAdapter(replace(adapter, digest=digest)))

    @property
    def live(self) -> LiveAdapter:
        """The model and adapter in use."""
        return self._state.live

    @property
    def runs(self) -> tuple[Run, ...]:
        """The reports of the training runs, oldest first."""
        return self._state.runs

    @property
    def audit(self) -> Audit | None:
        """What is looked at to count objects; None if nobody has begun."""
        return self._state.audit

    # --- the pending object ---------------------------------------------------------

    @property
    def pending(self) -> Pending:
        """Prompts not accepted yet."""
        return self._state.pending

    @property
    def queue(self) -> tuple[Prompts, ...]:
        """Prompts of the pending object and of the following ones."""
        return self._state.pending.queue

    @property
    def current(self) -> PendingObject | None:
        """The pending object with its candidates, None before the first prompt."""
        return self._state.shown

    def set_candidates(
        self, prediction: Prediction, revision: int, made_by: ModelVersion | None = None
    ) -> bool:
        """Show the answer to the pending object's prompts; it is not part of the project.

        Parameters
        ----------
        prediction
            Of the prompts' plane or of a part of it, K >= 1 masks, best first; what is kept
            is `Prediction.trimmed`.
        revision
            `PendingObject.revision` of the prompts it was made for.
        made_by
            Model version that predicted it; goes into the object's record.

        Returns
        -------
        bool
            False if the prompts changed since, and the answer was ignored.
        """
        pending, answers = self._state.pending, self._state.answers
        if pending.plane is None or pending.revision != revision:
            return False
        # A choice made before the project was closed comes back, one for other masks does not.
        choice = self._state.choices.get(revision, 0)
        is_kept = answers.get(revision) is None and choice < len(prediction)
        self._state.keep_answer(prediction, made_by or ModelVersion())
        if not is_kept:
            self.do(act.ChooseCandidate(0))
        self.events.candidates_changed.emit()
        return True

    def cycle(self, step: int = 1) -> None:
        """Show the next (or the `step`-th next) candidate, cyclically; no-op without candidates."""
        current = self.current
        if current is not None and current.candidates is not None:
            self.do(act.ChooseCandidate((current.choice + step) % len(current.candidates)))
