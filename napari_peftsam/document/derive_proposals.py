"""Changes made by the actions on proposals, and those of proposals that follow from objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_

import numpy as np

from napari_peftsam.document import actions as act
from napari_peftsam.document.changes import (
    Change,
    LabelChange,
    State,
    set_field,
    set_proposals,
)
from napari_peftsam.document.derive import Derived, derive
from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.objects import PlaneKey
from napari_peftsam.document.proposals import NewProposal, ProposalRecord
from napari_peftsam.document.records import BACKGROUND, PROPOSALS, label_set_of
from napari_peftsam.document.regions import Integers, tally
from napari_peftsam.errors import LabelError, count_text
from napari_peftsam.types import Window

__all__: list[str] = []


@derive.register
def _suggest(action: act.Suggest, state: State) -> Derived:
    plane, part = action.plane, action.part
    image = state.image(plane.image)
    image.check_plane(plane)
    first = max(image.proposals, default=0) + 1
    replaced = {
        number: image.proposal_window(number)
        for number in image.open_proposals(plane)
        if part is None or image.proposal_window(number) & part
    }
    windows = [*map(_window, action.proposals), *replaced.values()]
    if not windows:
        return Derived()
    whole = reduce(or_, windows) & Window(0, 0, *image.plane_shape)
    before = image.plane_labels(plane, PROPOSALS)[whole.slices]
    after = before.copy()
    if replaced:
        after[np.isin(before, list(replaced))] = 0
    objects = image.plane_labels(plane, label_set_of(state.category))[whole.slices]
    records: dict[int, ProposalRecord | None] = dict.fromkeys(replaced)
    pieces, found = list[Integers](), 0
    for each in action.proposals:
        seen = _window(each) & whole
        inside = seen.seen_from(whole).slices
        here, mask = after[inside], each.mask[seen.seen_from(_window(each)).slices]
        free = mask & (here == 0) & (objects[inside] == 0)
        # An object that was accepted meanwhile may lie there.
        if 2 * np.count_nonzero(free) > np.count_nonzero(mask):
            number = first + found
            here[free] = number
            records[number] = each.record(number, plane.index)
            pieces.append(image.positions(plane, free, (seen.row, seen.col)))
            found += 1
    numbers = [*range(first, first + found)]
    if replaced:
        pieces.append(image.positions(plane, (before > 0) & (after == 0), (whole.row, whole.col)))
        numbers.append(0)
    changes: tuple[Change, ...] = set_proposals(state, image.id, records)
    where = np.concatenate([np.array([], np.int64), *pieces])
    if len(where):
        old = np.take(image.array(PROPOSALS), where) if replaced else 0
        new = np.repeat(np.array(numbers, before.dtype), [len(piece) for piece in pieces])
        changes = (LabelChange.of(image.id, where, old, new, PROPOSALS), *changes)
    return Derived(changes, f"suggest {count_text(found, 'object')}", image.id, found)


def _window(each: NewProposal) -> Window:
    return Window(*each.offset, *each.mask.shape)


@derive.register
def _reject(action: act.RejectProposals, state: State) -> Derived:
    image = state.image(action.plane.image)
    numbers = image.check_proposals(action.plane, action.numbers)
    if not numbers:
        return Derived()
    found = dict.fromkeys(numbers, (0.0, 0))
    changes = judged(state, action.plane, found, is_there=action.reason == "wrong outline")
    if action.reason == "nothing here":
        where, _ = proposal_pixels(image, action.plane, numbers)
        known = np.take(image.array(BACKGROUND), where) > 0
        for label_set in image.label_sets:
            known |= np.take(image.array(label_set), where) > 0
        if not known.all():
            change = LabelChange.of(image.id, where[~known], 0, 1, BACKGROUND)
            changes = (*changes, change)
    what = f"{len(numbers)} proposals" if len(numbers) > 1 else "proposal"
    return Derived(changes, f"reject {what}", image.id)


def judged(
    state: State,
    plane: PlaneKey,
    found: Mapping[int, tuple[float, int] | None],
    unseen: bool = False,
    is_there: bool = False,
    pixels: tuple[Integers, Integers] | None = None,
) -> tuple[Change, ...]:
    """Return the changes that take proposals away and keep the judgements on them.

    A judgement is an IoU and the label of the accepted object; without one, nothing is kept.
    `unseen` and `is_there` are as of `ProposalRecord`, `pixels` as of `proposal_pixels`.
    """
    if not found:
        return ()
    image = state.image(plane.image)
    where, old = pixels or proposal_pixels(image, plane, found)
    known = image.proposals
    records = {
        number: None
        if each is None
        else replace(known[number], iou=each[0], label=each[1], unseen=unseen, is_there=is_there)
        for number, each in found.items()
    }
    return (
        LabelChange.of(image.id, where, old, 0, PROPOSALS),
        *set_proposals(state, image.id, records),
    )


def judged_by(state: State, plane: PlaneKey, changes: Sequence[Change]) -> tuple[Change, ...]:
    """Return the judgements on proposals in whose place objects are accepted.

    An object is in the place of a proposal if they share half of one's or the other's area.
    """
    image, found = state.image(plane.image), dict[int, tuple[float, int]]()
    if not image.open_proposals(plane):
        return ()
    present = image.array(PROPOSALS)
    for change in changes:
        if not isinstance(change, LabelChange):
            continue
        where = change.where
        shares = list(tally(np.take(present, where), change.new))
        areas = Counter[int]()
        for label, _, shared in shares:
            areas[label] += shared
        for label, number, shared in shares:
            area, own = areas[label], image.proposal_area(number)
            if number and 2 * shared >= min(area, own):
                iou = shared / (area + own - shared)
                found[number] = max((iou, label), found.get(number, (0.0, 0)))
    return judged(state, plane, found)


def revoked(state: State, image: DocumentImage, labels: Collection[int]) -> tuple[Change, ...]:
    """Return the changes of judgements when objects are deleted: their proposals were wrong."""
    known = image.proposals.items()
    wrong = {
        n: replace(r, iou=0.0, label=0, unseen=False)
        for n, r in known
        if r.label and r.label in labels
    }
    return set_proposals(state, image.id, wrong)


@derive.register
def _begin_count(action: act.BeginCount, state: State) -> Derived:
    for image, number in action.audit.proposals:
        if number not in state.image(image).proposals:
            raise LabelError(f"{state.image(image).name} has no proposal {number} to look at")
    return Derived(set_field(state, "audit", action.audit), "begin to count")


@derive.register
def _count_tile(action: act.CountTile, state: State) -> Derived:
    audit = state.audit
    tiles = () if audit is None else audit.tiles
    if audit is None or not 0 <= action.tile < len(tiles):
        raise LabelError(f"there is no tile {action.tile}: there are {len(tiles)} to look at")
    if not isinstance(action.seen, int) or action.seen < 0:
        raise LabelError(f"{action.seen} is no number of objects: give a whole one from 0 on")
    tile = replace(tiles[action.tile], seen=action.seen)
    after = replace(audit, tiles=(*tiles[: action.tile], tile, *tiles[action.tile + 1 :]))
    return Derived(set_field(state, "audit", after), "count a tile", tile.plane.image)


def proposal_pixels(
    image: DocumentImage, plane: PlaneKey, numbers: Collection[int]
) -> tuple[Integers, Integers]:
    """Return the flat positions of proposals, ascending, and the number of each."""
    window = reduce(or_, map(image.proposal_window, numbers))
    labels = image.plane_labels(plane, PROPOSALS)[window.slices]
    are_all = len(numbers) == len(image.open_proposals(plane))
    mask = labels > 0 if are_all else np.isin(labels, list(numbers))
    return image.positions(plane, mask, (window.row, window.col)), labels[mask]
