"""A count in a viewer: what to look at next, and what has been found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from psygnal import Signal, SignalGroup

from napari_peftsam.app.counting import (
    ToLookAt,
    audit_of,
    begin_count,
    count_objects,
    to_look_at,
)
from napari_peftsam.counting import Count
from napari_peftsam.document import CountTile, Document, PlaneKey

if TYPE_CHECKING:
    from napari_peftsam.app.prompt_state import ShownPlane
    from napari_peftsam.document import Store


class CountEvents(SignalGroup):
    """Signals of a `CountController`."""

    changed = Signal()
    """Something else is to be looked at, or nothing any more."""
    stopped = Signal()
    """Nobody is looking any more."""
    hint = Signal(str)
    """A count is out of date, or another one takes its place."""


class CountController:
    """Goes from one proposal or tile to the next; judging is the review's.

    Parameters
    ----------
    document, shown
        The document, and the plane that is shown.

    Attributes
    ----------
    is_on
        Whether somebody is looking.
    """

    def __init__(self, document: Document, shown: ShownPlane) -> None:
        self._document, self._shown = document, shown
        self.events, self.is_on = CountEvents(), False
        self._is_valid, self._last, self._outdated = False, "", ""
        self._known: tuple[Store, int, tuple[ToLookAt, ...], Count | None] | None = None
        self._slots = (
            (document.events.audit_changed, self._follow),
            (document.events.proposals_changed, self._follow),
            (document.events.image_removed, self._follow),
            (document.events.opened, self._forget),
        )
        for signal, slot in self._slots:
            signal.connect(slot)
        self._watch()

    def release(self) -> None:
        """Listen no more."""
        for signal, slot in self._slots:
            signal.disconnect(slot)

    def begin(self, planes: Sequence[PlaneKey]) -> None:
        """Begin, or go on where somebody stopped."""
        audit = audit_of(self._document)
        same = audit is not None and [each.plane for each in audit.planes] == list(planes)
        before, is_new = self._last or "the earlier one", not same or not self.left
        if is_new:
            begin_count(self._document, planes)
        self.is_on = True
        self.events.changed.emit()  # another proposal is shown, with which news are old
        if is_new and audit is not None:
            self.events.hint.emit(f"A new count begins: undo brings back {before}")

    def stop(self) -> None:
        """Stop looking; what was found stays."""
        if self.is_on:
            self.is_on = False
            self.events.stopped.emit()
            self.events.changed.emit()

    @property
    def left(self) -> tuple[ToLookAt, ...]:
        """What is to be looked at, in the shown plane first."""
        plane = self._shown.plane
        return tuple(sorted(self._look()[0], key=lambda each: each.plane != plane))

    def _look(self) -> tuple[tuple[ToLookAt, ...], Count | None]:
        """Return what is to be looked at, and the number: computed once after each action."""
        store = self._document.store
        known, number = self._known, store.next_number
        if known is None or known[:2] != (store, number):
            left, count = to_look_at(self._document), count_objects(self._document)
            self._known = known = store, number, left, count
        return known[2:]

    @property
    def item(self) -> ToLookAt | None:
        """What is looked at now."""
        left = self.left if self.is_on else ()
        return left[0] if left else None

    def see(self, number: int) -> None:
        """Say how many objects without mask or proposal the tile has, and go on."""
        item = self.item
        if item is not None and not item.number:
            self._document.do(CountTile(item.tile, number))

    @property
    def count(self) -> Count | None:
        """The number of objects, None until all was looked at."""
        return self._look()[1]

    @property
    def text(self) -> str:
        """What to do, or what was found; empty without a count."""
        if (count := self.count) is not None:
            return count.text
        item, audit = self.item, self._document.audit
        if item is None or audit is None:
            return self._outdated
        every = len(audit.proposals) + len(audit.tiles)
        what = "Is it an object?" if item.number else "How many have no outline or fill?"
        return f"{every - len(self.left) + 1} of {every}: {what}"

    @property
    def number(self) -> int | None:
        """The proposal of the shown plane to look at, 0 for a tile; None while nobody looks."""
        item = self.item
        return None if item is None else item.number * (item.plane == self._shown.plane)

    def _forget(self) -> None:
        self.is_on, self._is_valid, self._outdated = False, False, ""
        self._follow()

    def _watch(self) -> None:
        """Say it if the count has become out of date."""
        is_valid = audit_of(self._document) is not None
        if is_valid or self._document.audit is None:
            self._outdated = ""
        elif self._is_valid:
            self._outdated = f"Out of date: {self._last}" if self._last else ""
            which = f" of {self._last}" if self._last else ""
            self.events.hint.emit(
                f"The count{which} is out of date: what was counted has changed. Count again"
            )
        count = self.count if is_valid else None
        self._is_valid, self._last = is_valid, "" if count is None else count.text

    def _follow(self, _: str = "") -> None:
        self._watch()
        if self.is_on and not self.left:
            self.stop()
        else:
            self.events.changed.emit()
