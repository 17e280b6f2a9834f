"""Answers to prompts: embed the shown plane, predict the pending object, hand masks over.

Nothing here waits. Prompts that come before the model or the embedding stay in the document
and are answered later; of several prompts only the newest are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from napari_peftsam.app.advice import explain_left, plane_text
from napari_peftsam.app.ahead import Cleaning, Following, Preview
from napari_peftsam.app.clean import clean_prediction
from napari_peftsam.app.prompt_state import PromptEvents, PromptState, ShownPlane, WorkspaceHolder
from napari_peftsam.app.refine import predict_best
from napari_peftsam.app.runner import Runner, Slot
from napari_peftsam.document import AcceptObjects, NewObject, PlaneKey
from napari_peftsam.errors import PeftSamError
from napari_peftsam.types import Prompts, Window

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.document import PendingObject
    from napari_peftsam.embeddings import PlaneEmbedding
    from napari_peftsam.segmentation.engine import Engine
    from napari_peftsam.types import MaskPrompt, Point, Prediction

_AT_ONCE = 8  # objects of a queue, between which newer prompts go first


class PromptController:
    """Sees to it that the pending object has a mask.

    The owner connects `follow`, `start_over` and `look_around` to what changes outside the
    document: the shown plane, the live model, the view.

    Attributes
    ----------
    cleaning
        Whether masks are cleaned, and how smooth, see `napari_peftsam.app.clean`.
    preview
        The mask under the mouse.
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
        self.cleaning: Cleaning = (True, 0)
        self.preview = Preview(runner, self.events.preview_changed.emit)
        self._following = Following(self._document)
        for signal, slot in self._connections():
            # Prompts are answered first: who draws them does so meanwhile.
            first = signal is self._document.events.prompts_changed
            signal.connect(slot, max_args=0, priority=int(first))

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
        self.preview.stop()
        self._drop(PromptState("none"))

    # --- what the user does ---------------------------------------------------------

    def clean_masks(self, clean: bool, smooth: int | None = None) -> None:
        """Clean masks, or not, from the next prompts on; `smooth` as of `clean_mask`."""
        self.cleaning = clean, self.cleaning[1] if smooth is None else smooth

    def hover(self, point: Point | None) -> None:
        """Predict what a click at a position would give; None: the mouse is elsewhere."""
        engine, embedding, plane = self._engine, self._embedding, self._target
        is_whole = embedding is not None and embedding.whole is not None
        is_free = self._document.current is None and self.state.kind == "ready" and is_whole
        if point is None or not is_free or not self.preview.is_wanted:
            self.preview.stop()
        elif engine is not None and embedding is not None and plane is not None:
            prompts = Prompts((point,))
            asked = plane, prompts, engine.version(embedding), self.cleaning
            self.preview.ask(asked, self._predict_one(prompts, None))

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
            where = plane_text(document.image(plane.image).name, plane.index)
            self.events.hint.emit(f"The prompts are in {where}: show that plane to accept them")
            return
        known = dict(self._following.known(plane, engine.version(embedding), self.cleaning))
        if pending.made_by == engine.version(embedding) and pending.mask is not None:
            known[pending.prompts] = pending.as_new_object()

        def done(found: dict[Prompts, NewObject] | None) -> None:
            now = document.current
            if found is None:  # another adapter is live by now
                self.start_over()
            elif now is None or now.plane != plane or document.queue != queue:
                self._answer()  # the user went on meanwhile: these are answers to older prompts
            else:
                first, *rest = ((known | found)[each] for each in queue)
                self._accept([replace(first, label=pending.reopens), *rest], plane)

        rest = [each for each in dict.fromkeys(queue) if each not in known]
        if not rest:
            done({})
            return
        self._predictor.stop()  # the first of the queue is predicted with the others
        self._asked, self._accepts = pending.revision, queue
        self._predict("accepting", self._predict_objects(engine, embedding, rest), done)

    def _accept(self, objects: Sequence[NewObject], plane: PlaneKey) -> None:
        try:
            labels = self._document.do(AcceptObjects(plane, tuple(objects)))
        except PeftSamError as error:
            self.events.refused.emit(error)
            return
        left = [made for made, label in zip(objects, labels, strict=True) if not label]
        if left:
            self.events.hint.emit(explain_left(left))

    # --- the objects that follow ----------------------------------------------------

    @property
    def following(self) -> tuple[NewObject, ...]:
        """The predicted objects that follow the pending one in the shown plane."""
        return self._following.objects

    def _predict_following(self) -> None:
        """Predict what follows the pending object, a few at a time."""
        engine, embedding, pending = self._engine, self._embedding, self._document.current
        assert engine is not None, "the pending object is predicted"
        assert embedding is not None, "by its embedding"
        assert pending is not None
        known = self._following.known(pending.plane, engine.version(embedding), self.cleaning)
        rest = [each for each in dict.fromkeys(self._document.queue[1:]) if each not in known]
        if not rest:
            return
        self._asked, self._accepts = pending.revision, ()

        def done(found: dict[Prompts, NewObject] | None) -> None:
            if found is not None:
                known.update(found)
                self.events.queue_predicted.emit()
            self._answer()

        work = self._predict_objects(engine, embedding, rest[:_AT_ONCE])
        self._predict("predicting", work, done)

    def _predict_objects(
        self, engine: Engine, embedding: PlaneEmbedding, prompts: Sequence[Prompts]
    ) -> Generator[Any, None, dict[Prompts, NewObject] | None]:
        clean, smooth = self.cleaning
        found = yield from predict_best(engine, embedding, prompts, clean=clean, smooth=smooth)
        return None if found is None else {made.prompts: made for made in found}

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
        self.preview.stop()
        self.preview.forget_times()
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
            self._predict_following()
            return
        known = self.preview.answer((pending.plane, pending.prompts, version, self.cleaning))
        self.preview.stop()
        if known is not None and pending.mask_prompt is None and not pending.reopens:
            self._document.set_candidates(known, revision, version)
            return
        self._asked, self._accepts = revision, ()

        def done(prediction: Prediction | None) -> None:
            if prediction is None or not self._document.set_candidates(
                prediction, revision, version
            ):
                self._answer()  # newer prompts came, or another adapter

        mask_prompt = pending.mask_prompt_for(version) or self._own_mask(pending, embedding)
        self._predict("predicting", self._predict_one(pending.prompts, mask_prompt), done)

    def _own_mask(self, pending: PendingObject, embedding: PlaneEmbedding) -> MaskPrompt | None:
        """Return the mask of a reopened object that its prompts alone do not give."""
        from napari_peftsam.segmentation import mask_prompt_of

        plane, label = pending.plane, pending.reopens
        image = self._document.image(plane.image)
        record = image.records.get(label)
        if record is None or (record.prompts_in(plane.index) and not record.corrected):
            return None
        whole = Window(0, 0, *image.plane_shape)
        return mask_prompt_of(embedding, image.mask(plane, label, whole))

    def _predict_one(
        self, prompts: Prompts, mask_prompt: MaskPrompt | None
    ) -> Generator[Any, None, Prediction | None]:
        engine, embedding, (clean, smooth) = self._engine, self._embedding, self.cleaning
        assert engine is not None, "who asks has looked"
        assert embedding is not None
        decoder = engine.version(embedding).decoder
        found = yield from engine.predict_steps(embedding, prompts, mask_prompt, adapter=decoder)
        return clean_prediction(found, prompts, smooth) if found and clean else found

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
        elif kind == "predicting":
            work = self.preview.timed(work)

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
