"""Review of proposals: shown by score, accepted or rejected, and what both teach.

The proposals are in the document; what is expected of them is computed anew with each judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import hypot, inf
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal, SignalGroup

from napari_peftsam.app.suggesting import judgements
from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.counting import wilson
from napari_peftsam.document import (
    AcceptProposals,
    PlaneKey,
    Rejection,
    RejectProposals,
    SetPrompts,
)
from napari_peftsam.document.records import PROPOSALS

if TYPE_CHECKING:
    from napari_peftsam.app.count_controller import CountController
    from napari_peftsam.app.prompt_state import ShownPlane, WorkspaceHolder
    from napari_peftsam.app.suggest_run import SuggestController
    from napari_peftsam.document import Document, DocumentImage, ProposalRecord

COUNT_FIRST = "Finish the count first, or end it with ■"
_RIGHT = 0.5  # IoU from which on a proposal was an object


@dataclass(frozen=True)
class Expected:
    """What is expected of a proposal.

    Attributes
    ----------
    score
        Its IoU with a true object.
    probability
        That the IoU is at least one half.
    uncertainty
        From 0, like those that were judged, to 1, nothing is known.
    """

    score: float
    probability: float
    uncertainty: float

    @property
    def doubt(self) -> float:
        """How much there is to learn from a judgement."""
        return self.uncertainty - 2 * abs(self.probability - 0.5)


@dataclass(frozen=True)
class Precision:
    """Share of proposals that are right.

    Attributes
    ----------
    rate, low, high
        The share and its 95 % interval.
    judged
        Number of judged ones that it is known from; with none it is what the scorer expects.
    """

    rate: float
    low: float
    high: float
    judged: int

    @property
    def text(self) -> str:
        """The share in words."""
        if not self.judged:
            return f"about {self.rate:.0%} right"
        return f"{self.rate:.0%} right ({100 * self.low:.0f}–{self.high:.0%})"


class ReviewEvents(SignalGroup):
    """Signals of a `ReviewController`, emitted in the thread that runs it."""

    changed = Signal()
    """Other proposals are shown, with other scores, or another one is the current one."""
    hint = Signal(str)
    """Something cannot be done now, or why something is missing."""


class ReviewController:
    """Shows and judges the proposals of the shown plane.

    The owner calls `follow` when another plane is shown, or another model is live.

    Parameters
    ----------
    holder
        Holds the document and the workspace.
    shown
        The plane whose proposals are reviewed.
    run
        Has found them.
    counting
        Says which proposals are looked at while somebody counts.

    Attributes
    ----------
    current
        Number of the proposal that is accepted or rejected next; 0 for none.
    expected
        What is expected of each open proposal, by number.
    """

    def __init__(
        self,
        holder: WorkspaceHolder,
        shown: ShownPlane,
        run: SuggestController,
        counting: CountController | None = None,
    ) -> None:
        self._holder, self._shown, self._run = holder, shown, run
        self._document: Document = holder.document
        self.events = ReviewEvents()
        self.current, self.expected = 0, dict[int, Expected]()
        self._eager = AutomaticConfig().eager
        self._order: Callable[[int], float] = self._doubt
        self._counting = counting
        for signal, slot in self._connections():
            signal.connect(slot)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        events = self._document.events
        return (
            (events.proposals_changed, self._judged),
            (events.prompts_changed, self._explain),
            (events.opened, self.follow),
            *(((self._counting.events.stopped, self._changed),) if self._counting else ()),
        )

    def release(self) -> None:
        """Listen no more."""
        for signal, slot in self._connections():
            signal.disconnect(slot)

    # --- what is expected -----------------------------------------------------------

    def follow(self) -> None:
        """Show the proposals of the shown plane, by what is expected of them now."""
        known = self.records
        expected = {n: Expected(each.score, each.score, 1.0) for n, each in known.items()}
        if known and self._holder.workspace is not None:  # else torch is being imported
            from napari_peftsam.segmentation.automatic import FEATURES

            alike = {n: r for n, r in known.items() if len(r.features) == len(FEATURES)}
            if alike:
                features = np.array([each.features for each in alike.values()])
                found = self._run.scorer().scores(features)
                values = found.iou.tolist(), found.probability.tolist(), found.uncertainty.tolist()
                expected |= dict(zip(alike, map(Expected, *values), strict=True))
        self.expected = expected
        self._changed()

    def _judged(self, image: str) -> None:
        plane = self._shown.plane
        if self.expected or (plane is not None and plane.image == image):
            self.follow()

    def _changed(self) -> None:
        if self.current not in self.visible:
            self.current = 0
        self.events.changed.emit()

    @property
    def _image(self) -> DocumentImage | None:
        plane = self._shown.plane
        return None if plane is None else self._document.images.get(plane.image)

    @property
    def records(self) -> dict[int, ProposalRecord]:
        """The open proposals of the shown plane, by number."""
        image, plane = self._image, self._shown.plane
        return {} if image is None or plane is None else image.open_proposals(plane)

    @property
    def eager(self) -> float:
        """From 0, only what is certain, to 1, everything."""
        return self._eager

    @eager.setter
    def eager(self, value: float) -> None:
        self._eager = value
        self._changed()

    @property
    def visible(self) -> dict[int, Expected]:
        """Those that are shown, by falling score."""
        return above(self.expected, self._threshold)

    @property
    def _threshold(self) -> float:
        # What the slider hides is not missed: it is counted, too.
        return 1 - self._eager if self._counted is None else -inf

    @property
    def _counted(self) -> int | None:
        """The proposal that is counted now, 0 for a tile; None while nobody counts."""
        return None if self._counting is None else self._counting.number

    @property
    def precision(self) -> Precision:
        """The expected precision of those that are shown."""
        return expected_precision(self._document, self.visible.values(), self._threshold)

    # --- the review -----------------------------------------------------------------

    def next(self, near: tuple[float, float] | None = None) -> int:
        """Go to the least certain proposal, or to the nearest one; 0 if there is none."""
        self._order = self._doubt if near is None else lambda n: -self._distance(n, near)
        left = [number for number in self.visible if number != self.current]
        self.current = max(left, key=self._order, default=self.current)
        if not self.current:
            self.events.hint.emit("No proposal is left here: be more eager, or suggest the rest")
        self.events.changed.emit()
        return self.current

    def _doubt(self, number: int) -> float:
        return self.expected[number].doubt

    def _distance(self, number: int, at: tuple[float, float]) -> float:
        row, col = self.middle(number)
        return hypot(row - at[0], col - at[1])

    def middle(self, number: int) -> tuple[float, float]:
        """Return the middle of a proposal in the plane."""
        image = self._image
        assert image is not None, "it is shown"
        window = image.proposal_window(number)
        return window.row + (window.height - 1) / 2, window.col + (window.width - 1) / 2

    def accept(self) -> None:
        """Accept the current proposal, and go on to the next."""
        self._judge(lambda plane: AcceptProposals(plane, (self.current,)))

    def reject(self, reason: Rejection) -> None:
        """Reject the current proposal, and go on to the next."""
        self._judge(lambda plane: RejectProposals(plane, (self.current,), reason))

    def _judge(self, action: Callable[[PlaneKey], AcceptProposals | RejectProposals]) -> None:
        plane = self._shown.plane
        if not self.current or plane is None:
            self.next()  # what is judged is shown first
            return
        self._document.do(action(plane))
        counted = self._counted
        self.go_to(max(self.visible, key=self._order, default=0) if counted is None else counted)

    def go_to(self, number: int) -> None:
        """Make another proposal the current one."""
        self.current = number
        self.events.changed.emit()

    def accept_above(self) -> tuple[int, ...]:
        """Accept all that are shown, in one step, and return their labels; 0: no pixel was left."""
        plane, numbers = self._shown.plane, tuple(self.visible)
        if self._counted is not None:
            self.events.hint.emit(COUNT_FIRST)
            return ()
        if plane is None or not numbers:
            self.events.hint.emit("No proposal is above the slider: be more eager")
            return ()
        labels: tuple[int, ...] = self._document.do(AcceptProposals(plane, numbers))
        return labels

    def open(self, number: int) -> None:
        """Make the prompts of a proposal those of the pending object, to be corrected."""
        plane, record = self._shown.plane, self.records.get(number)
        if plane is not None and record is not None:
            self._document.do(SetPrompts(plane, record.prompts))

    def proposal_at(self, row: float, col: float) -> int:
        """Return the shown proposal at a position of the plane, 0 for none."""
        number = self._number_at(row, col)
        return number if number in self.visible else 0

    def _number_at(self, row: float, col: float) -> int:
        image, plane, at = self._image, self._shown.plane, (round(row), round(col))
        if image is None or plane is None or not self.expected or not image.window.contains(*at):
            return 0
        return int(image.plane_labels(plane, PROPOSALS)[at])

    def _explain(self, plane: PlaneKey) -> None:
        """Say of a first click why nothing was proposed there; the click adds it."""
        pending, prompts = self._document.pending, self._document.queue[:1]
        if plane != self._shown.plane or pending.reopens or len(pending.queue) != 1:
            return
        points = prompts[0].points
        if prompts[0].box is not None or len(points) != 1 or not points[0].positive:
            return
        row, col = points[0].row, points[0].col
        number, why = self._number_at(row, col), self._run.why_lost(plane, row, col)
        if number in self.visible:
            return
        if number:
            why = f"its score is {self.expected[number].score:.2f}, below the slider"
        if why:
            self.events.hint.emit(f"Not suggested: {why}. Your click adds it")


def above(expected: Mapping[int, Expected], threshold: float) -> dict[int, Expected]:
    """Return what has at least this score, by falling score."""
    ordered = sorted(expected.items(), key=lambda item: -item[1].score)
    return {number: each for number, each in ordered if each.score >= threshold}


def expected_precision(
    document: Document, shown: Iterable[Expected], threshold: float
) -> Precision:
    """Return the share of proposals above a score that are right.

    It is known from the judged ones that had at least this score; the interval is Wilson's.
    """
    right = [iou >= _RIGHT for _, iou, score in judgements(document) if score >= threshold]
    n = len(right)
    if not n:
        rate = float(np.mean([each.probability for each in shown] or [0.0]))
        return Precision(rate, 0.0, 1.0, 0)
    return Precision(sum(right) / n, *wilson(sum(right), n), n)
