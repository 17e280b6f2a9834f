"""Replay of a project's log, comparison with its stored state, and figures of its content."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np

from napari_peftsam.document import actions as act
from napari_peftsam.document.actions import decode_action
from napari_peftsam.document.document import Document
from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.document.store import Store
from napari_peftsam.document.tables import RECOVER, LoggedAction
from napari_peftsam.errors import PeftSamError, ProjectError
from napari_peftsam.limits import parse_json, safetensors_header
from napari_peftsam.types import JUDGED_IOUS

__all__ = ["compare", "judged_by_adapter", "replay", "summary", "verify"]

_LONGEST_PAUSE = 60.0  # seconds; who does nothing for longer has left


def play(document: Document, logged: LoggedAction) -> None:
    """Do a logged action again; `ProjectError` if it is not the next one, or cannot be done."""
    store, (number, time, kind, *_) = document.store, logged
    if number != store.next_number:
        raise ProjectError(f"the log lacks action {store.next_number}")
    action = decode_action(*logged[2:])
    document.clock = lambda: time
    if isinstance(action, act.ChooseCandidate):
        # The candidates were not kept; what was accepted of them is in the log.
        store.commit(time, logged[2:], ())
    else:
        try:
            document.do(action)
        except PeftSamError as error:
            raise ProjectError(f"action {number} ({kind}) cannot be done again: {error}") from error
    if store.next_number == number:
        raise ProjectError(f"action {number} ({kind}) no longer changes anything")


def _play_all(document: Document, store: Store, until: int | None = None) -> None:
    for logged in store.actions(until, after=document.store.last_number):
        play(document, logged)


def replay(store: Store, until: int | None = None) -> Document:
    """Rebuild a document in memory from the log alone.

    Parameters
    ----------
    store
        The project; another process may be writing it.
    until
        Number of the last action to do again; None for all.
    """
    document = Document()
    _play_all(document, store, until)
    return document


def compare(document: Document, store: Store) -> list[str]:
    """Return the differences between a document and its stored state.

    Labels, background and records are compared.
    """
    with store.snapshot():
        stored = Document(store)
        differences = [
            f"the image {image.name!r} is only in the {where}"
            for one, other, where in ((document, stored, "log"), (stored, document, "project"))
            for image in one.images.values()
            if image.id not in other.images
        ]
        for image in document.images.values():
            if image.id in stored.images:
                differences += _differences(image, stored.image(image.id))
    return differences


def verify(store: Store) -> tuple[Document, list[str]]:
    """Replay a project and compare the result with its stored state, also during writes."""
    document = replay(store, store.last_number)  # whoever writes faster is never caught up with
    with store.snapshot():
        _play_all(document, store)  # what was done meanwhile
        return document, compare(document, store)


def _differences(image: DocumentImage, stored: DocumentImage) -> list[str]:
    found = []
    if image.labels.dtype != stored.labels.dtype or image.shape != stored.shape:
        found.append(f"{image.name}: the labels have another shape or type")
        return found
    sets = dict.fromkeys((*image.label_sets, *stored.label_sets))
    if count := sum(np.count_nonzero(image.array(k) != stored.array(k)) for k in sets):
        found.append(f"{image.name}: {count} pixels of the labels differ")
    sides = [np.zeros((), np.uint8) if i.background is None else i.background
             for i in (image, stored)]  # fmt: skip
    if count := np.count_nonzero(sides[0] != sides[1]):
        found.append(f"{image.name}: {count} pixels of the background differ")
    is_same = image.proposals == stored.proposals
    if is_same and image.proposals:
        is_same = np.array_equal(image.array(PROPOSALS), stored.array(PROPOSALS))
    if not is_same:
        found.append(f"{image.name}: the proposals differ")
    labels = sorted({*image.records, *stored.records})
    differing = [n for n in labels if image.records.get(n) != stored.records.get(n)]
    if differing:
        found.append(f"{image.name}: the records of objects {differing} differ")
    return found


def summary(store: Store) -> dict[str, float]:
    """Return figures of a project's content.

    Returns
    -------
    dict
        ``images``, ``objects`` (accepted ones with pixels), ``proposals`` (open ones),
        ``adapters``, ``actions``, and ``seconds`` of work: the gaps between actions, each at
        most 60 s.
    """
    with store.snapshot():
        images = [image for image, info in store.images().items() if not info.is_removed]
        times = store.times()
        adapters = _adapters(store)
        try:
            dates = [datetime.fromisoformat(time) for time in times]
            gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(dates)]
        except (TypeError, ValueError) as error:  # bytes, other words, one without its zone
            raise ProjectError(
                f"{store.path} is damaged: an action has no time ({error}): open a backup copy, or "
                f"{RECOVER}"
            ) from error
        return {
            "images": len(images),
            "objects": sum(store.count_objects(image) for image in images),
            "proposals": sum(store.count_proposals(image) for image in images),
            "adapters": len(adapters),
            "actions": len(times),
            "seconds": round(sum(min(max(gap, 0.0), _LONGEST_PAUSE) for gap in gaps), 3),
        }


def judged_by_adapter(store: Store) -> dict[str, int]:
    """Return how many judged proposals each adapter carries; damaged ones are left out."""
    found = dict[str, int]()
    for each in _adapters(store):
        with suppress(PeftSamError, LookupError, TypeError):
            name, digest = each["name"], each["digest"]
            start = store.blob_start(digest)
            header = safetensors_header(start, f"the adapter {name}", ProjectError)
            shape = header.get(JUDGED_IOUS, {"shape": [0]})["shape"]
            found[name] = max(0, index(shape[0]))
    return found


def _adapters(store: Store) -> list[Any]:
    return list(parse_json(store.fields().get("adapters", "[]"), "a project's list", ProjectError))
