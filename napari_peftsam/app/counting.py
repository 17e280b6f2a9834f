"""Counting: proposals and tiles to look at, and the number of objects that follows from them.

What is looked at and found is in the document. A tile is as large as a person can look at: an
object that was missed lies beside found ones more often than in an empty part of an image.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import ceil, floor
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from napari_peftsam.app.regions import known_background
from napari_peftsam.counting import Count, Stratum, draw_sample, estimate_count, stratum_of
from napari_peftsam.document import (
    AcceptProposals,
    Audit,
    AuditPlane,
    AuditTile,
    BeginCount,
    CountTile,
    Document,
    DocumentImage,
    PlaneKey,
    ProposalRecord,
    Rejection,
    RejectProposals,
)
from napari_peftsam.document.derive import numbered
from napari_peftsam.errors import ConfigurationError, LabelError
from napari_peftsam.projects import file_name
from napari_peftsam.types import LabelArray, Prompts, Window

_SMALLEST, _LARGEST = 64, 1024  # pixels along a tile
_TILES = 4  # in all for each that is looked at
BACKGROUND, OBJECT = 1, 2
"""States of a pixel in the map of what is known; 0: unknown."""
_STATES = [{"label": BACKGROUND, "state": "background"}, {"label": OBJECT, "state": "object"}]


@dataclass(frozen=True)
class ToLookAt:
    """A proposal (`number`), or a tile (number 0), of which `tile` is the place in the audit."""

    plane: PlaneKey
    window: Window
    number: int = 0
    tile: int = 0


def begin_count(
    document: Document,
    planes: Sequence[PlaneKey],
    proposals: int = 30,
    tiles: int = 5,
    seed: int = 0,
) -> None:
    """Draw proposals and tiles of planes to look at; an earlier count is forgotten.

    Raises
    ------
    ConfigurationError
        If there is no plane, nothing is to be looked at, or nothing was ever proposed.
    """
    if not planes or proposals < 1 or tiles < 1:
        raise ConfigurationError(
            f"cannot count in {len(planes)} planes from {proposals} proposals and {tiles} tiles: "
            "open an image, and look at one of each at least"
        )
    found: list[tuple[PlaneKey, ProposalRecord]] = []
    about, is_proposed = [], False
    for plane in planes:
        image = document.image(plane.image)
        image.check_plane(plane)
        found += [(plane, each) for each in image.open_proposals(plane).values()]
        about.append(AuditPlane(plane, max(image.proposals, default=0), image.next_label - 1))
        is_proposed |= any(each.index == plane.index for each in image.proposals.values())
    if not is_proposed:
        raise ConfigurationError(
            "nothing has been proposed yet that could be counted. Suggest the rest first (in "
            "Python: segment)"
        )
    scores = [each.score for _, each in found]
    edges, sample = draw_sample(scores, proposals, seed)
    every = [
        AuditTile(plane, window)
        for plane in planes
        for window in _tiles(document, planes, plane, tiles)
    ]
    drawn = np.random.default_rng(seed).permutation(len(every))[:tiles].tolist()
    audit = Audit(
        tuple(about), edges, tuple((found[i][0].image, found[i][1].number) for i in sample),
        tuple(every[i] for i in drawn), len(every),
    )  # fmt: skip
    document.do(BeginCount(audit))


def _tiles(
    document: Document, planes: Sequence[PlaneKey], plane: PlaneKey, wanted: int
) -> Iterator[Window]:
    """Yield the tiles of a plane, of about equal size in all planes."""
    area = sum(np.prod(document.image(each.image).plane_shape) for each in planes)
    side = np.clip(np.sqrt(area / (_TILES * max(wanted, 1))), _SMALLEST, _LARGEST)
    rows, cols = (
        np.linspace(0, n, max(1, round(n / side)) + 1).round().astype(int).tolist()
        for n in document.image(plane.image).plane_shape
    )
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            yield Window(top, left, bottom - top, right - left)


def count_by(
    document: Document,
    planes: Sequence[PlaneKey],
    judge: Callable[[ToLookAt], int | Rejection],
    **sample: int,
) -> Count:
    """Count the objects of planes: all that is to be looked at is shown to a function.

    Parameters
    ----------
    judge
        Returns of a proposal 1 if it is an object, which is accepted; 0 or ``"nothing here"``; or
        ``"wrong outline"`` of an object with another outline. Of a tile, how many objects whose
        middle is in it have neither mask nor proposal, and are none of `undrawn`; of several that
        share a mask or proposal, all but one.
    sample
        As of `begin_count`.
    """
    begin_count(document, planes, **sample)
    while left := to_look_at(document):
        each = left[0]
        answer = judge(each)
        if not each.number:
            document.do(CountTile(each.tile, _whole(answer)))
        elif answer in get_args(Rejection):
            document.do(RejectProposals(each.plane, (each.number,), cast("Rejection", answer)))
        elif _whole(answer, 1):
            document.do(AcceptProposals(each.plane, (each.number,)))
        else:
            document.do(RejectProposals(each.plane, (each.number,)))
    count = count_objects(document)
    assert count is not None, "all was looked at"
    return count


def _whole(answer: object, most: int | None = None) -> int:
    try:
        number = int(answer)  # type: ignore[call-overload]  # it may be anything
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number != answer or number < 0 or (most is not None and number > most):
        wanted = "a whole number from 0 on" if most is None else (
            '1 (an object), 0 ("nothing here") or "wrong outline"'
        )  # fmt: skip
        raise LabelError(f"judge returned {answer!r}: return {wanted}")
    return int(number)


def audit_of(document: Document) -> Audit | None:
    """Return the audit, None if there is none or other proposals took the place of its own."""
    audit = document.audit
    if audit is None:
        return None
    for each in audit.planes:
        image = document.images.get(each.plane.image)
        if image is None or max(image.open_proposals(each.plane), default=0) > each.last_proposal:
            return None
    known = (document.image(image).proposals.get(number) for image, number in audit.proposals)
    if any(each is None or each.unseen for each in known):
        return None
    return audit


def to_look_at(document: Document) -> tuple[ToLookAt, ...]:
    """Return what nobody has looked at yet, image by image: proposals, then tiles."""
    audit = audit_of(document)
    if audit is None:
        return ()
    found = []
    for image_id, number in audit.proposals:
        image = document.image(image_id)
        record = image.proposals[number]
        if record.is_open:
            plane = PlaneKey(image_id, record.index)
            found.append(ToLookAt(plane, image.proposal_window(number), number))
    found += [
        ToLookAt(each.plane, each.window, tile=tile)
        for tile, each in enumerate(audit.tiles)
        if each.seen is None
    ]
    order = [each.plane for each in audit.planes]
    return tuple(sorted(found, key=lambda each: (order.index(each.plane), not each.number)))


def count_objects(document: Document) -> Count | None:
    """Return the number of objects with its interval, None until all was looked at."""
    audit = audit_of(document)
    if audit is None or to_look_at(document):
        return None
    unknown, looked_at, right = Counter[int](), Counter[int](), Counter[int]()
    for image_id, number in audit.proposals:
        record = document.image(image_id).proposals[number]
        stratum = stratum_of(record.score, audit.edges)
        looked_at[stratum] += 1
        right[stratum] += record.is_object
    known = added = 0
    for each in audit.planes:
        image = document.image(each.plane.image)
        here = [r for r in image.proposals.values() if r.index == each.plane.index]
        # Accepted in bulk since the count began, which says nothing of each.
        unseen = {r.label for r in here if r.unseen and r.label > each.last_label}
        for record in here:
            if record.is_open or record.label in unseen:
                unknown[stratum_of(record.score, audit.edges)] += 1
        accepted = {n for n, r in image.records.items() if _first(audit, r.planes, each)} - unseen
        drawn = [_drawn(image, each.plane, r) for r in image.proposals.values() if r.is_there]
        known += len(accepted) + drawn.count(0)
        proposed = {r.label for r in image.proposals.values()} | set(drawn)
        added += sum(n > each.last_label and n not in proposed for n in accepted)
    strata = [Stratum(unknown[n], looked_at[n], right[n]) for n in range(len(audit.edges) + 1)]
    seen = [each.seen or 0 for each in audit.tiles]
    return estimate_count(known, strata, seen, audit.of_tiles, added)


def _first(audit: Audit, planes: Sequence[Any], each: AuditPlane) -> bool:
    """Return whether the object's first plane of those that are counted is this one."""
    mine = [p.index for p in planes]
    counted = [p.plane.index for p in audit.planes if p.plane.image == each.plane.image]
    return next((index for index in counted if index in mine), None) == each.plane.index


def _drawn(image: DocumentImage, plane: PlaneKey, record: ProposalRecord) -> int:
    """Return the object that was drawn in a proposal's place; -1: it is of another plane."""
    if record.index != plane.index:
        return -1
    inside = [point for point in record.prompts.points if point.positive]
    if not inside:
        return 0
    row, col = (round(value) for value in (inside[0].row, inside[0].col))
    return image.object_at(plane, row, col)


def undrawn(document: Document, plane: PlaneKey) -> tuple[Window, ...]:
    """Return where the objects of a plane are whose proposal had a wrong outline.

    Those that somebody has drawn since are left out. A judged proposal has no pixels: its box
    stands in, or a square around its points.
    """
    image = document.image(plane.image)
    judged = (each for each in image.proposals.values() if each.is_there)
    return tuple(
        _place(each.prompts) & image.window
        for each in judged
        if each.index == plane.index and not _drawn(image, plane, each)
    )


def _place(prompts: Prompts) -> Window:
    if prompts.box is not None:
        row, col, bottom, right = prompts.box.as_tuple()
    else:
        at = np.array([(point.row, point.col) for point in prompts.points] or [(0.0, 0.0)])
        (row, col), (bottom, right) = at.min(0) - _SMALLEST / 2, at.max(0) + _SMALLEST / 2
    top, left = floor(row), floor(col)
    return Window(top, left, ceil(bottom) - top, ceil(right) - left)


# --- what was looked at ---------------------------------------------------------------


def states(document: Document, plane: PlaneKey) -> LabelArray:
    """Return what is known of each pixel of a plane: `OBJECT`, `BACKGROUND`, or 0 for unknown.

    A tile in which nothing was missed is background where there is no object or proposal, and
    none that nobody has drawn.
    """
    image = document.image(plane.image)
    found = np.zeros(image.plane_shape, np.uint8)
    background = known_background(image, plane)
    if background is not None:
        found[background] = BACKGROUND
    is_free = image.plane_labels(plane, "proposals") == 0
    for place in undrawn(document, plane):
        is_free[place.slices] = False
    for each in () if document.audit is None else document.audit.tiles:
        if each.plane == plane and each.seen == 0:
            part = each.window.slices
            found[part][is_free[part]] = BACKGROUND
    for label_set in image.label_sets:
        found[image.plane_labels(plane, label_set) > 0] = OBJECT
    return found


def export_count(document: Document, folder: Path) -> tuple[Path, ...]:
    """Write the number, and what was looked at, into a folder.

    ``count.json`` has the number, its interval, the strata's sample, the tiles, and the name of
    each image's OME-Zarr with the labels ``known``: 2 is an object, 1 background, 0 unknown.

    Raises
    ------
    ConfigurationError
        If not all was looked at.
    """
    from napari_peftsam.export import ExportContext, export_labels
    from napari_peftsam.files import atomic_path

    audit, count = audit_of(document), count_objects(document)
    if audit is None or count is None:
        raise ConfigurationError("there is no count yet: look at all proposals and tiles first")
    maps, taken = dict[str, Path](), set[str]()
    for image_id in dict.fromkeys(each.plane.image for each in audit.planes):
        image = document.image(image_id)
        labels = np.zeros(image.shape, np.uint8)
        for index in np.ndindex(image.shape[:-2]):
            labels[index] = states(document, PlaneKey(image_id, index))
        names = numbered(re.sub(r"[^\w.~-]+", "_", image_id))
        name = next(each for each in names if each.lower() not in taken)
        taken.add(name.lower())  # some file systems know no capitals
        context = ExportContext.of(
            image.info.metadata, name="known", image_name=file_name(image), records=_STATES
        )
        path = folder / f"{name}-known.ome.zarr"
        maps[image.name] = export_labels(labels, path, context=context)
    files = {name: path.name for name, path in maps.items()}
    report = _report(document, audit, count) | {"maps": files}
    path = folder / "count.json"
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    return (path, *maps.values())


def _report(document: Document, audit: Audit, count: Count) -> dict[str, Any]:
    def place(plane: PlaneKey) -> dict[str, Any]:
        return {"image": document.image(plane.image).name, "plane": list(plane.index)}

    judged = [(image, document.image(image).proposals[number]) for image, number in audit.proposals]
    proposals = [
        {
            **place(PlaneKey(image, each.index)), "proposal": each.number, "score": each.score,
            "stratum": stratum_of(each.score, audit.edges), "is_object": each.is_object,
        }
        for image, each in judged
    ]  # fmt: skip
    tiles = [
        {**place(each.plane), "window": list(asdict(each.window).values()), "missed": each.seen}
        for each in audit.tiles
    ]
    return {
        "objects": count.objects, **asdict(count), "level": 0.95, "tiles_in_all": audit.of_tiles,
        "proposals_looked_at": proposals, "tiles_looked_at": tiles,
    }  # fmt: skip
