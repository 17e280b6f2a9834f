"""The steps that can be undone and redone, bounded in number."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from napari_peftsam.annotation.edits import Step

__all__ = ["History"]


class History:
    """Two stacks of steps; it knows nothing about what they do.

    Parameters
    ----------
    depth
        How many steps can be undone; older ones are forgotten.
    """

    def __init__(self, depth: int = 200) -> None:
        self._done: deque[Step] = deque(maxlen=depth)
        self._undone: list[Step] = []

    def __len__(self) -> int:
        """Return the number of steps that can be undone."""
        return len(self._done)

    @property
    def undo_label(self) -> str | None:
        """What the next undo takes back, None if there is nothing."""
        return self._done[-1].label if self._done else None

    @property
    def redo_label(self) -> str | None:
        """What the next redo does again, None if there is nothing."""
        return self._undone[-1].label if self._undone else None

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be undone, oldest first."""
        return tuple(step.label for step in self._done)

    def push(self, step: Step) -> None:
        """Add a step that was just done; what was undone before can no longer be redone."""
        self._done.append(step)
        self._undone.clear()

    def step_back(self) -> Step | None:
        """Move on to the step before and return the one to undo."""
        if not self._done:
            return None
        self._undone.append(self._done.pop())
        return self._undone[-1]

    def step_forward(self) -> Step | None:
        """Move on to the step after and return the one to do again."""
        if not self._undone:
            return None
        self._done.append(self._undone.pop())
        return self._done[-1]

    def map(self, change: Callable[[Step], Step | None]) -> None:
        """Replace every step, or drop it where `change` returns None."""
        done = [s for s in map(change, self._done) if s is not None]
        self._undone = [s for s in map(change, self._undone) if s is not None]
        self._done = deque(done, maxlen=self._done.maxlen)

    def clear(self) -> None:
        """Forget all steps."""
        self._done.clear()
        self._undone.clear()
