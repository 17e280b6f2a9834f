"""The widgets of the annotate dock, laid out; they decide nothing."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_peftsam.widgets._keys import KEYS
from napari_peftsam.widgets._objects_table import ObjectsTable
from napari_peftsam.widgets._project_menu import ProjectMenu

__all__ = ["AnnotateView", "fill_combo"]


class AnnotateView:
    """The parts of the dock, by name, and their layout in a parent widget."""

    def __init__(self, parent: QWidget, table: ObjectsTable, project: ProjectMenu) -> None:
        self.project = project
        self.image, self.model, self.adapter = _combo(), _combo(), _combo()
        self.image_status, self.model_status = QLabel(), QLabel()
        self.cancel = _tool("✕", "Stop embedding this image")
        self.next_step = QLabel()
        self.next_step.setWordWrap(True)
        self.next_step.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.point = _button("● Point", "point", "Click on objects to segment them")
        self.box = _button("▭ Box", "box", "Drag a box around each object")
        for tool in (self.point, self.box):
            tool.setCheckable(True)
        self.sign = _button("+", "sign", "Flip the sign of the next points")
        self.previous = _tool("◂", f"Previous candidate ({KEYS['previous_candidate'].shown})")
        self.next = _tool("▸", f"Next candidate ({KEYS['next_candidate'].shown})")
        self.candidate, self.score = QLabel(), QLabel()
        self.accept = _button("✓ Accept", "accept", "Make the mask an object")
        self.discard = _button("✕ Discard", "discard", "Throw the prompts and the mask away")
        self.accept_all = _button("✓✓ Accept all", "accept_all", "Accept one object per box")
        self.undo = _button("↶ Undo", "undo", "")
        self.redo = _button("↷ Redo", "redo", "")
        self.count = QLabel()
        self.table = table
        self.merge = QPushButton("Merge")
        self.merge.setToolTip("Make the selected objects one")
        self.delete = QPushButton("Delete")
        self.delete.setToolTip("Remove the selected objects")
        for button in (self.merge, self.delete):
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self._lay_out(parent)

    def _lay_out(self, parent: QWidget) -> None:
        layout = QVBoxLayout(parent)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.setSpacing(5)
        layout.addWidget(self.project)
        layout.addLayout(self._sources())
        layout.addWidget(_line())
        layout.addWidget(self.next_step)
        layout.addLayout(_row(self.point, self.box, self.sign))
        mask = _row(QLabel("Mask"), self.previous, self.candidate, self.next, self.score)
        mask.addStretch(1)
        layout.addLayout(mask)
        layout.addLayout(_row(self.accept, self.discard))
        layout.addWidget(self.accept_all)
        layout.addLayout(_row(self.undo, self.redo))
        layout.addWidget(_line())
        layout.addWidget(self.count)
        layout.addWidget(self.table, 1)
        layout.addLayout(_row(self.merge, self.delete))

    def _sources(self) -> QLayout:
        grid = QGridLayout()
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        status = QWidget()
        status.setLayout(_row(self.image_status, self.cancel))
        beside = (status, self.model_status, None)
        names = (("Image", self.image), ("Model", self.model), ("Adapter", self.adapter))
        for row, ((name, combo), extra) in enumerate(zip(names, beside, strict=True)):
            grid.addWidget(QLabel(name), row, 0)
            grid.addWidget(combo, row, 1, 1, 1 if extra else 2)
            if extra is not None:
                grid.addWidget(extra, row, 2)
        return grid


def fill_combo(combo: QComboBox, items: Sequence[tuple[str, object]], current: int) -> None:
    """Replace a combo's items (text and data) and choice without it telling anyone."""
    blocked = combo.blockSignals(True)
    if [(combo.itemText(i), combo.itemData(i)) for i in range(combo.count())] != list(items):
        combo.clear()
        for text, data in items:
            combo.addItem(text, data)
    combo.setCurrentIndex(current)
    combo.blockSignals(blocked)


def _combo() -> QComboBox:
    combo = QComboBox()
    combo.setSizeAdjustPolicy(
        QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    )  # long names do not widen the dock
    combo.setMinimumContentsLength(8)
    combo.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # a click leaves the keys to the canvas
    return combo


def _button(text: str, action: str, tip: str) -> QPushButton:
    key = KEYS[action].shown
    button = QPushButton(f"{text}  {key}")
    button.setToolTip(f"{tip} ({key})".strip())
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return button


def _tool(text: str, tip: str) -> QToolButton:
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.setAutoRaise(True)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return button


def _row(*widgets: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    for widget in widgets:
        row.addWidget(widget)
    return row


def _line() -> QFrame:
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    return line
