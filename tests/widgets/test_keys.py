"""The plugin's keys beside napari's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import napari
import pytest
from napari.settings import get_plugin_settings, get_settings
from napari.utils.key_bindings import coerce_keybinding
from napari.utils.shortcuts import default_shortcuts
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_peftsam.widgets.keys import DEFAULT_KEYS, KEYS, Key, load_keys
from napari_peftsam.widgets.panels import KeysWindow, panel_dock, show_keys
from tests.widgets._annotate_cases import Bench, blobs, settle
from tests.widgets.test_real_events import Canvas

Open = Callable[..., Bench]
Qt_ = Qt.Key
SHIFT, CONTROL = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier
NO = Qt.KeyboardModifier.NoModifier


def napari_actions(key: Key) -> set[str]:
    """Return the actions of napari that have this key by default."""
    binding = coerce_keybinding(key.binding)
    return {name for name, bindings in default_shortcuts.items() if binding in bindings}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_no_key_takes_one_of_naparis_unawares(key: Key) -> None:
    assert napari_actions(key) == set(key.overrides)


def test_letters_are_free_in_the_viewer_and_all_layers(bench: Open) -> None:
    b = bench(blobs(), ready=False)
    b.viewer.window.remove_dock_widget(b.dock)
    letters = {coerce_keybinding(k.binding) for k in KEYS.values() if len(k.binding) == 1}
    layers = [b.viewer, b.viewer.add_points(), b.viewer.add_shapes(), *b.viewer.layers]
    for provider in layers:
        assert letters.isdisjoint(provider.keymap)
        for cls in type(provider).__mro__:
            assert letters.isdisjoint(getattr(cls, "class_keymap", {}))
    in_use = get_settings().shortcuts.shortcuts.values()
    assert letters.isdisjoint(coerce_keybinding(shortcut) for each in in_use for shortcut in each)


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


# --- other keys ---------------------------------------------------------------------------


class Keys:
    """A shown viewer with the list of keys, and what a person does there."""

    def __init__(self, b: Bench) -> None:
        self.b, self.canvas = b, Canvas(b)
        self.window = opened(b)

    def change(self, action: str, key: Qt.Key, held: Qt.KeyboardModifier = NO) -> None:
        QTest.keyClick(self.window.fields[action], key, held)
        settle()

    def press(self, key: Qt.Key, held: Qt.KeyboardModifier = NO) -> None:
        QTest.keyClick(self.canvas.widget, key, held)
        settle()

    @property
    def tool(self) -> str:
        return str(self.b.layers.tools.tool)


def opened(b: Bench) -> KeysWindow:
    show_keys(b.dock)
    settle()
    return next(w for w in QApplication.topLevelWidgets() if isinstance(w, KeysWindow))


@pytest.fixture
def keys(
    make_napari_viewer: Callable[..., napari.Viewer],
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Keys]:
    viewer = make_napari_viewer(show=True)
    monkeypatch.setattr(get_plugin_settings("napari-peftsam").keyboard, "changed", "")
    yield Keys(Bench(viewer, tiny_checkpoint, [blobs()], ready=False))
    KEYS.update(DEFAULT_KEYS)


def test_a_changed_key_counts_at_once_and_stands_on_its_button(keys: Keys) -> None:
    view = keys.b.view
    keys.change("box", Qt_.Key_B, SHIFT)
    assert keys.window.message.text() == ""
    assert view.box.text() == "▭ Box  ⇧B"
    assert view.box.toolTip() == "Drag a box around each object (⇧B)"
    keys.press(Qt_.Key_W)
    assert keys.tool == "point"
    keys.press(Qt_.Key_B, SHIFT)
    assert keys.tool == "box"


def test_a_changed_key_is_there_the_next_time(keys: Keys) -> None:
    keys.change("box", Qt_.Key_B, SHIFT)
    keys.change("lasso", Qt_.Key_W)
    assert get_plugin_settings("napari-peftsam").keyboard.changed == "box=Shift+B lasso=W"
    keys.b.viewer.window.remove_dock_widget(keys.b.dock)
    KEYS.update(DEFAULT_KEYS)  # another start
    again = type(keys.b.dock)(keys.b.viewer)
    keys.b.viewer.window.add_dock_widget(again, name="Annotate 2")
    assert again.view.box.text() == "▭ Box  ⇧B"
    keys.press(Qt_.Key_W)
    assert again.layers.tools.tool == "lasso"


TAKEN = (
        (Qt_.Key_Q, NO, "Q is taken by “Point tool: click on objects”: choose another key"),
        (Qt_.Key_E, NO, "E is taken by “napari: activate labels erase mode”: choose another key"),
        (Qt_.Key_G, CONTROL, "Ctrl+G is taken by “napari: toggle grid”: choose another key"),
        (Qt_.Key_O, CONTROL, "Ctrl+O is taken by “Open File(s)...”: choose another key"),
        (Qt_.Key_Exclam, SHIFT, "napari cannot tell ⇧1 from others: choose a letter or F-key"),
        (Qt_.Key_Odiaeresis, NO, "napari cannot tell this key from others: choose a letter or F-key"),  # noqa: E501
)  # fmt: skip


def test_a_key_that_is_taken_is_refused_with_its_owner(keys: Keys) -> None:
    for key, held, said in TAKEN:
        keys.change("box", key, held)
        assert keys.window.message.text() == f"⚠ {said}"
        assert keys.window.fields["box"].keySequence().toString() == "W"
        keys.press(Qt_.Key_W)
        assert keys.tool == "box"
        keys.press(Qt_.Key_Q)
        assert keys.tool == "point"


def test_default_keys_come_back_one_by_one_or_all(keys: Keys) -> None:
    keys.change("box", Qt_.Key_B, SHIFT)
    keys.change("lasso", Qt_.Key_W)
    default = keys.window.defaults["box"]
    QTest.mouseClick(default, Qt.MouseButton.LeftButton)
    assert "W is taken by “Lasso" in keys.window.message.text()
    QTest.mouseClick(keys.window.reset, Qt.MouseButton.LeftButton)
    assert KEYS == DEFAULT_KEYS
    assert not default.isEnabled()
    keys.press(Qt_.Key_W)
    assert keys.tool == "box"


def test_the_panel_of_finetuning_follows(keys: Keys) -> None:
    panel = panel_dock(keys.b.dock, "Finetune")
    keys.change("finetune", Qt_.Key_F5)
    assert panel.view.train.text().endswith("F5")
    assert keys.b.view.training.train.text().endswith("F5")
    bound = keys.b.viewer.keymap
    assert coerce_keybinding("F5") in bound
    assert coerce_keybinding("K") not in bound


PREFERENCES = {
    "box=Shift+B": {"box": "Shift+B"},
    "box=Q point=W": {"box": "Q", "point": "W"},
    "box=Q": {},
    "box=Q lasso=Shift+B": {"lasso": "Shift+B"},
    "nothing=A box= = box=Nonsense": {},
}


def test_keys_of_the_preferences_are_used_where_they_are_free(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text, used in PREFERENCES.items():
        KEYS.update(DEFAULT_KEYS)
        monkeypatch.setattr(get_plugin_settings("napari-peftsam").keyboard, "changed", text)
        load_keys()
        assert {a: k.binding for a, k in KEYS.items() if k != DEFAULT_KEYS[a]} == used, text
