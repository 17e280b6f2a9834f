"""Windows for what is needed now and then: finetuning, adapters, models, export."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog, QDockWidget, QMainWindow, QWidget

from napari_peftsam.widgets._keys_window import KeysWindow
from napari_peftsam.widgets._parts import stacked

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
