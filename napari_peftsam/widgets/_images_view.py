"""The queue of images in the annotate dock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QLabel, QLineEdit, QListWidget, QListWidgetItem, QVBoxLayout

from napari_peftsam.document import CompleteRegion, DocumentImage
from napari_peftsam.widgets._parts import ElidedLabel, beside, push_button, stacked, tool_button
from napari_peftsam.widgets.keys import keyed
from napari_peftsam.widgets.layers.view import PATH

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_peftsam.widgets.session import ViewerSession

_ROWS = 3  # images in sight
_MANY = 8  # images that are searched


class ImagesView(QObject):
    """The images by name, which one is annotated, and what is done; it changes nothing.

    Attributes
    ----------
    previous_image, next_image, complete
        Buttons.
    name, number
        Name of the annotated image, and its place in the queue.
    list, search
        All images with a tick and the number of their objects; those whose names hold a text.
    status, cancel
        How far the image is embedded, and what stops that.
    """

    chosen = QtSignal(int)
    """The user chose the image of this number."""

    def __init__(self, owner: ViewerSession) -> None:
        super().__init__()
        self._document, self._layers = owner.document, owner.layers
        self.previous_image = keyed(
            tool_button("", ""), "previous_image", "◂", "Previous image ({})"
        )
        self.next_image = keyed(tool_button("", ""), "next_image", "▸", "Next image ({})")
        self.name, self.number, self.status = ElidedLabel(), QLabel(), QLabel()
        self.cancel = tool_button("✕", "Stop embedding this image")
        self.complete = keyed(
            push_button(), "complete", "Done",
            "All objects of this image are annotated: the rest of it is background. "
            "{} says so and goes on to the next image that is not done",
        )  # fmt: skip
        self.complete.setCheckable(True)
        self.search = _Search()
        self.search.setClearButtonEnabled(True)
        self.list = QListWidget()
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # letters stay keys of the canvas
        self.list.setUniformItemSizes(True)
        line = self.list.fontMetrics().lineSpacing() + 4
        self.list.setFixedHeight(_ROWS * line + 2 * self.list.frameWidth())
        self.list.itemClicked.connect(lambda item: self.chosen.emit(self.list.row(item)))
        self.search.textChanged.connect(self._search)
        self.search.returnPressed.connect(self._choose_found)

    def column(self) -> QVBoxLayout:
        """Return the parts, laid out."""
        top = beside(
            self.previous_image, self.number, self.next_image, self.name, self.status,
            self.cancel, self.complete, stretch=3,
        )  # fmt: skip
        return stacked(top, self.search, self.list, spacing=3)

    def show(self) -> None:
        """Show the images, and which one is annotated."""
        images, shown = self._layers.image_layers, self._layers.image
        chosen = images.index(shown) if shown in images else -1
        entries = [self._entry(layer) for layer in images]
        texts = [_text(*pair) for pair in zip(images, entries, strict=True)]
        if len(texts) != self.list.count():
            self.list.clear()
            self.list.addItems(texts)
        for item, text, layer in zip(self._items(), texts, images, strict=True):
            if item.text() != text:  # the list stays where it was scrolled to
                item.setText(text)
            item.setToolTip(_path(layer))
        self._search(self.search.text())
        if chosen != self.list.currentRow():
            self.list.setCurrentRow(chosen)
        is_queue = len(images) > 1
        self.list.setVisible(is_queue)
        self.search.setVisible(len(images) > _MANY)
        self.search.setPlaceholderText(f"Search {len(images)} images")
        self.number.setText(f"{chosen + 1} / {len(images)}" if chosen >= 0 else "")
        self.name.setText("no image" if shown is None else shown.name)
        self.name.setToolTip("" if shown is None else _path(shown))
        for button, at in ((self.previous_image, 0), (self.next_image, len(images) - 1)):
            button.setEnabled(is_queue and chosen not in (-1, at))
            button.setVisible(is_queue)
        self.number.setVisible(is_queue)
        self.complete.setEnabled(shown is not None)
        self.complete.setChecked(chosen >= 0 and _is_complete(entries[chosen]))

    def unfinished(self) -> int | None:
        """Return the number of the next image that is not complete, None if all are."""
        images, shown = self._layers.image_layers, self._layers.image
        at = images.index(shown) if shown in images else 0
        for number in (*range(at + 1, len(images)), *range(at)):
            if not _is_complete(self._entry(images[number])):
                return int(number)
        return None

    def _entry(self, layer: Layer) -> DocumentImage | None:
        image = self._layers.image_of(layer)
        return None if image is None else self._document.images.get(image)  # gone by undo?

    def _items(self) -> list[QListWidgetItem]:
        items = (self.list.item(row) for row in range(self.list.count()))
        return [item for item in items if item is not None]

    def _search(self, text: str) -> None:
        names = [layer.name.lower() for layer in self._layers.image_layers]
        for item, name in zip(self._items(), names, strict=False):
            item.setHidden(text.lower() not in name)

    def _choose_found(self) -> None:
        found = next((row for row, i in enumerate(self._items()) if not i.isHidden()), None)
        if found is not None and self.search.text():
            self.search.clear()
            self.chosen.emit(found)


class _Search(QLineEdit):
    """A field that keeps Enter and Escape, which would accept or discard a mask otherwise."""

    def keyPressEvent(self, event: QKeyEvent | None) -> None:  # noqa: N802  # Qt's name
        """Choose what is found, or clear the field."""
        if event is None:
            return
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.returnPressed.emit()
        elif event.key() == Qt.Key.Key_Escape:
            self.clear()
        else:
            super().keyPressEvent(event)
            return
        event.accept()


def _text(layer: Layer, image: DocumentImage | None) -> str:
    """Return the line of an image: a tick if it is done, its name, its number of objects."""
    objects = 0 if image is None else len(image.records)
    mark = "✓ " if _is_complete(image) else "▪ " if objects else "    "
    return f"{mark}{layer.name}" + (f" · {objects}" if objects else "")


def _is_complete(image: DocumentImage | None) -> bool:
    return image is not None and CompleteRegion() in image.info.complete


def _path(layer: Layer) -> str:
    return str(layer.metadata.get(PATH) or layer.source.path or layer.name)
