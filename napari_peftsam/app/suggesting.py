"""Proposals of a plane, found with the live model, and what a project's judgements say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.app.refine import embedded
from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.document import Document, DocumentImage, NewProposal, PlaneKey
from napari_peftsam.document.records import BACKGROUND
from napari_peftsam.types import BoolArray, Window

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.document import ModelVersion
    from napari_peftsam.segmentation.automatic import (
        PlaneMerge,
        Proposal,
        ProposalScorer,
        TileProposals,
    )

LOWEST = 0.1
"""Expected IoU below which nothing is proposed, however eager the user is."""
_SMALL = 5, 4  # percentile of the known areas, and the share of it that an object may have


@dataclass(frozen=True)
class SuggestOptions:
    """What is looked for.

    Attributes
    ----------
    fast
        Look at one threshold of the dense maps instead of five.
    whole
        Leave out what touches the border of the plane.
    largest
        Pixels of the largest object; 0: of any size.
    """

    fast: bool = False
    whole: bool = False
    largest: int = 0


@dataclass(frozen=True)
class Lost:
    """A proposal that is not shown, its window in the plane, and why."""

    window: Window
    why: str


@dataclass(frozen=True, eq=False)
class Searched:
    """What a tile gave: number `tile` (from 1) of `tiles`.

    Attributes
    ----------
    part
        What was looked at so far, in whole rows of tiles.
    """

    tile: int
    tiles: int
    part: Window
    found: tuple[NewProposal, ...] = field(repr=False)
    lost: tuple[Lost, ...] = field(repr=False)
    counts: Counter[str]


def propose_plane(
    workspace: Workspace,
    plane: PlaneKey,
    scorer: ProposalScorer,
    options: SuggestOptions | None = None,
    part: Window | None = None,
) -> Generator[Any, None, bool]:
    """Propose the objects of a plane that are not annotated; slow.

    Objects and background are those of the moment of this call.

    Parameters
    ----------
    part
        Look in this part of the plane only.

    Yields
    ------
    Searched
        For each tile, among events of the embedding.

    Returns
    -------
    bool
        False if another adapter went live meanwhile.
    """
    image, label_set = workspace.document.image(plane.image), workspace.document.label_set
    image.check_plane(plane)
    snapshot = image.snapshot()
    sets = {label_set, BACKGROUND} & set(snapshot.label_sets)

    def taken(window: Window) -> BoolArray:
        known = np.zeros(window.shape, np.bool_)
        for each in sets:
            known |= snapshot.labels(each, plane.index, window) > 0
        return known

    search = _Search(
        plane_shape=image.plane_shape,
        part=part or Window(0, 0, *image.plane_shape),
        taken=taken,
        scorer=scorer,
        options=options or SuggestOptions(),
        least=least_area(image, label_set),
    )
    return _proposed(workspace, plane, search)


def _proposed(workspace: Workspace, plane: PlaneKey, search: _Search) -> Generator[Any, None, bool]:
    from napari_peftsam.embeddings import EncodeFailed
    from napari_peftsam.segmentation.automatic import TileProposals

    engine, embedding = yield from embedded(workspace, plane)
    version = engine.version(embedding)
    tiles = len(embedding.image.grid.tiles_in(search.part))
    work = engine.propose_steps(embedding, search.taken, search.options.fast, search.part)
    number, row, seen = 0, Window(0, 0, 0, 0), Window(0, 0, 0, 0)
    while True:
        try:
            event = next(work)
        except StopIteration as end:
            return end.value is not None
        if isinstance(event, EncodeFailed):
            raise event.error
        if not isinstance(event, TileProposals):
            yield event
            continue
        number += 1
        core = event.tile.core & search.part
        row = row | core if row and row.row == core.row else core
        if row.stop[1] >= search.part.stop[1]:  # else it holds a rectangle that nobody looked at
            seen = seen | row if seen else row
        yield Searched(number, tiles, seen, *search.add(event, version))


@dataclass(eq=False)
class _Search:
    """What proposals of a plane must fulfil, and the pixels that are claimed already."""

    plane_shape: tuple[int, int]
    part: Window
    taken: Callable[[Window], BoolArray]
    scorer: ProposalScorer
    options: SuggestOptions
    least: int
    merging: PlaneMerge = field(init=False)

    def __post_init__(self) -> None:
        from napari_peftsam.segmentation.automatic import PlaneMerge

        claimed = np.zeros(self.plane_shape, np.int32)  # 1 marks what is taken
        self.merging = PlaneMerge(claimed, self.scorer, LOWEST, self.least, number=2)

    def add(
        self, given: TileProposals, by: ModelVersion
    ) -> tuple[tuple[NewProposal, ...], tuple[Lost, ...], Counter[str]]:
        """Return the proposals of a tile, those that are lost, and how many were lost where."""
        clicks = ((each, each.prompts.points[0]) for each in given.proposals)
        inside = [each for each, click in clicks if self.part.contains(click.row, click.col)]
        pairs = [(each, self._why_not(each)) for each in inside]
        wanted = [each for each, why in pairs if not why]
        lost = [Lost(each.drawn[1], why) for each, why in pairs if why]
        seen = given.tile.window & Window(0, 0, *self.plane_shape)
        here = self.merging.labels[seen.slices]
        here[(here == 0) & self.taken(seen)] = 1
        tile = self.merging.add(given, wanted)
        merged = tile.merged
        for indices, why in (
            (merged.below, f"its score is below {LOWEST:g}"),
            (merged.overlapped, "it overlaps a better one, or an object"),
            (merged.too_small, "it is smaller than the smallest object"),
        ):
            lost += [Lost(wanted[index].drawn[1], why) for index in indices]
        found = []
        for number, index in enumerate(merged.kept, start=tile.first):
            window = wanted[index].drawn[1] & seen
            mask = tile.labels[window.seen_from(seen).slices] == number
            found.append(_new(wanted[index], mask, window, float(tile.scores[index]), by))
        return tuple(found), tuple(lost), tile.counts

    def _why_not(self, one: Proposal) -> str:
        mask, window = one.drawn
        (bottom, right), (height, width) = window.stop, self.plane_shape
        if self.options.whole and not (
            window.row > 0 and window.col > 0 and bottom < height and right < width
        ):
            return "it touches the border"
        if self.options.largest and np.count_nonzero(mask) > self.options.largest:
            return "it is larger than the largest object"
        return ""


def _new(
    one: Proposal, mask: BoolArray, window: Window, score: float, by: ModelVersion
) -> NewProposal:
    features = tuple(float(f"{value:.6g}") for value in one.features)
    offset = window.row, window.col
    return NewProposal(one.prompts, mask, offset, round(score, 4), features, by.model, by.adapter)


def least_area(image: DocumentImage, label_set: str) -> int:
    """Return the pixels of the smallest object to look for: a part of the smallest known ones."""
    areas = [image.area(n) for n, each in image.records.items() if each.label_set == label_set]
    percentile, share = _SMALL
    return round(np.percentile(areas, percentile) / share) if areas else AutomaticConfig().min_size


def project_scorer(document: Document, base: ProposalScorer) -> ProposalScorer:
    """Return the scorer that knows the judgements of a project, too; milliseconds for 1,000."""
    from napari_peftsam.segmentation.automatic import FEATURES

    known = [each for each in judgements(document) if len(each[0]) == len(FEATURES)]
    if not known:
        return base
    features, ious = zip(*((features, iou) for features, iou, _ in known), strict=True)
    return base.judged(np.array(features), np.array(ious))


def judgements(document: Document) -> Iterator[tuple[tuple[float, ...], float, float]]:
    """Yield features, IoU and the score at first of all proposals that were judged, one by one."""
    for image in document.images.values():
        for each in image.proposals.values():
            if each.iou is not None and not each.unseen:
                yield each.features, each.iou, each.score


def planes_of_queue(document: Document) -> tuple[PlaneKey, ...]:
    """Return the planes of all images that are there and not complete."""
    found = []
    for image in document.images.values():
        complete = {region.index for region in image.info.complete if _is_whole(region)}
        if image.pixels is not None and None not in complete:
            indices = np.ndindex(image.shape[:-2])
            found += [PlaneKey(image.id, index) for index in indices if index not in complete]
    return tuple(found)


def _is_whole(region: Any) -> bool:
    return region.box is None and not region.outline
