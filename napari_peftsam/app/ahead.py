"""Work ahead of the user: masks under the mouse and of the queue, planes shown next."""

from __future__ import annotations

from collections.abc import Callable, Generator
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from napari_peftsam.app.runner import Runner, Slot
from napari_peftsam.document import Document, ModelVersion, NewObject, PlaneKey
from napari_peftsam.types import Prompts

if TYPE_CHECKING:
    from napari_peftsam.app.prompt_state import ShownQueue, WorkspaceHolder
    from napari_peftsam.app.prompting import PromptController
    from napari_peftsam.types import Prediction

_T = TypeVar("_T")

_FAST = 0.04  # seconds
_REMEMBERED = 9  # prompts by whose times that is decided

Cleaning = tuple[bool, int]
"""Whether masks are cleaned, and the radius in pixels by which they are smoothed."""

Question = tuple[PlaneKey, Prompts, ModelVersion, Cleaning]
"""What is asked: plane, prompts, model version, and how masks are cleaned."""


class Following:
    """Remembers what is predicted for the queue; nothing of another plane or another model."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: dict[Prompts, NewObject] = {}
        self._made_by: tuple[PlaneKey, ModelVersion, Cleaning] | None = None

    @property
    def objects(self) -> tuple[NewObject, ...]:
        """The predicted objects that follow the pending one, in their order."""
        current = self._document.current
        if current is None or self._made_by is None or current.plane != self._made_by[0]:
            return ()
        queued = dict.fromkeys(self._document.queue[1:])
        return tuple(self._found[each] for each in queued if each in self._found)

    def known(
        self, plane: PlaneKey, version: ModelVersion, clean: Cleaning
    ) -> dict[Prompts, NewObject]:
        """Return what is predicted so far, to be read and added to."""
        if self._made_by != (plane, version, clean):
            self._made_by, self._found = (plane, version, clean), {}
        return self._found


class Preview:
    """Predicts what a click would give, one position at a time, and remembers the answer.

    Attributes
    ----------
    wanted
        Whether to predict at all; None: where a prompt takes 40 ms at most.
    """

    def __init__(self, runner: Runner, changed: Callable[[], object]) -> None:
        self._slot, self._changed = Slot(runner), changed
        self.wanted: bool | None = None
        self._times: list[float] = []
        self._asked: Question | None = None
        self._answer: Prediction | None = None

    @property
    def is_wanted(self) -> bool:
        """True if masks are shown before the click."""
        if self.wanted is not None:
            return self.wanted
        return bool(self._times) and median(self._times) <= _FAST

    @property
    def shown(self) -> NewObject | None:
        """The best mask under the mouse, None if there is none."""
        if self._answer is None or self._asked is None:
            return None
        return NewObject.best_of(self._asked[1], self._answer, self._asked[2])

    def timed(self, work: Generator[Any, None, _T]) -> Generator[Any, None, _T]:
        """Predict, and take note how long it takes without the wait for who shows the result."""
        began = perf_counter()
        result = yield from work
        self.note_time(perf_counter() - began)
        return result

    def note_time(self, seconds: float) -> None:
        """Take note how long a prompt took."""
        self._times = [*self._times, seconds][-_REMEMBERED:]

    def forget_times(self) -> None:
        """Begin to measure again, as for another model."""
        self._times.clear()

    def ask(self, question: Question, work: Generator[Any, None, Prediction | None]) -> None:
        """Predict in place of what was asked before; the mask of that is shown until then."""
        if question == self._asked:
            return
        self._asked = question

        def done(answer: Prediction | None) -> None:
            self._answer = answer
            self._changed()

        self._slot.start(work, on_done=done, on_error=lambda _: self.stop())

    def stop(self) -> None:
        """Show nothing under the mouse."""
        self._slot.stop()
        was_shown, self._asked, self._answer = self._answer is not None, None, None
        if was_shown:
            self._changed()

    def answer(self, question: Question) -> Prediction | None:
        """Return what was predicted for the same question, None if nothing was."""
        return self._answer if question == self._asked and not self._slot.is_busy else None


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
