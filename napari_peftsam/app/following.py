"""Predicted objects that follow the pending one."""

from __future__ import annotations

from napari_peftsam.document import Document, ModelVersion, NewObject, PlaneKey
from napari_peftsam.types import Prompts

Cleaning = tuple[bool, int]
"""Whether masks are cleaned, and the radius in pixels by which they are smoothed."""


class Following:
    """Remembers what is predicted for the queue; nothing of another plane or another model."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: dict[Prompts, NewObject] = {}
        self._made_by: tuple[PlaneKey, ModelVersion, Cleaning] | None = None

    @property
    def objects(self) -> tuple[NewObject, ...]:
        """The predicted objects that follow the pending one, in their order."""
        current = self._document.current
        if current is None or self._made_by is None or current.plane != self._made_by[0]:
            return ()
        queued = dict.fromkeys(self._document.queue[1:])
        return tuple(self._found[each] for each in queued if each in self._found)

    def known(
        self, plane: PlaneKey, version: ModelVersion, clean: Cleaning
    ) -> dict[Prompts, NewObject]:
        """Return what is predicted so far, to be read and added to."""
        if self._made_by != (plane, version, clean):
            self._made_by, self._found = (plane, version, clean), {}
        return self._found
