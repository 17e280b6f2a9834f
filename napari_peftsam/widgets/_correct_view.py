"""The objects of the annotated image in the dock: their table, and what is done to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QLabel, QVBoxLayout

from napari_peftsam.widgets._objects_table import FILTERS, ObjectsTable
from napari_peftsam.widgets._parts import (
    NARROW,
    add_menu,
    beside,
    combo_box,
    fill_combo,
    stacked,
    tool_button,
)
from napari_peftsam.widgets.keys import keyed

if TYPE_CHECKING:
    from napari_peftsam.widgets.session import ViewerSession

NEW_CLASS = "New class…"
"""Entry of the list of classes that is none."""

BRUSHES = {
    "paint": ("✎", "Brush: paint the selected object, or a new one: napari's brush (2)"),
    "erase": ("⌫", "Eraser: napari's (1)"),
    "fill": ("▰", "Fill an area with the selected object: napari's bucket (3)"),
    "polygon": ("⬠", "Polygon: outline an object by its corners, Enter closes it (P)"),
}
"""Names and tips of napari's tools on the layer of objects, by mode."""

_TIPS = {
    "merge": ("Merge", "Make the selected objects one"),
    "split": ("Split", "Split the selected object where it is narrow"),
    "cut": ("✂ Cut", "Draw a line across an object to cut it in two, or click on each part"),
    "grow": ("Grow", "Grow the selected objects by a pixel"),
    "shrink": ("Shrink", "Shrink the selected objects by a pixel"),
    "delete": ("Delete", "Remove the selected objects"),
}
_KEY_OF = {"delete": "remove_last"}


class CorrectView:
    """The table of objects and the buttons around it, by name; they change nothing.

    Attributes
    ----------
    table, count, filter
        The objects, their number, and which of them are listed.
    category
        The class of new objects.
    brushes
        Buttons of napari's own tools, by mode.
    merge, split, cut, grow, shrink, delete
        Buttons for the selected objects.
    more
        A menu with the rarer ones.
    """

    def __init__(self, owner: ViewerSession) -> None:
        self.table = ObjectsTable(owner.document, owner.layers)
        self.count = QLabel()
        self.filter = combo_box("Which objects are listed")
        self.filter.setMinimumWidth(NARROW)
        fill_combo(self.filter, [(text, text) for text in FILTERS], 0)
        self.brushes = {mode: tool_button(*texts) for mode, texts in BRUSHES.items()}
        for brush in self.brushes.values():
            brush.setCheckable(True)
        self.merge, self.split, self.cut, self.grow, self.shrink, self.delete = (
            keyed(tool_button(text, ""), _KEY_OF.get(name, name), text, f"{tip} ({{}})")
            for name, (text, tip) in _TIPS.items()
        )
        self.cut.setCheckable(True)
        self.category = combo_box("Class of the objects that are made from now on")
        self.category.setMinimumWidth(NARROW)
        self._document = owner.document
        self.more = tool_button("…", "More: refine, renumber, continue from the plane before")
        self.menu = add_menu(self.more)
        self._number = 0
        self.filter.activated.connect(self._filter)

    def column(self) -> QVBoxLayout:
        """Return the parts, laid out."""
        return stacked(
            beside(self.count, self.category, self.filter, stretch=0),
            self.table,
            beside(*self.brushes.values(), self.delete, self.more),
            beside(self.merge, self.split, self.cut, self.grow, self.shrink),
            spacing=3,
        )

    def show_selection(self, *, is_stack: bool) -> None:
        """Show what can be done to the selected objects."""
        selected = len(self.table.selected_labels())
        self.merge.setEnabled(selected > 1)
        self.split.setEnabled(selected == 1)
        for button in (self.grow, self.shrink, self.delete):
            button.setEnabled(selected > 0)
        self.table.show_columns(planes=is_stack, classes=bool(self._document.categories))

    def show_objects(self, number: int) -> None:
        """Show how many objects there are, and how many of them are listed."""
        self._number = number
        shown = self.table.objects.rowCount()
        self.count.setText(
            f"Objects  {shown} of {number}" if shown != number else f"Objects  {number}"
        )
        self.show_classes()

    def show_classes(self) -> None:
        """Show the classes there are, and the one in use."""
        names = self._document.categories
        listed = [("no class", ""), *((name, name) for name in names), (NEW_CLASS, None)]
        fill_combo(self.category, listed, ["", *names].index(self._document.category))

    def _filter(self, index: int) -> None:
        self.table.objects.filter(FILTERS[index])
        self.show_objects(self._number)
