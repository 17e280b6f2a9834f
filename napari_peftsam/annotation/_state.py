"""The state of a session, with the few writes that every edit is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from napari_peftsam.annotation.current import Draft
from napari_peftsam.annotation.events import Changes
from napari_peftsam.annotation.images import AnnotatedImage, Indices
from napari_peftsam.annotation.records import ObjectRecord
from napari_peftsam.errors import ImageError
from napari_peftsam.types import LabelArray

__all__ = ["SessionState"]


@dataclass(eq=False)
class SessionState:
    """Images, the draft, and the changes not yet told to listeners."""

    images: dict[str, AnnotatedImage] = field(default_factory=dict)
    draft: Draft = field(default_factory=Draft)
    changes: Changes = field(default_factory=Changes)

    def image(self, name: str) -> AnnotatedImage:
        """Return an image; an unknown name is an `ImageError` listing the known ones."""
        if name not in self.images:
            known = ", ".join(map(repr, self.images)) or "none"
            raise ImageError(f"the session has no image {name!r}: add it first (it has: {known})")
        return self.images[name]

    def write_labels(self, name: str, where: Indices, values: int | LabelArray) -> None:
        """Set pixels, given by N >= 1 flat positions, to one label or to N labels."""
        self.changes.wrote(name, self.image(name).put(where, values))

    def write_records(
        self, name: str, records: Mapping[int, ObjectRecord | None], next_label: int
    ) -> None:
        """Set or remove (None) records and the label of the next object."""
        image = self.image(name)
        for label, record in records.items():
            image.put_record(label, record)
        image.next_label = next_label
        self.changes.objects[name] = None

    def set_draft(self, draft: Draft) -> None:
        """Replace the object being made and the queue."""
        before, self.draft = self.draft, draft
        if before.prompts != draft.prompts:
            for plane in (before.prompts[0], draft.prompts[0]):
                if plane is not None:
                    self.changes.planes[plane] = None
        old, new = before.current, draft.current
        if (old and old.candidates) is not (new and new.candidates):
            self.changes.candidates = True
        elif old is not None and new is not None and old.choice != new.choice:
            self.changes.choice = True

    def take_changes(self) -> Changes:
        """Return the changes since the last call."""
        taken, self.changes = self.changes, Changes()
        taken.planes = {p: None for p in taken.planes if p.image in self.images}
        return taken
