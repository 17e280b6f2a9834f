"""Roles of images in a finetuning: learnt from, checked on, left out."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QGridLayout, QWidget

from napari_peftsam.widgets._parts import ElidedLabel, combo_box, fill_combo

ROLES = ("automatic", "check on", "leave out")
"""What is done with an image: learnt from unless it happens to be held out, and so on."""


class ImageRoles(QWidget):
    """A list of images with a choice for each; choices stay as objects come and go."""

    changed = QtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._boxes: dict[str, QComboBox] = {}
        self._shown: list[tuple[str, str, int]] = []
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(0, 1)
        self.setLayout(self._grid)

    def show_images(self, images: Sequence[tuple[str, str, int]]) -> None:
        """Show images by id, name and number of objects."""
        if list(images) == self._shown:
            return
        self._shown = list(images)
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                if widget not in self._boxes.values():
                    widget.deleteLater()
        for row, (image, name, objects) in enumerate(images):
            label = ElidedLabel()
            label.setText(f"{name} · {objects}")
            label.setToolTip(name)
            self._grid.addWidget(label, row, 0)
            self._grid.addWidget(self._box(image), row, 1)
            self._box(image).show()

    def chosen(self, role: str) -> tuple[str, ...]:
        """Return the ids of the images with a role."""
        return tuple(i for i, *_ in self._shown if self._boxes[i].currentText() == role)

    def box(self, image: str) -> QComboBox:
        """Return the choice for an image."""
        return self._boxes[image]

    def _box(self, image: str) -> QComboBox:
        if image not in self._boxes:
            box = combo_box("Learn from it, check on it, or leave it out")
            fill_combo(box, [(role, role) for role in ROLES], 0)
            box.currentIndexChanged.connect(lambda _: self.changed.emit())
            self._boxes[image] = box
        return self._boxes[image]
