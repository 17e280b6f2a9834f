"""Embeds in the background what was embedded before another adapter went live."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

from napari_peftsam.widgets._worker import Worker, start

if TYPE_CHECKING:
    from typing import Any

    from napari_peftsam.embeddings import EmbedEvent
    from napari_peftsam.widgets._answers import Answers
    from napari_peftsam.widgets._layers import LayerBridge
    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["Reload"]

_IDLE = 400  # ms without anything the user waits for


class Reload:
    """Uses the time in which nothing is waited for; whatever the user does comes first.

    A prompt, another plane, another adapter end it within one block of the encoder; it
    goes on when the answer has been there for a moment, from the plane that is shown then.

    Parameters
    ----------
    owner
        Holds the workspace and the workers.
    bridge
        Says which plane is shown.
    answers
        Embeds that plane itself, and says when the user waits for something.
    """

    def __init__(self, owner: ViewerSession, bridge: LayerBridge, answers: Answers) -> None:
        self._owner = owner
        self._bridge = bridge
        self._answers = answers
        self._worker: Worker[EmbedEvent] | None = None
        self._idle = QTimer()
        self._idle.setSingleShot(True)
        self._idle.setInterval(_IDLE)
        self._idle.timeout.connect(self._begin)
        for signal in self._signals():
            signal.connect(self._wait, max_args=0)
        self._wait()

    @property
    def is_running(self) -> bool:
        """Whether something is being embedded in the background."""
        return self._worker is not None

    def release(self) -> None:
        """Stop, and listen no more."""
        for signal in self._signals():
            signal.disconnect(self._wait)
        self._stop()

    def _signals(self) -> tuple[Any, ...]:
        return (
            self._owner.events.awaited_changed,
            self._owner.events.adapters_changed,
            self._owner.events.model_changed,
            self._bridge.events.plane_changed,
            self._owner.document.events.prompts_changed,
        )

    def _wait(self) -> None:
        """Let the user go first; look again after a moment of quiet."""
        self._stop()
        self._idle.start()

    def _stop(self) -> None:
        self._idle.stop()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _begin(self) -> None:
        workspace, plane = self._owner.workspace, self._bridge.plane
        ready = self._answers.status.kind == "ready" and not self._answers.is_awaited
        if workspace is None or plane is None or not ready:
            return  # whatever ends this is told, and begins anew
        self._worker = start(
            workspace.reload(plane),
            on_event=_ignore,
            on_done=self._ended,
            group=self._owner.workers,
        )

    def _ended(self) -> None:
        self._worker = None


def _ignore(event: EmbedEvent) -> None:
    """Nobody waits for these; an image that fails is told of when it is shown."""
