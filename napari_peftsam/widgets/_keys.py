"""The keys of the docks, chosen beside napari's own, and how they are bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    overrides
        napari's actions that it replaces on the plugin's own prompt layers, on purpose.
    """

    binding: str
    shown: str
    overrides: tuple[str, ...] = ()


# Letters that napari 0.9 leaves free on the viewer and on image, labels, points and
# shapes layers: G, H, J, K, N, Q, U, W. Tab moves Qt's focus before napari sees it.
_FINISH = "napari:finish_drawing_shape"
_DELETE = ("napari:delete_selected_points", "napari:delete_selected_shapes")
KEYS: Mapping[str, Key] = {
    "point": Key("Q", "Q"),
    "box": Key("W", "W"),
    "lasso": Key("Shift-W", "⇧W"),
    "scribble": Key("Shift-Q", "⇧Q"),
    "sign": Key("N", "N"),
    "next_candidate": Key("G", "G"),
    "previous_candidate": Key("Shift-G", "⇧G"),
    "accept": Key("Enter", "↵", (_FINISH, "napari:complete_polygon")),
    "accept_all": Key("Shift-Enter", "⇧↵"),
    "replace": Key("Alt-Enter", "Alt+↵"),
    "cut_out": Key("Alt-Shift-Enter", "Alt+⇧↵"),
    "discard": Key("Escape", "Esc", (_FINISH, "napari:reset_polygon")),
    "discard_all": Key("Shift-Escape", "⇧Esc"),
    "remove_last": Key("Delete", "Del", _DELETE),
    "split": Key("Shift-X", "⇧X"),
    "cut": Key("U", "U"),
    "merge": Key("Shift-U", "⇧U"),
    "grow": Key("Alt-Up", "Alt+↑"),
    "shrink": Key("Alt-Down", "Alt+↓"),
    "continue_objects": Key("Shift-S", "⇧S"),
    "previous_image": Key("PageUp", "PgUp"),
    "next_image": Key("PageDown", "PgDn"),
    "complete": Key("Shift-PageDown", "⇧PgDn"),
    "undo": Key("Control-Z", "Ctrl+Z"),
    "redo": Key("Control-Shift-Z", "Ctrl+⇧Z"),
    "hide": Key("J", "J"),
    "finetune": Key("K", "K"),
    "before": Key("H", "H"),
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
            return function()  # a generator goes on when the key is released

        before = provider.bind_key(binding, None)
        provider.bind_key(binding, call)
        self._bound.append((provider, binding, before))
