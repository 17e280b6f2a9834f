"""The state of a document, and its conversion from and to the rows of a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_type_hints

from napari_peftsam.document.codec import decode, dump
from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.objects import ImageId
from napari_peftsam.document.pending import KEPT, Answer, Pending, PendingObject
from napari_peftsam.document.records import OBJECTS, LiveAdapter, Run, StoredAdapter
from napari_peftsam.document.regions import Integers, Region
from napari_peftsam.document.store import Store
from napari_peftsam.document.tables import Row, tile_bytes, tiles_at
from napari_peftsam.errors import ImageError

__all__ = ["DOCUMENT_FIELDS", "State", "Touched", "read_state", "rows_of"]


@dataclass
class Touched:
    """Parts of a state that were changed."""

    # Written region and flat positions (in pieces), by image and label set.
    pixels: dict[tuple[ImageId, str], Region] = field(default_factory=dict)
    where: dict[tuple[ImageId, str], list[Integers]] = field(default_factory=dict)
    # Labels whose records changed, by image; images of which something small changed.
    objects: dict[ImageId, set[int]] = field(default_factory=dict)
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
    adapters, live, runs
        Trained and loaded adapters, the one in use, and the reports of the training runs.
    answers
        Candidates by revision; not stored.
    touched
        Parts changed since the last `take_touched`.
    """

    images: dict[ImageId, DocumentImage] = field(default_factory=dict)
    pending: Pending = field(default_factory=Pending)
    choices: dict[int, int] = field(default_factory=dict)
    adapters: tuple[StoredAdapter, ...] = ()
    live: LiveAdapter = field(default_factory=LiveAdapter)
    runs: tuple[Run, ...] = ()
    answers: dict[int, Answer] = field(default_factory=dict)
    touched: Touched = field(default_factory=Touched)

    @property
    def shown(self) -> PendingObject | None:
        """The pending object with its candidates, None before the first prompt."""
        pending, answers = self.pending, self.answers
        if pending.plane is None:
            return None
        refined, answer = None, answers.get(pending.revision)
        if pending.refines is not None:
            earlier = answers.get(pending.refines[0])
            refined = None if earlier is None else (earlier, pending.refines[1])
        choice = self.choices.get(pending.revision, 0)
        if answer is None or choice >= len(answer.prediction):
            choice = 0  # of other candidates, of which there were more
        return PendingObject(
            pending.plane, pending.queue[0], pending.revision, answer, refined, choice
        )

    def image(self, image: ImageId) -> DocumentImage:
        """Return an image; an unknown or removed one is an `ImageError` listing the others."""
        found = self.images.get(image)
        if found is None or found.info.is_removed:
            here = (i.name for i in self.images.values() if not i.info.is_removed)
            known = ", ".join(map(repr, here)) or "none"
            raise ImageError(f"there is no image {image!r}: add it first (there are: {known})")
        return found

    def keep_answer(self, revision: int, answer: Answer) -> None:
        """Keep the candidates for a state of the prompts; the oldest ones make room."""
        self.answers[revision] = answer
        while len(self.answers) > KEPT:
            del self.answers[next(iter(self.answers))]

    def take_touched(self) -> Touched:
        """Return the parts changed since the last call."""
        taken, self.touched = self.touched, Touched()
        return taken


DOCUMENT_FIELDS: dict[str, Any] = {
    name: hint
    for name, hint in get_type_hints(State).items()
    if name in ("pending", "choices", "adapters", "live", "runs")
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
        known = state.images[image].records
        for label in labels:
            record = known.get(label)
            text = None if record is None else dump(record)
            rows.append(("objects", (image, OBJECTS, label), text))
    for (image, label_set), where in touched.where.items():
        array = state.images[image].array(label_set)
        tiles = tiles_at(image, label_set, where, array.shape)
        rows += [("tiles", key, tile_bytes(array, key)) for key in tiles]
    rows += [("fields", (name,), dump(getattr(state, name))) for name in touched.fields]
    return rows
