"""States and signals of the answers to prompts, and what a `PromptController` needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from psygnal import Signal, SignalGroup

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.document import Document, PlaneKey
    from napari_peftsam.types import Window


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
    queue_predicted = Signal()
    """There are other masks for the objects that follow the pending one."""
    preview_changed = Signal()
    """There is another mask under the mouse, or none."""
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


class ShownQueue(ShownPlane, Protocol):
    """The plane that a viewer shows, of a queue of images."""

    @property
    def ahead(self) -> tuple[PlaneKey, ...]:
        """The planes that are probably shown next."""
