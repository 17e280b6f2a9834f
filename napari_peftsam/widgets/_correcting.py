"""Corrections of the selected objects, as the annotate dock offers them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from napari_peftsam.app.corrections import grow_objects, relabel_object, split_object
from napari_peftsam.document import (
    Categorize,
    DeleteObjects,
    ImageId,
    MergeObjects,
    Paint,
    PlaneKey,
    UseCategory,
)
from napari_peftsam.widgets._correct_view import NEW_CLASS
from napari_peftsam.widgets._dialogs import ask_number, ask_text
from napari_peftsam.widgets._parts import add_entry, add_menu

if TYPE_CHECKING:
    from napari_peftsam.app.prompting import PromptController
    from napari_peftsam.document import DocumentImage
    from napari_peftsam.widgets._correct_view import CorrectView
    from napari_peftsam.widgets.layers.freehand import Tool
    from napari_peftsam.widgets.session import ViewerSession


_AREA_TOOLS: tuple[tuple[str, str, Tool], ...] = (
    ("Area done: rectangle", "Drag over an area in which all objects are annotated", "rectangle"),
    ("Area done: lasso", "Draw around an area in which all objects are annotated", "area"),
    ("Background brush", "Draw where no object is; the right button takes it back", "background"),
)


class Corrections:
    """What is done to the objects that are selected in the table."""

    def __init__(
        self, owner: ViewerSession, view: CorrectView, prompting: PromptController
    ) -> None:
        self._owner, self._view, self._prompting = owner, view, prompting
        self._document, self._layers = owner.document, owner.layers
        self.ask_number, self.ask_text = ask_number, ask_text
        self._planes: list[PlaneKey | None] = [None, None]  # shown now, and before
        for text, tip, action in (
            ("Refine", "Predict the selected objects, else all, anew from the boxes around them",
             self.refine),
            ("Number…", "Give the selected object another number", self.relabel),
            ("Continue from the plane before",
             "Find the selected objects of the plane shown before, else all of it, in this one",
             self.continue_objects),
            ("Smooth masks…", "Round off bumps and notches of masks from the next prompts on",
             self.smooth),
        ):  # fmt: skip
            add_entry(view.menu, text, partial(self._layers.attempt, action), tip)
        view.menu.addSeparator()
        for text, tip, tool in _AREA_TOOLS:
            add_entry(view.menu, text, partial(self._layers.tools.choose, tool), tip)
        self._classes = add_menu(view.menu, "Class")
        self._classes.aboutToShow.connect(self._list_classes)
        view.category.activated.connect(self._use_class)

    def actions(self) -> dict[str, Callable[[], object]]:
        """Return what the keys and buttons do."""
        return {
            "merge": self.merge,
            "split": self.split,
            "cut": lambda: self._layers.tools.choose("cut"),
            "grow": lambda: self.grow(1),
            "shrink": lambda: self.grow(-1),
            "continue_objects": self.continue_objects,
        }

    def note_plane(self) -> None:
        """Take note that another plane is shown: objects go on from the one before."""
        plane = self._layers.plane
        if plane is not None and plane != self._planes[0]:
            self._planes = [plane, self._planes[0]]

    def follow_selection(self) -> None:
        """Let napari's brush go on with the selected object."""
        selected = self._view.table.selected_labels()
        objects = self._layers.objects_of(selected[0]) if selected else None
        if objects is not None:
            objects.selected_label = selected[0]

    def choose_brush(self, mode: str) -> None:
        """Paint the selected object, or a new one if none is selected."""
        selected = self._view.table.selected_labels()
        label = selected[0] if selected else self._document.image(self._image()).next_label
        self._layers.tools.choose_brush(mode, label)

    def merge(self) -> None:
        """Make the selected objects one."""
        labels = self._selected("Select two objects or more first, to merge them", 2)
        if labels:
            self._view.table.select(self._document.do(MergeObjects(self._image(), tuple(labels))))

    def delete(self) -> None:
        """Remove the selected objects."""
        labels = self._selected()
        if labels:
            self._document.do(DeleteObjects(self._image(), tuple(labels)))

    def split(self) -> None:
        """Split the selected object where it is narrow."""
        for label in self._selected()[:1]:
            self._paint(partial(split_object, label=label))

    def grow(self, pixels: int) -> None:
        """Grow the selected objects, or shrink them."""
        labels = self._selected()
        if labels:
            self._paint(lambda image, plane: grow_objects(image, plane, labels, pixels))

    def relabel(self) -> None:
        """Ask for another number of the selected object."""
        for label in self._selected()[:1]:
            new = self.ask_number(self._view.table, "Number", f"Number of object {label}:", label)
            if new is not None and new != label:
                image = self._document.image(self._image())
                self._document.do(relabel_object(image, label, new))
                self._view.table.select(new)

    def smooth(self) -> None:
        """Ask how much masks are smoothed from the next prompts on."""
        clean, radius = self._prompting.cleaning
        text = "Smooth: round off what is smaller than (pixels, 0: nothing)"
        chosen = self.ask_number(self._view.table, "Smooth masks", text, radius, 0)
        if chosen is not None:
            self._prompting.clean_masks(clean, chosen)

    def categorize(self, category: str | None) -> None:
        """Give the selected objects a class; None asks for a new one."""
        labels, name = self._view.table.selected_labels(), self._class_name(category)
        if labels and name is not None:
            self._document.do(Categorize(self._image(), tuple(labels), name))

    def _use_class(self, index: int) -> None:
        """Choose the class of new objects."""
        name = self._class_name(self._view.category.itemData(index))
        if name is not None:
            self._layers.attempt(lambda: self._document.do(UseCategory(name)))
            brush = self._layers.tools.brush
            if brush:  # it goes on in the layer of the class, with a new object
                label = self._document.image(self._image()).next_label
                self._layers.tools.choose_brush(brush, label)
        self._view.show_classes()

    def _class_name(self, category: str | None) -> str | None:
        if category is not None:
            return category
        return self.ask_text(self._view.table, "New class", "Name of the class:")

    def _list_classes(self) -> None:
        self._classes.clear()
        known = [(name, name) for name in self._document.categories]
        for title, name in (("no class", ""), *known, (NEW_CLASS, None)):
            categorize = partial(self.categorize, name)
            add_entry(self._classes, title, partial(self._layers.attempt, categorize))

    def refine(self) -> None:
        """Predict objects anew from the boxes around them."""
        self._owner.imports.refine(self._image(), self._view.table.selected_labels())

    def continue_objects(self) -> None:
        """Find the objects of the plane that was shown before in this one."""
        target, source = self._layers.plane, self._planes[1]
        if target is None or not target.index:
            self._layers.events.hint.emit("This image is no stack: there is no plane before")
            return
        if source is None or not _are_neighbours(source, target):
            source = PlaneKey(target.image, (*target.index[:-1], target.index[-1] - 1))
        if source.index[-1] < 0:
            self._layers.events.hint.emit("This is the first plane: show the next one")
            return
        labels = self._view.table.selected_labels()
        self._owner.imports.continue_objects(source, target, labels)

    def _selected(
        self, missing: str = "Select an object first: click on it", least: int = 1
    ) -> list[int]:
        """Return the selected objects; if they are too few, none, and say what is missing."""
        labels = self._view.table.selected_labels()
        if len(labels) >= least:
            return labels
        self._layers.events.hint.emit(missing)
        return []

    def _paint(self, action: Callable[[DocumentImage, PlaneKey], Paint]) -> None:
        plane = self._layers.plane
        if plane is not None:
            self._document.do(action(self._document.image(plane.image), plane))

    def _image(self) -> ImageId:
        image = self._layers.image_id
        assert image is not None, "the table shows its objects"
        return image


def _are_neighbours(one: PlaneKey, other: PlaneKey) -> bool:
    """Return True for two planes next to each other along one axis of a stack."""
    if one.image != other.image or len(one.index) != len(other.index):
        return False
    return sum(abs(a - b) for a, b in zip(one.index, other.index, strict=True)) == 1
