"""Embedding in the background of planes that an earlier adapter embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_peftsam.widgets._parts import timer
from napari_peftsam.widgets._runner import Worker, start

if TYPE_CHECKING:
    from napari_peftsam.app.prompting import PromptController
    from napari_peftsam.widgets.layers import LayerBridge
    from napari_peftsam.widgets.session import ViewerSession

__all__ = ["Reload"]

_IDLE = 400  # ms without anything the user waits for


class Reload:
    """Uses the time in which the user waits for nothing.

    A prompt, another plane or another adapter ends it within one block of the encoder. It
    goes on when the mask has been there for a moment, from the plane that is shown then.
    """

    def __init__(
        self,
        owner: ViewerSession,
        bridge: LayerBridge,
        prompting: PromptController,
    ) -> None:
        self._owner, self._bridge, self._prompting = owner, bridge, prompting
        self._worker: Worker[Any] | None = None
        self._idle = timer(None, _IDLE)
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
            self._prompting.events.awaited_changed,
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
        if workspace is None or plane is None or self._prompting.state.kind != "ready":
            return  # what ends this emits a signal, which begins anew
        self._worker = start(
            workspace.reload(plane),
            on_event=lambda _: None,  # an image that fails is named when it is shown
            on_done=self._ended,
            group=self._owner.workers,
        )

    def _ended(self) -> None:
        self._worker = None
