"""Embedding in the background: planes of an earlier adapter, and those shown next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_peftsam.app.runner import Runner, Slot

if TYPE_CHECKING:
    from napari_peftsam.app.prompt_state import ShownQueue, WorkspaceHolder
    from napari_peftsam.app.prompting import PromptController


class Reload:
    """Uses the time in which the user waits for nothing.

    The owner stops it at a prompt, another plane or another adapter, and begins it again when
    the mask has been there for a moment. It ends within one block of the encoder, and continues
    from the plane that is shown then.
    """

    def __init__(
        self,
        holder: WorkspaceHolder,
        shown: ShownQueue,
        prompting: PromptController,
        runner: Runner,
    ) -> None:
        self._holder, self._shown, self._prompting = holder, shown, prompting
        self._slot = Slot(runner)

    @property
    def is_running(self) -> bool:
        """True while something is embedded in the background."""
        return self._slot.is_busy

    def begin(self) -> None:
        """Embed what is shown next, and again what was visited, if the user waits for nothing."""
        workspace, plane = self._holder.workspace, self._shown.plane
        if workspace is None or plane is None or self._prompting.state.kind != "ready":
            return  # what ends this emits a signal, which begins anew
        self._slot.start(  # an image that fails is named when it is shown
            (event for event in workspace.reload(plane, self._shown.ahead)),
            on_done=lambda _: None,
            on_error=self._prompting.events.failed.emit,
        )

    def stop(self) -> None:
        """Stop embedding."""
        self._slot.stop()
