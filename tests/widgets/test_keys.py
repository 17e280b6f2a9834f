"""The plugin's keys beside napari's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from napari.settings import get_settings
from napari.utils.key_bindings import coerce_keybinding
from napari.utils.shortcuts import default_shortcuts

from napari_peftsam.widgets._keys import KEYS, Key
from tests.widgets._annotate_cases import Bench, blobs

Open = Callable[..., Bench]


def napari_actions(key: Key) -> set[str]:
    """Return the actions of napari that have this key by default."""
    binding = coerce_keybinding(key.binding)
    return {name for name, bindings in default_shortcuts.items() if binding in bindings}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_no_key_takes_one_of_naparis_unawares(key: Key) -> None:
    assert napari_actions(key) == set(key.overrides)


@pytest.mark.parametrize(
    "key", [k for k in KEYS.values() if len(k.binding) == 1], ids=lambda k: k.binding
)
def test_letters_are_free_in_the_viewer_and_all_layers(bench: Open, key: Key) -> None:
    b = bench(blobs(), ready=False)
    b.viewer.window.remove_dock_widget(b.dock)
    binding = coerce_keybinding(key.binding)
    layers = [b.viewer, b.viewer.add_points(), b.viewer.add_shapes(), *b.viewer.layers]
    for provider in layers:
        assert binding not in provider.keymap
        for cls in type(provider).__mro__:
            assert binding not in getattr(cls, "class_keymap", {})
    in_use = get_settings().shortcuts.shortcuts.values()
    assert not any(coerce_keybinding(shortcut) == binding for each in in_use for shortcut in each)


def test_no_key_is_given_twice() -> None:
    bindings = [str(coerce_keybinding(key.binding)) for key in KEYS.values()]
    assert len(set(bindings)) == len(bindings)


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_the_cheat_sheet_has_all_keys(key: Key) -> None:
    page = Path(__file__).parents[2] / "docs" / "annotating.md"
    assert f"`{key.shown}`" in page.read_text(encoding="utf-8")


def test_buttons_show_their_keys(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    view = b.view
    for action, button in (("point", view.point), ("box", view.box), ("accept", view.accept)):
        assert button.text().endswith(KEYS[action].shown)


def test_the_key_of_a_tool_always_chooses_it(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    tools = []
    for key in "WWQQ":
        b.press(key)
        tools.append(b.layers.tools.tool)
    assert tools == ["box", "box", "point", "point"]


def test_all_keys_are_given_back_when_the_dock_goes(bench: Open) -> None:
    b = bench(ready=False)
    b.viewer.window.remove_dock_widget(b.dock)
    assert not b.viewer.keymap


def test_keys_of_the_user_come_back(bench: Open) -> None:
    b = bench(ready=False)
    b.viewer.window.remove_dock_widget(b.dock)
    own = lambda viewer: None  # noqa: E731
    b.viewer.bind_key("Q", own)
    again = type(b.dock)(b.viewer)
    holder = b.viewer.window.add_dock_widget(again, name="Annotate 2")
    assert b.viewer.keymap[coerce_keybinding("Q")] is not own
    b.viewer.window.remove_dock_widget(holder)
    assert b.viewer.keymap[coerce_keybinding("Q")] is own
