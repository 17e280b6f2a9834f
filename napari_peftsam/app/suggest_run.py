"""A run of suggestions: plane after plane, each one step of the document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from psygnal import Signal, SignalGroup

from napari_peftsam.app.runner import Runner, Slot
from napari_peftsam.app.suggesting import (
    LOWEST,
    Lost,
    Searched,
    SuggestOptions,
    project_scorer,
    propose_plane,
)
from napari_peftsam.document import NewProposal, PlaneKey, Suggest
from napari_peftsam.errors import PeftSamError, count_text
from napari_peftsam.types import Window

if TYPE_CHECKING:
    from napari_peftsam.app.prompt_state import ShownPlane, WorkspaceHolder
    from napari_peftsam.segmentation.automatic import ProposalScorer

_LOST = {
    "overlapped": "on better ones", "too_small": "too small", "cut": "cut by tiles",
    "below": f"below {LOWEST:g}", "left_out": "too many",
}  # fmt: skip
_COARSE = (
    " from a coarse grid of clicks, as the model has no head for it yet. Accept 5 objects and "
    "train to find more"
)


class SuggestEvents(SignalGroup):
    """Signals of a `SuggestController`, emitted in the thread that runs it."""

    state_changed = Signal()
    """A run began, went on or ended."""
    ended = Signal(str)
    """A run ended: how many were suggested, and where others were lost."""
    failed = Signal(object)
    """A run could not begin or go on: the error, or why in words."""


class SuggestController:
    """Finds proposals with the live model; nothing here waits.

    Parameters
    ----------
    holder
        Holds the document and the workspace.
    shown
        The plane to look at by default.
    runner
        Runs the search.
    base
        The scorer without the project's judgements; default: that of the live adapter.

    Attributes
    ----------
    options
        What the next run looks for.
    progress
        How far a run is, in words; empty without one.
    """

    def __init__(
        self,
        holder: WorkspaceHolder,
        shown: ShownPlane,
        runner: Runner,
        base: ProposalScorer | None = None,
    ) -> None:
        self._holder, self._shown, self.base = holder, shown, base
        self._document = holder.document
        self.events = SuggestEvents()
        self.options, self.progress = SuggestOptions(), ""
        self._slot = Slot(runner)
        self._basis: object = None  # model and adapter of the run
        self._planes: list[PlaneKey] = []  # of the run, beginning with the present one
        self._total, self._suggested, self._counts = 0, 0, Counter[str]()
        self._part: Window | None = None
        self._seen: Window | None = None
        self._found: list[NewProposal] = []
        self._lost: dict[PlaneKey, list[Lost]] = {}
        for signal, slot in self._connections():
            signal.connect(slot)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        events = self._document.events
        return (
            (events.image_removed, self._image_changed),
            (events.pixels_changed, self._image_changed),
            (events.closing, self.stop),
        )

    def release(self) -> None:
        """Stop, and listen no more."""
        for signal, slot in self._connections():
            signal.disconnect(slot)
        self._slot.stop()

    def scorer(self) -> ProposalScorer:
        """Return the scorer that knows the project's judgements now."""
        from napari_peftsam.segmentation.automatic import ProposalScorer

        workspace = self._holder.workspace
        assert workspace is not None, "nothing is scored before there is one"
        base = self.base or ProposalScorer.of(workspace.live.adapter)
        return project_scorer(self._document, base)

    @property
    def is_running(self) -> bool:
        """True while proposals are looked for."""
        return bool(self._planes)

    def suggest(self, planes: Sequence[PlaneKey] = (), part: Window | None = None) -> None:
        """Propose what is not annotated in planes, by default in the shown one.

        With `part`, look in that part of the planes only.
        """
        shown = self._shown.plane
        wanted = list(planes) or ([] if shown is None else [shown])
        if not self._holder.has_model:
            self.events.failed.emit(self._holder.error or "The model is still being loaded")
        elif not wanted:
            self.events.failed.emit("Open an image first")
        else:
            self.stop()
            self._planes, self._total, self._part = wanted, len(wanted), part
            self._basis, self._counts, self._suggested = self._live, Counter(), 0
            self._search()

    def stop(self) -> None:
        """End the run; what it has found so far is shown."""
        if self._planes:
            self._slot.stop()
            if self._found:
                self._show(self._seen)
            self._end("Stopped. ")

    def model_changed(self) -> None:
        """Look at the present plane and the rest with the model that is live now."""
        if self._planes and self._live != self._basis:
            self._slot.stop()
            self._search_again()

    def _search_again(self) -> None:
        self._basis = self._live
        if self._basis is None:
            self._end("The model is gone. ")
        else:
            self._search()

    def _image_changed(self, image: str) -> None:
        """Let go of what was found in an image that is gone or has other pixels."""
        self._lost = {plane: lost for plane, lost in self._lost.items() if plane.image != image}
        if self._planes and self._planes[0].image == image:
            self._slot.stop()
            self._end("The image has changed. ")
        self._planes = [plane for plane in self._planes if plane.image != image]

    def why_lost(self, plane: PlaneKey, row: float, col: float) -> str:
        """Return why nothing was proposed at a position; empty where nothing was looked for."""
        here = [each for each in self._lost.get(plane, ()) if each.window.contains(row, col)]
        smallest = min(here, key=lambda each: each.window.height * each.window.width, default=None)
        return "" if smallest is None else smallest.why

    @property
    def _live(self) -> object:
        workspace = self._holder.workspace
        if workspace is None or not workspace.has_model:
            return None
        return workspace.engine, workspace.live.encoder, workspace.live.decoder

    def _search(self) -> None:
        workspace, plane = self._holder.workspace, self._planes[0]
        assert workspace is not None, "there is a model"
        self._found, self._seen, self._lost[plane] = [], None, []
        self._tell("")
        try:
            work = propose_plane(workspace, plane, self.scorer(), self.options, self._part)
        except PeftSamError as error:
            self._failed(error)
            return
        self._slot.start(work, on_event=self._heard, on_done=self._searched, on_error=self._failed)

    def _heard(self, event: object) -> None:
        if isinstance(event, Searched):
            self._found += event.found
            suggested = (Lost(Window(*each.offset, *each.mask.shape), "") for each in event.found)
            looked = Lost(event.part, "the model's maps show no object there")
            self._lost[self._planes[0]] += (*event.lost, *suggested, looked)
            self._seen = event.part
            self._counts += event.counts
            self._tell(f"tile {event.tile} of {event.tiles}" if event.tiles > 1 else "")
        elif (fraction := getattr(event, "fraction", None)) is not None:
            self._tell(f"embedding {fraction:.0%}")

    def _tell(self, text: str) -> None:
        number = self._total - len(self._planes) + 1
        place = f"image {number} of {self._total}" if self._total > 1 else ""
        self.progress = ", ".join(filter(None, (place, text))) or "looking"
        self.events.state_changed.emit()

    def _searched(self, is_whole: bool) -> None:
        if not is_whole:  # another adapter is live
            self._search_again()
            return
        self._show(self._part)
        del self._planes[:1]  # none is left if that failed
        if self._planes:
            self._search()
        elif self.progress:
            self._end()

    def _show(self, part: Window | None) -> None:
        """Put what was found into the document, as one step."""
        found = sorted(self._found, key=lambda each: -each.score)
        try:
            number = self._document.do(Suggest(self._planes[0], tuple(found), part))
        except PeftSamError as error:
            self._failed(error)
        else:
            self._suggested += number or 0

    def _failed(self, error: Exception) -> None:
        self._end(None)
        self.events.failed.emit(error)

    def _end(self, why: str | None = "") -> None:
        self._planes, self._found, self.progress = [], [], ""
        self.events.state_changed.emit()
        if why is not None:
            lost = [
                f"{self._counts[key]} {text}" for key, text in _LOST.items() if self._counts[key]
            ]
            found = count_text(self._suggested, "object") if self._suggested else "nothing"
            left = f". Left out: {', '.join(lost)}" if lost else ""
            how = _COARSE if self._counts["coarse"] else ""
            self.events.ended.emit(f"{why}Suggested {found}{how}{left}")
