"""Answers prompts: embeds the plane they are in, predicts, and hands the masks over.

Nothing here waits. Prompts given before the model or the embedding is there stay in
the document and are answered when it is; of several prompts only the newest are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from psygnal import Signal, SignalGroup
from qtpy.QtCore import QTimer

from napari_peftsam.document import AcceptObjects, NewObject, PlaneKey
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._worker import Worker, notify, run, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_peftsam.app.engine import Engine
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.document import ModelVersion
    from napari_peftsam.embeddings import Embedding, EmbedEvent, TiledEmbedding
    from napari_peftsam.types import Prediction, Prompts
    from napari_peftsam.widgets._layers import LayerBridge
    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["Answers", "AnswersEvents", "Status"]

_LOOK = 400  # ms to wait after the view moved: panning embeds where it ends
_SETTLE = 120  # ms to wait after a change of plane: scrolling embeds where it ends


@dataclass(frozen=True)
class Status:
    """Where the embedding of the shown plane stands.

    Attributes
    ----------
    kind
        ``"none"`` without an image, ``"loading"`` while there is no model yet.
    fraction
        How much is embedded.
    reason
        Why not, if it failed; the model's name while it is loading.
    tile, tiles
        Of a large plane: tile number `tile` (from 1) of as many is being embedded.
    """

    kind: Literal["none", "loading", "embedding", "ready", "stopped", "failed"]
    fraction: float = 0.0
    reason: str = ""
    tile: int = 0
    tiles: int = 0

    @property
    def progress(self) -> str:
        """How much is embedded, in words."""
        if self.tiles:
            return f"tile {self.tile} of {self.tiles}"
        return f"{self.fraction:.0%}"


class AnswersEvents(SignalGroup):
    """Signals of `Answers`."""

    status_changed = Signal(Status)
    """The embedding came closer, or did not."""
    busy_changed = Signal()
    """A prediction began or ended."""


class Answers:
    """Sees to it that the object being made has a mask.

    Parameters
    ----------
    owner
        Holds the document, the workspace and the workers.
    bridge
        Says which plane is shown.
    """

    def __init__(self, owner: ViewerSession, bridge: LayerBridge) -> None:
        self._owner = owner
        self._bridge = bridge
        self._document = owner.document
        self.events = AnswersEvents()
        self.status = Status("none")
        self._target: PlaneKey | None = None
        self._engine: Engine | None = None
        self._embedding: Embedding | TiledEmbedding | None = None
        self._embedder: Worker[EmbedEvent] | None = None
        self._predictor: Worker[Any] | None = None
        self._accepting: Worker[Any] | None = None
        self._awaited = False
        self._asked = 0  # revision of the prompts that are being answered ...
        self._accepts: tuple[Prompts, ...] = ()  # ... and those that are being accepted
        self._failed = 0  # revision of prompts that could not be answered
        self._settle = QTimer()
        self._settle.setSingleShot(True)
        self._settle.setInterval(_SETTLE)
        self._settle.timeout.connect(self._follow)
        self._look = QTimer()
        self._look.setSingleShot(True)
        self._look.setInterval(_LOOK)
        self._look.timeout.connect(self._embed_visible)
        owner.events.model_changed.connect(self._start_over)
        owner.events.adapters_changed.connect(self._start_over)
        owner.events.status_changed.connect(self._follow)
        bridge.events.plane_changed.connect(self._settle.start, max_args=0)
        bridge.events.image_changed.connect(self._follow)
        bridge.events.view_moved.connect(self._view_moved)
        self._document.events.prompts_changed.connect(self._follow, max_args=0)
        self._document.events.candidates_changed.connect(self._answer)
        self._document.events.image_removed.connect(self._follow, max_args=0)
        self._document.events.pixels_changed.connect(self._start_over, max_args=0)
        self._follow()

    @property
    def is_predicting(self) -> bool:
        """Whether a prediction is under way."""
        return self._predictor is not None

    @property
    def is_awaited(self) -> bool:
        """Whether the user waits for an embedding or a mask."""
        return self.status.kind == "embedding" or bool(self._predictor or self._accepting)

    def release(self) -> None:
        """Stop, and listen no more."""
        self._settle.stop()
        self._look.stop()
        self._drop()
        self._accepting = None
        self._tell_awaited()
        owner, bridge, document = self._owner, self._bridge, self._document
        owner.events.model_changed.disconnect(self._start_over)
        owner.events.adapters_changed.disconnect(self._start_over)
        owner.events.status_changed.disconnect(self._follow)
        bridge.events.plane_changed.disconnect(self._settle.start)
        bridge.events.image_changed.disconnect(self._follow)
        bridge.events.view_moved.disconnect(self._view_moved)
        document.events.prompts_changed.disconnect(self._follow)
        document.events.candidates_changed.disconnect(self._answer)
        document.events.image_removed.disconnect(self._follow)
        document.events.pixels_changed.disconnect(self._start_over)

    def cancel(self) -> None:
        """Stop embedding, for an answer too; the next prompt or `resume` takes it up again."""
        if self.status.kind == "embedding":
            self._stop_embedding()
            self._stop_predicting()
            self._tell(Status("stopped"))

    def resume(self) -> None:
        """Embed the plane after all, or once more after it failed."""
        self._target = None
        self._follow()

    def accept_all(self, accepted: Callable[[], object]) -> None:
        """Predict every object of the queue and accept them in one step; then call back."""
        document, embedding, engine = self._document, self._embedding, self._engine
        current = document.current
        if current is None or embedding is None or engine is None:
            return
        if current.plane != self._target:
            self._bridge.events.hint.emit(
                f"The prompts are in {document.image(current.plane.image).name}: "
                "show that plane to accept them"
            )
            return
        plane, queue = current.plane, document.queue
        version = self._model_version(embedding)
        is_current = current.made_by == version
        shown = current.mask if is_current else None
        known = [] if shown is None else [current.as_new_object()]
        rest = list(queue[len(known) :])

        def done(predictions: list[Prediction] | None) -> None:
            self._accepted()
            if predictions is None:  # another adapter is live by now
                self._start_over()
                return
            now = document.current
            if now is None or now.plane != plane or document.queue != queue:
                self._answer()  # the user went on meanwhile: these are answers to older prompts
                return
            new = known + [
                _best(p, each, version) for p, each in zip(rest, predictions, strict=True)
            ]
            try:
                document.do(AcceptObjects(plane, tuple(new)))
            except PeftSamError as error:
                self._bridge.events.failed.emit(error)
                return
            accepted()

        def failed(error: Exception) -> None:
            self._accepted()
            notify(error)
            self._answer()

        if not rest:
            done([])
            return
        if self._is_tiled:
            self._stop_predicting()  # the first of the queue is predicted with the others
            self._asked, self._accepts = current.revision, queue
            tiled = cast("TiledEmbedding", embedding)
            self._accepting = self._predict_tiles(
                _each_in_tiles(engine, tiled, rest, version.decoder), done, failed
            )
        else:
            self._accepting = run(
                lambda: engine.predict_many(embedding, rest, adapter=version.decoder),
                on_result=done,
                on_error=failed,
                group=self._owner.workers,
            )
        self._tell_awaited()

    def _accepted(self) -> None:
        self._accepting = None
        self._tell_awaited()

    def _model_version(self, embedding: Embedding | TiledEmbedding) -> ModelVersion:
        workspace = self._owner.workspace
        assert workspace is not None, "there is an embedding"
        return workspace.model_version(embedding)

    # --- embedding ------------------------------------------------------------------

    def _follow(self) -> None:
        """Turn to the plane that matters now: the shown one, else the prompts' own."""
        current = self._document.current
        plane = self._bridge.plane or (current.plane if current is not None else None)
        if plane is None or self._document.image(plane.image).pixels is None:
            self._drop()
            self._tell(Status("none"))
        elif not self._owner.has_model:
            loading, error = self._owner.loading, self._owner.error
            self._tell(Status("failed", reason=error) if error else Status("loading", 0, loading))
        elif plane != self._target or (current is not None and self.status.kind == "stopped"):
            self._embed(plane)
        self._answer()

    def _start_over(self) -> None:
        """Embed and predict again, after another model or adapter went live."""
        self._drop()
        self._failed = 0
        self._follow()

    def _drop(self) -> None:
        self._stop_embedding()
        self._stop_predicting()
        self._target = self._embedding = self._engine = None
        self._tell_awaited()

    def _stop_embedding(self) -> None:
        if self._embedder is not None:
            self._embedder.stop()
            self._embedder = None

    def _stop_predicting(self) -> None:
        """Stop the prediction under way; in tiles, which takes long, accepting as well."""
        if self._predictor is not None:
            self._predictor.stop()
            self._predictor = None
            self._tell_busy()
        if self._accepting is not None and self._is_tiled:
            self._accepting.stop()
            self._accepted()

    def _embed(self, plane: PlaneKey) -> None:
        self._drop()
        workspace = self._owner.workspace
        assert workspace is not None
        self._target = plane
        self._engine = workspace.engine
        self._tell(Status("embedding"))
        self._start_embedding(workspace, plane)

    def _start_embedding(self, workspace: Workspace, plane: PlaneKey) -> None:
        visible = self._bridge.visible if plane == self._bridge.plane else None
        self._embedder = start(
            workspace.embed(plane, visible),
            on_event=self._embedding_event,
            on_error=self._embedding_broke,
            on_done=self._embedding_ended,
            group=self._owner.workers,
        )

    def _view_moved(self) -> None:
        if self._is_tiled:
            self._look.start()

    def _embed_visible(self) -> None:
        """Embed the visible tiles of a large plane, while there is nothing more urgent."""
        workspace, plane = self._owner.workspace, self._bridge.plane
        if self._embedder is not None or self._is_answering or not self._is_tiled:
            return
        if self.status.kind == "stopped":
            return
        if workspace is not None and plane is not None and plane == self._target:
            self._start_embedding(workspace, plane)

    @property
    def _is_tiled(self) -> bool:
        return self._embedding is not None and hasattr(self._embedding, "image")

    def _embedding_event(self, event: EmbedEvent) -> None:
        from napari_peftsam.embeddings import Encoded, EncodeFailed, TilesReady

        if isinstance(event, EncodeFailed):
            self._embedding_failed(event.error)
        elif isinstance(event, TilesReady) or (isinstance(event, Encoded) and not self._is_tiled):
            self._embedding = event.embedding
            self._tell(Status("ready", 1.0))
            self._answer()
        else:
            self._embedding_progress(event)

    def _embedding_progress(self, event: object) -> None:
        """Show how far a plane is, or which tile of a large one."""
        from napari_peftsam.embeddings import EncodeProgress, EncodeStarted

        if isinstance(event, EncodeStarted) and self._is_tiled:
            done = event.index / event.total
            self._tell(Status("embedding", done, tile=event.index + 1, tiles=event.total))
        elif isinstance(event, EncodeProgress):
            now = self.status
            done = (now.tile - 1 + event.fraction) / now.tiles if now.tiles else event.fraction
            self._tell(Status("embedding", done, tile=now.tile, tiles=now.tiles))

    def _embedding_failed(self, error: Exception) -> None:
        if not self._is_tiled:  # of a large plane it is one tile, which no prompt may ever need
            self._tell(Status("failed", reason=str(error)))
        notify(error)

    def _embedding_broke(self, error: Exception) -> None:
        self._embedder = None
        self._embedding_failed(error)

    def _embedding_ended(self) -> None:
        self._embedder = None
        if self.status.kind != "embedding":
            return
        if self._embedding is None:
            self._start_over()  # the adapter was swapped meanwhile
        else:
            self._tell(Status("ready", 1.0))

    def _tell_awaited(self) -> None:
        if self._awaited != self.is_awaited:
            self._awaited = self.is_awaited
            self._owner.events.awaited_changed.emit(self._awaited)

    def _tell(self, status: Status) -> None:
        if status != self.status:
            self.status = status
            self.events.status_changed.emit(status)
            self._tell_awaited()

    # --- predicting -----------------------------------------------------------------

    def _answer(self) -> None:
        """Predict the object being made, unless that is done, under way or cancelled."""
        self._stop_outdated()
        if self._is_answering or self.status.kind == "stopped":
            return
        current, embedding, engine = self._document.current, self._embedding, self._engine
        if current is None or embedding is None or engine is None:
            return
        version = self._model_version(embedding)
        answered = current.candidates is not None and current.made_by == version
        if answered or current.plane != self._target or current.revision == self._failed:
            return
        self._asked = revision = current.revision
        prompts = current.prompts
        previous = current.previous_for(version)

        def done(prediction: Prediction | None) -> None:
            self._predictor = None
            if prediction is not None:
                self._document.set_candidates(prediction, revision, version)
            self._tell_busy()
            self._answer()  # newer prompts may have come

        def failed(error: Exception) -> None:
            self._predictor, self._failed = None, revision
            self._tell_busy()
            notify(error)

        if self._is_tiled:
            self._predictor = self._predict_tiles(
                engine.predict_tiles(
                    cast("TiledEmbedding", embedding), prompts, previous, adapter=version.decoder
                ),
                lambda answers: done(None if answers is None else answers[0]),
                failed,
            )
        else:
            self._predictor = run(
                lambda: engine.predict(embedding, prompts, previous, adapter=version.decoder),
                on_result=done,
                on_error=failed,
                group=self._owner.workers,
            )
        self._tell_busy()

    @property
    def _is_answering(self) -> bool:
        """Whether the object being made is predicted, alone or with the rest of a large plane's."""
        return self._predictor is not None or (self._is_tiled and self._accepting is not None)

    def _stop_outdated(self) -> None:
        """Stop predicting in a large plane for prompts that are not the newest.

        Newer ones would wait for up to 25 tiles; those that are embedded are kept.
        """
        current = self._document.current
        asked = current is not None and current.revision == self._asked
        if self._accepting is not None:
            asked = asked and self._document.queue == self._accepts
        if self._is_tiled and self._is_answering and not asked:
            self._stop_predicting()
            self._tell(Status("ready", 1.0))
            self._look.start()

    def _predict_tiles(
        self,
        events: Iterator[object],
        done: Callable[[list[Prediction] | None], None],
        failed: Callable[[Exception], None],
    ) -> Worker[Any]:
        """Predict in a large plane; the tiles of the prompts go before the visible ones.

        `done` gets None if the adapter was swapped meanwhile.
        """
        from napari_peftsam.app.engine import Predicted

        self._stop_embedding()
        answers: list[Prediction | None] = []

        def happened(event: object) -> None:
            if isinstance(event, Predicted):
                answers.append(event.prediction)
            else:
                self._embedding_progress(event)

        def ended() -> None:
            self._tell(Status("ready", 1.0))
            known = [answer for answer in answers if answer is not None]
            done(known if len(known) == len(answers) else None)
            self._look.start()

        def broke(error: Exception) -> None:
            self._tell(Status("ready", 1.0))
            failed(error)

        return start(
            events, on_event=happened, on_error=broke, on_done=ended, group=self._owner.workers
        )

    def _tell_busy(self) -> None:
        self.events.busy_changed.emit()
        self._tell_awaited()


def _each_in_tiles(
    engine: Engine, embedding: TiledEmbedding, prompts: list[Prompts], adapter: str
) -> Iterator[object]:
    """Predict several objects of a large plane; events as of `Engine.predict_tiles`, of each."""
    for each in prompts:
        yield from engine.predict_tiles(embedding, each, adapter=adapter)


def _best(prompts: Prompts, prediction: Prediction, by: ModelVersion) -> NewObject:
    best = prediction.trimmed()
    score = float(best.scores[0])
    return NewObject(prompts, best.masks[0], score, best.offset, 0, by.model, by.adapter)
