"""Windows for what is needed now and then: finetuning, adapters, models, export, keys."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, cast

from app_model.backends.qt import QKeyBindingSequence, qkeysequence2modelkeybinding
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialog,
    QDockWidget,
    QGridLayout,
    QKeySequenceEdit,
    QLabel,
    QMainWindow,
    QMenu,
    QPushButton,
    QWidget,
)

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.widgets._parts import beside, push_button, stacked, text_label, tool_button
from napari_peftsam.widgets.keys import DEFAULT_KEYS, KEYS, change_keys

if TYPE_CHECKING:
    from napari_peftsam.widgets._dock import Dock

PANELS = {"Finetune": 420, "Adapters": 300, "Models": 480, "Export": 180}
"""Titles of the panels, and how high they open in pixels."""

_WIDTH = 380
_LAYER_DOCKS = ("layer list", "layer controls")  # napari's names


def show_panel(dock: Dock, title: str) -> None:
    """Bring a panel of the viewer that a dock is in to the front.

    Closing it hides it: a training goes on, and what was entered stays.
    """
    window = _panel(dock, title)
    window.show()
    window.raise_()


def panel_dock(dock: Dock, title: str) -> Dock:
    """Return the dock in a panel, which need not be in sight."""
    layout = _panel(dock, title).layout()
    item = None if layout is None else layout.itemAt(0)
    assert item is not None, "it was put there"
    return cast("Dock", item.widget())


def show_keys(dock: Dock) -> None:
    """Show a table of all keys, where they can be changed; Escape closes it."""
    KeysWindow(_main_window(dock)).show()


def show_layer_docks(dock: Dock, shown: bool) -> None:
    """Show napari's own docks of the window that a dock is in, or fold them."""
    window = _main_window(dock)
    for name in _LAYER_DOCKS:
        found = window.findChild(QDockWidget, name)
        if found is not None:
            found.setVisible(shown)


def _panel(dock: Dock, title: str) -> QDialog:
    """Return a panel, made at the first call."""
    window = _main_window(dock)
    name = f"napari-peftsam {title}"
    found: QDialog | None = window.findChild(QDialog, name)
    if found is None:
        module = import_module(f"napari_peftsam.widgets.{title.lower()}")  # some import much
        inner = getattr(module, f"{title}Dock")(dock.viewer_session.viewer)
        found = QDialog(window, Qt.WindowType.Tool)
        found.setObjectName(name)
        found.setWindowTitle(title)
        stacked(inner, inside=found)
        found.resize(_WIDTH, PANELS[title])
    return found


def _main_window(dock: Dock) -> QWidget:
    """Return the main window that a dock is in, also while it floats; else the dock."""
    found: QWidget = dock
    while (parent := found.parentWidget()) is not None:
        found = parent
    return found if isinstance(found, QMainWindow) else dock


_FIXED = "keys"  # napari's bindings do not know it
_MOUSE = (("right button, Shift", "Not on the object"), ("double click", "Reopen an object"))
_FIELD = 120  # pixels


class KeysWindow(QDialog):
    """A row per key: what it does, the key in a field that takes another one, and its default.

    Attributes
    ----------
    fields, defaults
        Fields of keys, and buttons that put the default ones back, by action.
    reset
        The button that does so for all.
    message
        Why the last key was refused.
    """

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle("Keys")
        self.fields: dict[str, QKeySequenceEdit] = {}
        self.defaults = {a: tool_button("↺", "The default key") for a in KEYS if a != _FIXED}
        self.reset, self.message = push_button("All default keys"), text_label()
        close = QPushButton("Close")
        close.setDefault(True)
        grid, half = QGridLayout(), -(-(len(KEYS) + len(_MOUSE)) // 2)
        grid.setHorizontalSpacing(12)
        for number, (action, key) in enumerate(KEYS.items()):
            row, column = number % half, number // half * 3
            grid.addWidget(self._field(action), row, column)
            if action in self.defaults:
                grid.addWidget(self.defaults[action], row, column + 1)
                self.defaults[action].clicked.connect(partial(self._put_back, (action,)))
            grid.addWidget(QLabel(key.does), row, column + 2)
        for number, (shown, does) in enumerate(_MOUSE, start=len(KEYS)):
            grid.addWidget(QLabel(f"<b>{shown}</b>"), number % half, 3)
            grid.addWidget(QLabel(does), number % half, 5)
        told = text_label("Click on a key, then press another one.")
        buttons = beside(told, self.reset, close, stretch=0)
        stacked(grid, self.message, buttons, inside=self).setContentsMargins(16, 12, 16, 12)
        self.reset.clicked.connect(partial(self._put_back, tuple(self.fields)))
        close.clicked.connect(self.close)
        close.setFocus()  # Escape closes the window until a key is clicked on
        self._show()

    def _field(self, action: str) -> QWidget:
        if action == _FIXED:
            return QLabel(f"<b>{KEYS[action].shown}</b>")
        self.fields[action] = field = QKeySequenceEdit()
        field.setFixedWidth(_FIELD)
        field.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        if hasattr(field, "setMaximumSequenceLength"):  # since Qt 6.5
            field.setMaximumSequenceLength(1)
        field.editingFinished.connect(partial(self._entered, action))
        return field

    def _entered(self, action: str) -> None:
        """Take the key that was pressed, unless it is the same."""
        sequence = self.fields[action].keySequence()
        given = qkeysequence2modelkeybinding(sequence)
        if not sequence.isEmpty() and not KEYS[action].same_as(given):
            self._change({action: str(given).partition(" ")[0]})  # of several the first
        self._show()

    def _put_back(self, actions: tuple[str, ...]) -> None:
        self._change({action: DEFAULT_KEYS[action].binding for action in actions})
        self._show()

    def _change(self, bindings: dict[str, str]) -> None:
        try:
            change_keys(bindings, self._menus())
        except ConfigurationError as error:
            self.message.setText(f"⚠ {error}")
        else:
            self.message.setText("")

    def _show(self) -> None:
        """Show the keys in use."""
        for action, field in self.fields.items():
            binding, default = KEYS[action].binding, DEFAULT_KEYS[action].binding
            field.setKeySequence(QKeyBindingSequence(coerce_keybinding(binding)))
            self.defaults[action].setEnabled(binding != default)

    def _menus(self) -> dict[str, str]:
        """Return the actions of the main window's menus by their keys."""
        window = self.parentWidget()
        menus = [] if window is None else window.findChildren(QMenu)
        return {
            str(qkeysequence2modelkeybinding(key)): action.text().replace("&", "")
            for menu in menus
            for action in menu.actions()
            for key in action.shortcuts()
        }
