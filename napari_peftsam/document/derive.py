"""Derivation of an action's changes from the document; writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import singledispatch
from itertools import count
from typing import Any

from napari_peftsam.document import actions as act
from napari_peftsam.document.changes import Change, FieldChange, State, set_field
from napari_peftsam.document.objects import KEPT, ImageId, Pending, PlaneKey
from napari_peftsam.document.records import LiveAdapter
from napari_peftsam.errors import ConfigurationError, ImageError, LabelError, PromptError
from napari_peftsam.types import Prompts

__all__ = ["Derived", "derive", "utc_now"]

_LONGEST_CLASS = 60  # characters


def utc_now() -> str:
    """Return the present UTC time in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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
def derive(action: act.Action, state: State) -> Derived:
    """Check an action and return its changes; raise `PeftSamError` if it does not fit."""
    raise TypeError(f"{action!r} is no action")


# --- prompts ------------------------------------------------------------------------


def without_first(state: State) -> Pending:
    """Return the prompts without the pending object; the next in the queue takes over."""
    plane, queue = state.pending.plane, state.pending.queue[1:]
    return Pending(plane, queue, state.number) if queue else Pending()


def _first_and_others(state: State, plane: PlaneKey) -> tuple[Prompts, tuple[Prompts, ...]]:
    """Return the prompts of the pending object in a plane, and of those that follow it."""
    first, *others = state.pending.on(plane).queue or (Prompts(),)
    return first, tuple(others)


def _check_prompts(state: State, plane: PlaneKey, queue: Sequence[Prompts]) -> None:
    image = state.image(plane.image)
    image.check_plane(plane)
    for each in queue:
        each.check_inside(image.plane_shape)


def _with_queue(state: State, plane: PlaneKey, queue: Sequence[Prompts], label: str) -> Derived:
    """Derive other prompts in a plane; empty ones are dropped."""
    _check_prompts(state, plane, queue)
    here = state.pending.on(plane)
    pending = here.with_queue(plane, queue, state.number)
    if pending == here:
        return Derived()
    return Derived(set_field(state, "pending", pending), label, plane.image)


@derive.register
def _add_point(action: act.AddPoint, state: State) -> Derived:
    plane, here = action.plane, state.pending.on(action.plane)
    first, others = _first_and_others(state, plane)
    refines = here.refines
    if here and state.answers.get(here.revision) is not None:
        refines = here.revision, state.choices.get(here.revision, 0)
    if here and _is_proposed(state, here, first):
        # Its box is as wrong as its mask, and would hold the correction back.
        first = Prompts()
    queue = (first.with_point(action.point), *others)
    _check_prompts(state, plane, queue)
    pending = Pending(plane, queue, state.number, refines, here.reopens)
    return Derived(set_field(state, "pending", pending), "add point", plane.image)


def _is_proposed(state: State, pending: Pending, prompts: Prompts) -> bool:
    """Return whether prompts are those of a proposal, which nobody gave."""
    plane = pending.plane
    assert plane is not None  # something is pending
    image = state.image(plane.image)
    reopened = image.records.get(pending.reopens)
    if reopened is not None and reopened.automatic:
        return prompts == reopened.prompts_in(plane.index)
    return any(prompts == each.prompts for each in image.open_proposals(plane).values())


@derive.register
def _set_box(action: act.SetBox, state: State) -> Derived:
    first, others = _first_and_others(state, action.plane)
    queue = (first.with_box(action.box), *others)
    label = "remove box" if action.box is None else "set box"
    return _with_queue(state, action.plane, queue, label)


@derive.register
def _set_prompts(action: act.SetPrompts, state: State) -> Derived:
    _, others = _first_and_others(state, action.plane)
    return _with_queue(state, action.plane, (action.prompts, *others), "change prompts")


@derive.register
def _reopen(action: act.Reopen, state: State) -> Derived:
    plane, label = action.plane, action.label
    image = state.image(plane.image)
    image.check_plane(plane)
    image.check_objects((label,))
    record = image.records[label]
    box = image.box(plane, label)
    if box is None:
        raise LabelError(f"object {label} has no pixels in this plane: show one where it has")
    prompts = record.prompts_in(plane.index) or Prompts(box=box)
    queue = (prompts, *state.pending.on(plane).queue)
    pending = Pending(plane, queue, state.number, reopens=label)
    return Derived(set_field(state, "pending", pending), f"reopen object {label}", plane.image)


@derive.register
def _remove_last(action: act.RemoveLastPrompt, state: State) -> Derived:
    plane = state.pending.plane
    if plane is None:
        return Derived()
    first, others = _first_and_others(state, plane)
    left = Prompts(first.points[:-1], first.box if first.points else None)
    return _with_queue(state, plane, (left, *others), "remove last prompt")


@derive.register
def _queue(action: act.QueuePrompts, state: State) -> Derived:
    asked = [each for each in action.prompts if each]
    are_boxes = all(p.box is not None and not p.points for p in asked)
    one, many = ("box", "boxes") if are_boxes else ("object", "objects")
    label = f"queue {len(asked)} {one if len(asked) == 1 else many}"
    queue = (*state.pending.on(action.plane).queue, *asked)
    return _with_queue(state, action.plane, queue, label)


@derive.register
def _set_queue(action: act.SetQueue, state: State) -> Derived:
    return _with_queue(state, action.plane, action.prompts, "change prompts")


@derive.register
def _discard(action: act.Discard, state: State) -> Derived:
    plane = state.pending.plane
    if plane is None:
        return Derived()
    left = Pending() if action.everything else without_first(state)
    return Derived(set_field(state, "pending", left), "discard", plane.image)


@derive.register
def _choose(action: act.ChooseCandidate, state: State) -> Derived:
    answer = state.answers.get(state.pending.revision) if state.pending else None
    number = 0 if answer is None else len(answer[0])
    if not 0 <= action.index < number:
        raise PromptError(
            f"there is no candidate {action.index}: there are {number} to choose from"
        )
    revision, known = state.pending.revision, state.choices
    if action.index == known.get(revision, 0):
        return Derived()
    latest = [(k, v) for k, v in known.items() if k != revision][1 - KEPT :]
    return Derived(set_field(state, "choices", dict([*latest, (revision, action.index)])))


# --- images -------------------------------------------------------------------------


@derive.register
def _remove_image(action: act.RemoveImage, state: State) -> Derived:
    image, plane = state.image(action.image), state.pending.plane
    is_pending = plane is not None and plane.image == image.id
    changes = set_field(state, "pending", Pending()) if is_pending else ()
    changes += set_field(state, "is_removed", True, image.id)
    return Derived(changes, f"remove image {image.name}", image.id)


@derive.register
def _rename_image(action: act.RenameImage, state: State) -> Derived:
    image = state.image(action.image)
    if action.name != image.name:
        check_name(state, action.name)
    return Derived(set_field(state, "name", action.name, image.id), image=image.id)


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
def _set_source(action: act.ReplacePixels | act.LocateImage, state: State) -> Derived:
    image = state.image(action.image)
    changes: tuple[Change, ...] = (
        FieldChange(image.id, "source", image.info.source, action.source),
    )
    for name in ("rgb", "metadata"):
        value = getattr(action, name, None)
        changes += () if value is None else set_field(state, name, value, image.id)
    return Derived(changes, image=image.id)


@derive.register
def _mark_complete(action: act.MarkComplete, state: State) -> Derived:
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
    return Derived(set_field(state, "complete", after, image.id), label, image.id)


# --- adapters and runs --------------------------------------------------------------


@derive.register
def _add_adapter(action: act.AddAdapter, state: State) -> Derived:
    known, new = state.adapters, action.adapter
    if new in known:
        return Derived()
    kept = [each for each in known if (each.weights, each.name) != (new.weights, new.name)]
    return Derived(set_field(state, "adapters", (*kept, new)))


@derive.register
def _use_adapter(action: act.UseAdapter, state: State) -> Derived:
    if not 0 <= action.strength <= 1:
        raise ConfigurationError(f"the strength must be from 0 to 1, got {action.strength:g}")
    live = LiveAdapter(action.model, action.name, action.strength)
    return Derived(set_field(state, "live", live))


@derive.register
def _use_category(action: act.UseCategory, state: State) -> Derived:
    return Derived(set_field(state, "category", checked_class(action.category)))


def checked_class(name: str) -> str:
    """Return the name of a class without spaces around it; `LabelError` if it cannot be one."""
    name = name.strip()
    if not name.isprintable() or len(name) > _LONGEST_CLASS:
        raise LabelError(
            f"{name[:20]!r} is no name of a class: give one line of at most {_LONGEST_CLASS} "
            "characters"
        )
    return name


@derive.register
def _add_run(action: act.AddRun, state: State) -> Derived:
    return Derived(set_field(state, "runs", (*state.runs, action.run)))
