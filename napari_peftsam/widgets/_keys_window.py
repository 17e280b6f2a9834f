"""The list of all keys, where the user changes them."""

from __future__ import annotations

from functools import partial

from app_model.backends.qt import QKeyBindingSequence, qkeysequence2modelkeybinding
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QDialog,
    QGridLayout,
    QKeySequenceEdit,
    QLabel,
    QMenu,
    QPushButton,
    QWidget,
)

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.widgets._keys import DEFAULT_KEYS, KEYS, change_keys
from napari_peftsam.widgets._parts import beside, push_button, stacked, text_label, tool_button

_FIXED = "keys"  # napari's bindings do not know it
_MOUSE = (("right button, Shift", "Not on the object"), ("double click", "Reopen an object"))
_WIDTH = 120  # pixels


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
        field.setFixedWidth(_WIDTH)
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
