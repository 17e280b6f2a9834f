"""The keys of the docks, chosen beside napari's own, and how they are bound and changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from inspect import isgeneratorfunction
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakSet

from napari.settings import get_settings
from napari.utils.key_bindings import coerce_keybinding
from psygnal import SignalInstance
from qtpy.QtWidgets import QAbstractButton, QWidget

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.widgets._settings import keep_keys, plugin_settings

if TYPE_CHECKING:
    import napari
    from app_model.types import KeyBinding
    from napari.layers import Layer

_Button = TypeVar("_Button", bound=QAbstractButton)
_NAMED = re.compile(r"F\d+|Enter|Escape|Delete|Backspace|Insert|Home|End|PageUp|PageDown")
_SHORT = {"Enter": "↵", "Escape": "Esc", "Delete": "Del", "PageUp": "PgUp", "PageDown": "PgDn"}


@dataclass(frozen=True)
class Key:
    """One key of the plugin.

    Attributes
    ----------
    binding
        As napari spells it.
    does
        What it does, in a few words.
    overrides
        napari's actions that it replaces on the plugin's own prompt layers, on purpose.
    """

    binding: str
    does: str
    overrides: tuple[str, ...] = ()

    def same_as(self, binding: KeyBinding) -> bool:
        """Return True if this is its key."""
        return bool(coerce_keybinding(self.binding) == binding)

    @property
    def shown(self) -> str:
        """The key as it stands on the button."""
        *modifiers, key = str(coerce_keybinding(self.binding)).split("+")
        if (modifiers, key) == (["Shift"], "/"):
            return "?"
        held = "".join(f"{m}+" for m in modifiers if m != "Shift")
        return held + "⇧" * ("Shift" in modifiers) + _SHORT.get(key, key)


# Letters that napari 0.9 leaves free on the viewer and on image, labels, points and
# shapes layers: G, H, J, K, N, Q, U, W. Tab moves Qt's focus before napari sees it.
_FINISH = "napari:finish_drawing_shape"
_DELETE = ("napari:delete_selected_points", "napari:delete_selected_shapes")
DEFAULT_KEYS: Mapping[str, Key] = {
    "point": Key("Q", "Point tool: click on objects"),
    "box": Key("W", "Box tool: drag a box around each object"),
    "lasso": Key("Shift-W", "Lasso: draw a line around each object"),
    "scribble": Key("Shift-Q", "Scribble: draw a line on each object"),
    "sign": Key("N", "The next points are on the object, or not on it"),
    "next_candidate": Key("G", "Next candidate"),
    "previous_candidate": Key("Shift-G", "Previous candidate"),
    "accept": Key(
        "Enter", "Accept the mask, or the proposal", (_FINISH, "napari:complete_polygon")
    ),
    "accept_all": Key("Shift-Enter", "Accept all that are queued, or all proposals shown"),
    "replace": Key("Alt-Enter", "Accept in place of what it overlaps"),
    "cut_out": Key("Alt-Shift-Enter", "Accept, and cut it out of the others"),
    "discard": Key("Escape", "Discard the mask", (_FINISH, "napari:reset_polygon")),
    "discard_all": Key("Shift-Escape", "Discard all that are queued"),
    "remove_last": Key("Delete", "Take the last prompt back, or delete objects", _DELETE),
    "split": Key("Shift-X", "Split the selected object where it is narrow"),
    "cut": Key("Shift-K", "Cut: draw a line across an object, or click on each part"),
    "merge": Key("Shift-U", "Merge the selected objects"),
    "grow": Key("Shift-E", "Grow the selected objects by a pixel"),
    "shrink": Key("Shift-C", "Shrink the selected objects by a pixel"),
    "continue_objects": Key("Shift-S", "Continue objects from the plane before"),
    "suggest": Key("U", "Suggest the rest, or stop"),
    "next_proposal": Key(".", "Next proposal: the least certain"),
    "nearest_proposal": Key(",", "The proposal next to the mouse"),
    "nothing_here": Key("Shift-N", "Reject the proposal: nothing is here"),
    "wrong_outline": Key("Shift-O", "Reject the proposal: another outline"),
    "previous_image": Key("PageUp", "Previous image"),
    "next_image": Key("PageDown", "Next image"),
    "complete": Key("Shift-PageDown", "Image done: next one that is not"),
    "undo": Key("Control-Z", "Undo"),
    "redo": Key("Control-Shift-Z", "Redo"),
    "hide": Key("J", "Hide all masks while it is held"),
    "contours": Key("Shift-J", "Objects as contours, or filled"),
    "finetune": Key("K", "Train, or stop the training"),
    "before": Key("H", "Before the last training, or after it"),
    "keys": Key("Shift-/", "This list"),
}
"""The keys by action; `finetune` and `before` belong to the finetuning dock."""
KEYS = dict(DEFAULT_KEYS)
"""The keys in use: the default ones, but for those that the user has changed."""
keys_changed = SignalInstance((), name="keys_changed")
"""`KEYS` are others: bind them, and show them on the buttons."""
_bound_here: WeakSet[Callable[..., Any]] = WeakSet()


def load_keys() -> None:
    """Use the keys of the preferences; those that are taken or unknown stay as by default."""
    text = plugin_settings().keys
    if text is None:  # napari does not know the plugin
        return
    pairs = (each.partition("=") for each in text.split())
    changed = {action: binding for action, _, binding in pairs if action in DEFAULT_KEYS}
    while refused := next((a for a in changed if _why_not(a, _with(DEFAULT_KEYS, changed))), None):
        del changed[refused]
    KEYS.update(_with(DEFAULT_KEYS, changed))


def change_keys(bindings: Mapping[str, str], menus: Mapping[str, str] | None = None) -> None:
    """Give actions other keys, from now on.

    Parameters
    ----------
    bindings
        The keys by action, as napari spells them.
    menus
        Actions of menus by their keys, which are taken as well.

    Raises
    ------
    ConfigurationError
        If napari does not get a key, or it is taken; the error names what has it.
    """
    keys = _with(KEYS, bindings)
    for action in bindings:
        if why_not := _why_not(action, keys, menus or {}):
            raise ConfigurationError(why_not)
    KEYS.update(keys)
    changed = {a: k.binding for a, k in KEYS.items() if k.binding != DEFAULT_KEYS[a].binding}
    keep_keys(" ".join(f"{action}={binding}" for action, binding in changed.items()))
    keys_changed.emit()


def _with(keys: Mapping[str, Key], bindings: Mapping[str, str]) -> dict[str, Key]:
    return {**keys, **{a: replace(keys[a], binding=binding) for a, binding in bindings.items()}}


def _why_not(action: str, keys: Mapping[str, Key], menus: Mapping[str, str] | None = None) -> str:
    """Return why an action cannot have its key, empty if it can."""
    try:
        wanted = coerce_keybinding(keys[action].binding)
    except ValueError:
        return f"{keys[action].binding} is no key: choose another one"
    shown, spelled = keys[action].shown, str(wanted)
    *modifiers, key = spelled.split("+")
    is_plain = len(key) == 1 and (key.isalpha() or "Shift" not in modifiers)
    if not (is_plain or _NAMED.fullmatch(key)):
        return f"napari cannot tell {shown or 'this key'} from others: choose a letter or F-key"
    owners = (k.does for a, k in keys.items() if a != action and k.same_as(wanted))
    owner = next(owners, "")
    if not owner and DEFAULT_KEYS[action].same_as(wanted):
        return ""  # it overrides napari's on purpose
    for name, given in get_settings().shortcuts.shortcuts.items():
        if not owner and wanted in given and name not in keys[action].overrides:
            owner = f"napari: {name.partition(':')[2].replace('_', ' ')}"
    owner = owner or (menus or {}).get(spelled, "")
    return f"{shown} is taken by “{owner}”: choose another key" if owner else ""


def keyed(button: _Button, action: str, text: str, tip: str) -> _Button:
    """Show the key of an action in place of ``{}`` on a button and in its tip."""
    button.setProperty("keyed", [action, text, tip])
    _show_key(button)
    return button


def show_changed_keys(root: QWidget) -> None:
    """Show the present keys on all buttons inside a widget."""
    for button in root.findChildren(QAbstractButton):
        _show_key(button)


def _show_key(button: QAbstractButton) -> None:
    if given := button.property("keyed"):
        action, text, tip = given
        button.setText(text.format(KEYS[action].shown))
        button.setToolTip(tip.format(KEYS[action].shown))


_parsed = cache(coerce_keybinding)  # with every image, some 500 times


class KeyBindings:
    """Keys bound on a viewer and on layers (whose own bindings would win) until `release`."""

    def __init__(self) -> None:
        self._bound: list[tuple[Any, Any, Any]] = []

    def bind(
        self,
        providers: Sequence[napari.Viewer | Layer],
        actions: Mapping[str, Callable[[], object]],
    ) -> None:
        """Call these functions at the keys of their actions, in a viewer or in layers.

        Another dock that has bound an action keeps it.
        """
        for action, function in actions.items():
            key = _parsed(KEYS[action].binding)
            for provider in providers:
                if provider.keymap.get(key) not in _bound_here:
                    self._bind(provider, key, function)

    def release(self) -> None:
        """Give the keys back to whom they belonged."""
        for provider, binding, before in reversed(self._bound):
            provider.bind_key(binding, None)
            if before is not None:
                provider.bind_key(binding, before)
        self._bound.clear()

    def _bind(self, provider: Any, binding: Any, function: Callable[[], object]) -> None:
        def call(_: object) -> object:
            return function()

        def hold(_: object) -> Iterator[None]:
            yield from cast("Callable[[], Iterator[None]]", function)()

        is_held = isgeneratorfunction(function)  # which goes on when the key is released
        before = provider.bind_key(binding, None)
        provider.bind_key(binding, bound := hold if is_held else call)
        _bound_here.add(bound)
        self._bound.append((provider, binding, before))
