"""The keys of the docks, chosen beside napari's own, and how they are bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import isgeneratorfunction
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import napari
    from napari.layers import Layer

__all__ = ["KEYS", "Key", "KeyBindings"]


@dataclass(frozen=True)
class Key:
    """One key of the plugin.

    Attributes
    ----------
    binding
        As napari spells it.
    shown
        As it stands on the button.
    does
        What it does, in a few words.
    overrides
        napari's actions that it replaces on the plugin's own prompt layers, on purpose.
    """

    binding: str
    shown: str
    does: str
    overrides: tuple[str, ...] = ()


# Letters that napari 0.9 leaves free on the viewer and on image, labels, points and
# shapes layers: G, H, J, K, N, Q, U, W. Tab moves Qt's focus before napari sees it.
_FINISH = "napari:finish_drawing_shape"
_DELETE = ("napari:delete_selected_points", "napari:delete_selected_shapes")
KEYS: Mapping[str, Key] = {
    "point": Key("Q", "Q", "Point tool: click on objects"),
    "box": Key("W", "W", "Box tool: drag a box around each object"),
    "lasso": Key("Shift-W", "⇧W", "Lasso: draw a line around each object"),
    "scribble": Key("Shift-Q", "⇧Q", "Scribble: draw a line on each object"),
    "sign": Key("N", "N", "The next points are on the object, or not on it"),
    "next_candidate": Key("G", "G", "Next candidate"),
    "previous_candidate": Key("Shift-G", "⇧G", "Previous candidate"),
    "accept": Key("Enter", "↵", "Accept the mask", (_FINISH, "napari:complete_polygon")),
    "accept_all": Key("Shift-Enter", "⇧↵", "Accept all that are queued"),
    "replace": Key("Alt-Enter", "Alt+↵", "Accept in place of what it overlaps"),
    "cut_out": Key("Alt-Shift-Enter", "Alt+⇧↵", "Accept, and cut it out of the others"),
    "discard": Key("Escape", "Esc", "Discard the mask", (_FINISH, "napari:reset_polygon")),
    "discard_all": Key("Shift-Escape", "⇧Esc", "Discard all that are queued"),
    "remove_last": Key("Delete", "Del", "Take the last prompt back, or delete objects", _DELETE),
    "split": Key("Shift-X", "⇧X", "Split the selected object where it is narrow"),
    "cut": Key("U", "U", "Cut: draw a line across an object"),
    "merge": Key("Shift-U", "⇧U", "Merge the selected objects"),
    "grow": Key("Shift-E", "⇧E", "Grow the selected objects by a pixel"),
    "shrink": Key("Shift-C", "⇧C", "Shrink the selected objects by a pixel"),
    "continue_objects": Key("Shift-S", "⇧S", "Continue objects from the plane before"),
    "previous_image": Key("PageUp", "PgUp", "Previous image"),
    "next_image": Key("PageDown", "PgDn", "Next image"),
    "complete": Key("Shift-PageDown", "⇧PgDn", "Image done: next one that is not"),
    "undo": Key("Control-Z", "Ctrl+Z", "Undo"),
    "redo": Key("Control-Shift-Z", "Ctrl+⇧Z", "Redo"),
    "hide": Key("J", "J", "Hide all masks while it is held"),
    "finetune": Key("K", "K", "Train, or stop the training"),
    "before": Key("H", "H", "Before the last training, or after it"),
    "keys": Key("Shift-/", "?", "This list"),
}
"""The keys by action; `finetune` and `before` belong to the finetuning dock."""


class KeyBindings:
    """Keys bound on a viewer and on layers (whose own bindings would win) until `release`."""

    def __init__(self) -> None:
        self._bound: list[tuple[Any, str, Any]] = []

    def bind(
        self,
        providers: Sequence[napari.Viewer | Layer],
        actions: Mapping[str, Callable[[], object]],
    ) -> None:
        """Call these functions at the keys of their actions, in a viewer or in layers."""
        for action, function in actions.items():
            for provider in providers:
                self._bind(provider, KEYS[action].binding, function)

    def release(self) -> None:
        """Give the keys back to whom they belonged."""
        for provider, binding, before in reversed(self._bound):
            provider.bind_key(binding, None)
            if before is not None:
                provider.bind_key(binding, before)
        self._bound.clear()

    def _bind(self, provider: Any, binding: str, function: Callable[[], object]) -> None:
        def call(_: object) -> object:
            return function()

        def hold(_: object) -> Iterator[None]:
            yield from cast("Callable[[], Iterator[None]]", function)()

        is_held = isgeneratorfunction(function)  # which goes on when the key is released
        before = provider.bind_key(binding, None)
        provider.bind_key(binding, hold if is_held else call)
        self._bound.append((provider, binding, before))
