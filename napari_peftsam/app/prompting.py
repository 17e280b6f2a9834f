"""Answers to prompts: embed the shown plane, predict the pending object, hand masks over.

Nothing here waits. Prompts that come before the model or the embedding stay in the document
and are answered later; of several prompts only the newest are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from psygnal import Signal, SignalGroup

from napari_peftsam.app.advice import explain_left
from napari_peftsam.app.runner import Runner, Slot
from napari_peftsam.document import AcceptObjects, Document, NewObject, PlaneKey
from napari_peftsam.errors import PeftSamError

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.embeddings import PlaneEmbedding
    from napari_peftsam.segmentation.engine import Engine
    from napari_peftsam.types import Prediction, Prompts, Window

__all__ = [
    "PromptController",
    "PromptEvents",
    "PromptState",
    "ShownPlane",
    "WorkspaceHolder",
]


@dataclass(frozen=True)
class PromptState:
    """The work on the shown plane.

    Attributes
    ----------
    kind
        ``"none"`` without an image, ``"loading"`` while there is no model yet; ``"ready"``
        when the plane is embedded and nothing is asked.
    fraction
        Part of the plane that is embedded, in [0, 1].
    reason
        Why embedding failed; the model's name while it is loading.
    tile, tiles
        Of several tiles, number `tile` (from 1) of `tiles` is being embedded; else 0.
    """

    kind: Literal[
        "none", "loading", "embedding", "ready", "predicting", "accepting", "stopped", "failed"
    ]
    fraction: float = 0.0
    reason: str = ""
    tile: int = 0
    tiles: int = 0

    @property
    def is_awaited(self) -> bool:
        """True while the user waits for an embedding or a mask."""
        return self.kind in {"embedding", "predicting", "accepting"}

    @property
    def can_be_cancelled(self) -> bool:
        """True while there is something for `PromptController.cancel` to stop."""
        return self.kind == "embedding" or (self.is_awaited and self.tiles > 0)

    @property
    def progress(self) -> str:
        """The part that is embedded, in words."""
        return f"tile {self.tile} of {self.tiles}" if self.tiles else f"{self.fraction:.0%}"


class PromptEvents(SignalGroup):
    """Signals of a `PromptController`, emitted in the thread that runs it."""

    state_changed = Signal(PromptState)
    awaited_changed = Signal(bool)
    """The user begins or ceases to wait for an embedding or a mask."""
    hint = Signal(str)
    """Something cannot be done now; says what can."""
    refused = Signal(object)
    """The document refused the objects: the error."""
    failed = Signal(object)
    """An embedding or a prediction failed: the error."""
    idled = Signal()
    """A prediction in several tiles ended: there is time for the visible ones."""


class WorkspaceHolder(Protocol):
    """The document, and the workspace once torch is imported."""

    document: Document
    loading: str
    error: str

    @property
    def workspace(self) -> Workspace | None:
        """None while torch is being imported."""

    @property
    def has_model(self) -> bool:
        """True while a model is loaded."""


class ShownPlane(Protocol):
    """The plane that a viewer shows."""

    @property
    def plane(self) -> PlaneKey | None:
        """None if no image is chosen."""

    @property
    def visible(self) -> Window | None:
        """The part of the plane in sight."""


class PromptController:
    """Sees to it that the pending object has a mask.

    The owner connects `follow`, `start_over` and `look_around` to what changes outside the
    document: the shown plane, the live model, the view.

    Parameters
    ----------
    holder
        Holds the document and the workspace.
    shown
        The plane to embed.
    runner
        Runs embedding and predicting.
    """

    def __init__(self, holder: WorkspaceHolder, shown: ShownPlane, runner: Runner) -> None:
        self._holder, self._shown = holder, shown
        self._document = holder.document
        self.events = PromptEvents()
        self.state = PromptState("none")
        self._target: PlaneKey | None = None
        self._workspace: Workspace | None = None
        self._engine: Engine | None = None
        self._embedding: PlaneEmbedding | None = None
        self._embedder, self._predictor = Slot(runner), Slot(runner)
        self._asked = 0  # revision of the prompts that are being answered ...
        self._accepts: tuple[Prompts, ...] = ()  # ... and those that are being accepted
        self._failed = 0  # revision of prompts that could not be answered
        for signal, slot in self._connections():
            signal.connect(slot, max_args=0)

    def _connections(self) -> tuple[tuple[Any, Callable[[], None]], ...]:
        events = self._document.events
        return (
            (events.prompts_changed, self.follow),
            (events.candidates_changed, self._answer),
            (events.image_removed, self.follow),
            (events.pixels_changed, self.start_over),
        )

    def release(self) -> None:
        """Stop, and listen no more."""
        for signal, slot in self._connections():
            signal.disconnect(slot)
        self._drop(PromptState("none"))

    # --- what the user does ---------------------------------------------------------

    def cancel(self) -> None:
        """Stop embedding, also for a mask; the next prompt or `resume` takes it up again."""
        if self.state.can_be_cancelled:
            self._embedder.stop()
            self._predictor.stop()
            self._set(PromptState("stopped"))

    def resume(self) -> None:
        """Embed the plane after all, or once more after it failed."""
        self._target = None
        self.follow()

    def accept_all(self) -> None:
        """Predict every object of the queue and accept them in one step.

        Those that get no pixel stay queued, and a hint says why.
        """
        document, engine, embedding = self._document, self._engine, self._embedding
        pending = document.current
        if pending is None or engine is None or embedding is None:
            return
        plane, queue = pending.plane, document.queue
        if plane != self._target:
            name = document.image(plane.image).name
            self.events.hint.emit(f"The prompts are in {name}: show that plane to accept them")
            return
        version = engine.version(embedding)
        is_shown = pending.made_by == version and pending.mask is not None
        known = (pending.as_new_object(),) if is_shown else ()
        rest = list(queue[len(known) :])

        def done(predictions: Sequence[Prediction] | None) -> None:
            now = document.current
            if predictions is None:  # another adapter is live by now
                self.start_over()
            elif now is None or now.plane != plane or document.queue != queue:
                self._answer()  # the user went on meanwhile: these are answers to older prompts
            else:
                pairs = zip(rest, predictions, strict=True)
                new = (NewObject.best_of(each, found, version) for each, found in pairs)
                objects = (*known, *new)
                try:
                    labels = document.do(AcceptObjects(plane, objects))
                except PeftSamError as error:
                    self.events.refused.emit(error)
                    return
                left = [made for made, label in zip(objects, labels, strict=True) if not label]
                if left:
                    self.events.hint.emit(explain_left(left))

        if not rest:
            done([])
            return
        self._predictor.stop()  # the first of the queue is predicted with the others
        self._asked, self._accepts = pending.revision, queue
        work = engine.predict_many_steps(embedding, rest, adapter=version.decoder)
        self._predict("accepting", work, done)

    # --- embedding ------------------------------------------------------------------

    def follow(self) -> None:
        """Turn to the plane that matters now: the shown one, else the prompts' own."""
        pending = self._document.current
        plane = self._shown.plane or (None if pending is None else pending.plane)
        if plane is None or self._document.image(plane.image).pixels is None:
            self._drop(PromptState("none"))
        elif not self._holder.has_model:
            error = self._holder.error
            kind: Literal["failed", "loading"] = "failed" if error else "loading"
            self._set(PromptState(kind, reason=error or self._holder.loading))
        elif plane != self._target or (pending is not None and self.state.kind == "stopped"):
            self._embed(plane)
        else:
            self._answer()

    def start_over(self) -> None:
        """Embed and predict again, after another model or adapter went live."""
        self._drop(self.state)
        self._failed = 0
        self.follow()

    def look_around(self) -> None:
        """Embed the visible ones of several tiles, while there is nothing more urgent."""
        several = self._embedding is not None and self._embedding.whole is None
        idle = not self._embedder.is_busy and not self._predictor.is_busy
        here = self._target is not None and self._target == self._shown.plane
        if several and idle and here and self.state.kind != "stopped":
            self._start_embedding()

    def _drop(self, state: PromptState) -> None:
        self._embedder.stop()
        self._predictor.stop()
        self._target = self._embedding = self._engine = None
        self._set(state)

    def _embed(self, plane: PlaneKey) -> None:
        self._drop(PromptState("embedding"))
        workspace = self._holder.workspace
        assert workspace is not None, "there is a model"
        self._target, self._workspace, self._engine = plane, workspace, workspace.engine
        self._start_embedding()

    def _start_embedding(self) -> None:
        plane, workspace = self._target, self._workspace
        assert plane is not None
        assert workspace is not None
        visible = self._shown.visible if plane == self._shown.plane else None
        self._embedder.start(
            workspace.embed(plane, visible),
            on_event=self._embedding_event,
            on_done=self._embedding_ended,
            on_error=self._embedding_failed,
        )

    def _embedding_event(self, event: object) -> None:
        from napari_peftsam.embeddings import EncodeFailed, PlaneReady

        if isinstance(event, EncodeFailed):
            self._embedding_failed(event.error)
        elif isinstance(event, PlaneReady):
            self._embedding = event.embedding
            self._set(PromptState("ready", 1.0))
            self._answer()
        else:
            self._show_progress(event)

    def _show_progress(self, event: object) -> None:
        from napari_peftsam.embeddings import EncodeProgress, EncodeStarted

        now = self.state if self._predictor.is_busy else replace(self.state, kind="embedding")
        several = self._embedding is not None
        if isinstance(event, EncodeStarted) and several:
            done, tile, tiles = event.index / event.total, event.index + 1, event.total
            self._set(replace(now, fraction=done, tile=tile, tiles=tiles))
        elif isinstance(event, EncodeProgress):
            part = event.fraction
            self._set(
                replace(now, fraction=(now.tile - 1 + part) / now.tiles if now.tiles else part)
            )

    def _embedding_failed(self, error: Exception) -> None:
        if self._embedding is None:  # else it is one of several tiles, perhaps never needed
            self._set(PromptState("failed", reason=str(error)))
        self.events.failed.emit(error)

    def _embedding_ended(self, _: object) -> None:
        if self.state.kind == "embedding":
            if self._embedding is None:
                self.start_over()  # the adapter was swapped meanwhile
            else:
                self._set(PromptState("ready", 1.0))

    # --- predicting -----------------------------------------------------------------

    def _answer(self) -> None:
        """Predict the pending object, unless that is done, under way or cancelled."""
        pending, engine, embedding = self._document.current, self._engine, self._embedding
        self._stop_outdated(0 if pending is None else pending.revision)
        if pending is None or engine is None or embedding is None:
            return
        revision = pending.revision
        is_ours = pending.plane == self._target and revision != self._failed
        if self._predictor.is_busy or self.state.kind == "stopped" or not is_ours:
            return
        version = engine.version(embedding)
        if pending.candidates is not None and pending.made_by == version:
            return
        self._asked, self._accepts = revision, ()

        def done(prediction: Prediction | None) -> None:
            if prediction is None or not self._document.set_candidates(
                prediction, revision, version
            ):
                self._answer()  # newer prompts came, or another adapter

        work = engine.predict_steps(
            embedding, pending.prompts, pending.mask_prompt_for(version), adapter=version.decoder
        )
        self._predict("predicting", work, done)

    def _predict(
        self,
        kind: Literal["predicting", "accepting"],
        work: Generator[Any, None, Any],
        done: Callable[[Any], None],
    ) -> None:
        """Run a prediction; the tiles of the prompts go before the visible ones."""
        assert self._embedding is not None
        several = self._embedding.whole is None
        revision = self._asked
        if several:
            self._embedder.stop()

        def ended(result: Any) -> None:
            self._set(PromptState("ready", 1.0))
            done(result)
            if several:
                self.events.idled.emit()

        def failed(error: Exception) -> None:
            self._set(PromptState("ready", 1.0))
            self._failed = revision if kind == "predicting" else 0
            self.events.failed.emit(error)
            self._answer()

        self._set(PromptState(kind, 1.0))
        self._predictor.start(work, on_event=self._show_progress, on_done=ended, on_error=failed)

    def _stop_outdated(self, revision: int) -> None:
        """Stop predicting for prompts that are not the newest; tiles that are embedded stay."""
        is_newest = revision == self._asked
        if self._accepts:
            is_newest = is_newest and self._document.queue == self._accepts
        if self._predictor.is_busy and not is_newest:
            self._predictor.stop()
            self._set(PromptState("ready", 1.0))
            self.events.idled.emit()

    def _set(self, state: PromptState) -> None:
        before, self.state = self.state, state
        if state != before:
            self.events.state_changed.emit(state)
        if state.is_awaited != before.is_awaited:
            self.events.awaited_changed.emit(state.is_awaited)
