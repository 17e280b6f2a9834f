"""Derivation of an action's changes from the document; writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import singledispatch
from itertools import count
from typing import Any

from napari_peftsam.document import actions as act
from napari_peftsam.document.changes import Change, FieldChange, ObjectChange
from napari_peftsam.document.objects import ImageId, PlaneKey
from napari_peftsam.document.pending import KEPT, Pending
from napari_peftsam.document.state import State
from napari_peftsam.errors import ConfigurationError, ImageError, PromptError
from napari_peftsam.types import Prompts

__all__ = ["Derived", "Moment", "derive", "utc_now"]


def utc_now() -> str:
    """Return the present UTC time in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Moment:
    """Number of an action in the log, and its UTC time in ISO 8601."""

    number: int
    time: str


@dataclass(frozen=True, eq=False)
class Derived:
    """Changes derived from an action.

    Attributes
    ----------
    changes
        In the order in which they are done; none if the action changes nothing.
    label
        Name of the step, e.g. ``"accept object 3"``; empty if it cannot be undone.
    image
        The image it concerns, if any.
    result
        Return value of `Document.do`.
    """

    changes: tuple[Change, ...] = ()
    label: str = ""
    image: ImageId | None = None
    result: Any = None


@singledispatch
def derive(action: act.Action, state: State, moment: Moment) -> Derived:
    """Check an action and return its changes; raise `PeftSamError` if it does not fit."""
    raise TypeError(f"{action!r} is no action")


# --- prompts ------------------------------------------------------------------------


def set_pending(state: State, pending: Pending) -> tuple[Change, ...]:
    """Return the changes that lead to other pending prompts."""
    if pending == state.pending:
        return ()
    return (FieldChange(None, "pending", state.pending, pending),)


def without_first(pending: Pending, revision: int) -> Pending:
    """Return the prompts without the pending object; the next in the queue takes over."""
    if len(pending.queue) < 2:
        return Pending()
    return Pending(pending.plane, pending.queue[1:], revision)


def _prompted(state: State, plane: PlaneKey, pending: Pending, label: str) -> Derived:
    return Derived(set_pending(state, pending), label, plane.image)


def _check_prompts(state: State, plane: PlaneKey, *prompts: Prompts) -> None:
    image = state.image(plane.image)
    image.check_plane(plane)
    for each in prompts:
        each.check_inside(image.plane_shape)


@derive.register
def _add_point(action: act.AddPoint, state: State, moment: Moment) -> Derived:
    plane = action.plane
    here = state.pending.on(plane)
    prompts = (here.queue[0] if here else Prompts()).with_point(action.point)
    _check_prompts(state, plane, prompts)
    refines = here.refines
    if here and state.answers.get(here.revision) is not None:
        refines = here.revision, state.choices.get(here.revision, 0)
    pending = Pending(plane, (prompts, *here.queue[1:]), moment.number, refines)
    return _prompted(state, plane, pending, "add point")


@derive.register
def _set_box(action: act.SetBox, state: State, moment: Moment) -> Derived:
    here = state.pending.on(action.plane)
    prompts = (here.queue[0] if here else Prompts()).with_box(action.box)
    label = "remove box" if action.box is None else "set box"
    return _replace_first(state, action.plane, prompts, label, moment)


@derive.register
def _set_prompts(action: act.SetPrompts, state: State, moment: Moment) -> Derived:
    return _replace_first(state, action.plane, action.prompts, "change prompts", moment)


@derive.register
def _remove_last(action: act.RemoveLastPrompt, state: State, moment: Moment) -> Derived:
    pending = state.pending
    if pending.plane is None:
        return Derived()
    points, box = pending.queue[0].points, pending.queue[0].box
    left = Prompts(points[:-1], box if points else None)
    return _replace_first(state, pending.plane, left, "remove last prompt", moment)


def _replace_first(
    state: State, plane: PlaneKey, prompts: Prompts, label: str, moment: Moment
) -> Derived:
    """Derive other prompts of the pending object; none discard it."""
    _check_prompts(state, plane, prompts)
    here = state.pending.on(plane)
    if prompts == (here.queue[0] if here else Prompts()):
        return Derived()
    # A mask to refine belongs to the prompts it was made from: it is not carried over.
    pending = Pending(plane, (prompts, *here.queue[1:]), moment.number)
    return _prompted(
        state, plane, pending if prompts else without_first(here, moment.number), label
    )


@derive.register
def _queue(action: act.QueuePrompts, state: State, moment: Moment) -> Derived:
    plane = action.plane
    _check_prompts(state, plane, *action.prompts)
    asked = tuple(each for each in action.prompts if each)
    if not asked:
        return Derived()
    what = "box" if all(p.box is not None and not p.points for p in asked) else "object"
    plural = "es" if what == "box" else "s"
    label = f"queue 1 {what}" if len(asked) == 1 else f"queue {len(asked)} {what}{plural}"
    here = state.pending.on(plane)
    return _prompted(
        state, plane, here.with_queue(plane, (*here.queue, *asked), moment.number), label
    )


@derive.register
def _set_queue(action: act.SetQueue, state: State, moment: Moment) -> Derived:
    plane = action.plane
    _check_prompts(state, plane, *action.prompts)
    here = state.pending.on(plane)
    pending = here.with_queue(plane, action.prompts, moment.number)
    return Derived() if pending == here else _prompted(state, plane, pending, "change prompts")


@derive.register
def _discard(action: act.Discard, state: State, moment: Moment) -> Derived:
    pending = state.pending
    if pending.plane is None:
        return Derived()
    left = Pending() if action.everything else without_first(pending, moment.number)
    return _prompted(state, pending.plane, left, "discard")


@derive.register
def _choose(action: act.ChooseCandidate, state: State, moment: Moment) -> Derived:
    answer = state.answers.get(state.pending.revision) if state.pending else None
    number = 0 if answer is None else len(answer.prediction)
    if not 0 <= action.index < number:
        raise PromptError(
            f"there is no candidate {action.index}: there are {number} to choose from"
        )
    revision, known = state.pending.revision, state.choices
    if action.index == known.get(revision, 0):
        return Derived()
    latest = [(k, v) for k, v in known.items() if k != revision][1 - KEPT :]
    return Derived(
        (FieldChange(None, "choices", known, dict([*latest, (revision, action.index)])),)
    )


# --- images -------------------------------------------------------------------------


@derive.register
def _remove_image(action: act.RemoveImage, state: State, moment: Moment) -> Derived:
    image = state.image(action.image)
    changes: tuple[Change, ...] = (FieldChange(image.id, "is_removed", False, True),)
    if state.pending.plane is not None and state.pending.plane.image == image.id:
        changes = (*set_pending(state, Pending()), *changes)
    return Derived(changes, f"remove image {image.name}", image.id)


@derive.register
def _rename_image(action: act.RenameImage, state: State, moment: Moment) -> Derived:
    image = state.image(action.image)
    if action.name == image.name:
        return Derived()
    check_name(state, action.name)
    return Derived((FieldChange(image.id, "name", image.name, action.name),), image=image.id)


def check_name(state: State, name: str) -> None:
    """Raise `ImageError` if an image of the document has this name."""
    if any(i.name == name and not i.info.is_removed for i in state.images.values()):
        raise ImageError(f"an image is called {name!r} already: choose another name")


def numbered(name: str) -> Iterator[str]:
    """Yield a name, then the same with ``~2``, ``~3``, … at its end."""
    yield name
    yield from (f"{name}~{number}" for number in count(2))


def free_names(state: State, changes: Sequence[Change]) -> Iterator[Change]:
    """Yield renamings of images that `changes` brought back, if their names are taken by now."""
    for change in changes:
        if isinstance(change, FieldChange) and change.name == "is_removed" and change.image:
            entry = state.images[change.image]
            others = (i for i in state.images.values() if i is not entry and not i.info.is_removed)
            taken = {other.name for other in others}
            if not entry.info.is_removed and entry.name in taken:
                free = next(name for name in numbered(entry.name) if name not in taken)
                yield FieldChange(entry.id, "name", entry.name, free)


@derive.register
def _set_source(
    action: act.ReplacePixels | act.LocateImage, state: State, moment: Moment
) -> Derived:
    image = state.image(action.image)
    change = FieldChange(image.id, "source", image.info.source, action.source)
    return Derived((change,), image=image.id)


@derive.register
def _mark_complete(action: act.MarkComplete, state: State, moment: Moment) -> Derived:
    image = state.image(action.image)
    if action.region.index is not None:
        image.check_plane(PlaneKey(image.id, action.region.index))
    known = image.info.complete
    if (action.region in known) == action.is_complete:
        return Derived()
    if action.is_complete:
        after, label = (*known, action.region), "mark complete"
    else:
        after, label = tuple(r for r in known if r != action.region), "mark incomplete"
    return Derived((FieldChange(image.id, "complete", known, after),), label, image.id)


# --- adapters and runs --------------------------------------------------------------


@derive.register
def _add_adapter(action: act.AddAdapter, state: State, moment: Moment) -> Derived:
    known = state.adapters
    if any(each == action.adapter for each in known):
        return Derived()
    kept = tuple(
        each
        for each in known
        if (each.weights, each.name) != (action.adapter.weights, action.adapter.name)
    )
    return Derived((FieldChange(None, "adapters", known, (*kept, action.adapter)),))


@derive.register
def _use_adapter(action: act.UseAdapter, state: State, moment: Moment) -> Derived:
    if not 0 <= action.strength <= 1:
        raise ConfigurationError(f"the strength must be from 0 to 1, got {action.strength:g}")
    live = replace(state.live, model=action.model, name=action.name, strength=action.strength)
    return (
        Derived() if live == state.live else Derived((FieldChange(None, "live", state.live, live),))
    )


@derive.register
def _add_run(action: act.AddRun, state: State, moment: Moment) -> Derived:
    return Derived((FieldChange(None, "runs", state.runs, (*state.runs, action.run)),))


def object_change(state: State, image: ImageId, after: dict[int, Any]) -> tuple[ObjectChange, ...]:
    """Return the change of the records that differ from those in `after` (None: removed)."""
    records = state.images[image].records
    differing = {k: r for k, r in after.items() if records.get(k) != r}
    if not differing:
        return ()
    return (ObjectChange(image, {k: records.get(k) for k in differing}, differing),)
