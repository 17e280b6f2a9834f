"""The row of the annotate dock that shows the project; it decides nothing."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_peftsam.widgets._parts import text_label

__all__ = ["ProjectRow"]


class ProjectRow(QWidget):
    """The project's menu and name, when it was saved, and what is wrong with it.

    Attributes
    ----------
    menu
        Opens below the button.
    name, saved, note
        Texts.
    go_on
        Opens the project that the last session left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.menu = QMenu(self)
        self.button = QToolButton()
        self.button.setText("Project ▾")
        self.button.setToolTip("New, open, save under a name, import, locate images")
        self.button.setAutoRaise(True)
        self.button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.button.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        self.button.setMenu(self.menu)
        self.name, self.saved, self.note = _ElidedLabel(), QLabel(), text_label()
        self.go_on = QPushButton()
        self.go_on.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.go_on.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        row = QHBoxLayout()
        row.setSpacing(4)
        row.addWidget(self.button)
        row.addWidget(self.name, 1)
        row.addWidget(self.saved)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(row)
        layout.addWidget(self.go_on)
        layout.addWidget(self.note)

    def show_note(self, text: str) -> None:
        """Show a text below the row; an empty one takes no room."""
        self.note.setText(text)
        self.note.setVisible(bool(text))

    def show_offer(self, text: str, tip: str = "") -> None:
        """Offer to go on with a project; an empty text takes the offer back."""
        self.go_on.setText(text)
        self.go_on.setToolTip(tip)
        self.go_on.setVisible(bool(text))


class _ElidedLabel(QLabel):
    """A label that is cut off where the dock is too narrow, instead of widening it."""

    def minimumSizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        return QSize(24, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        painter = QPainter(self)
        text = self.fontMetrics().elidedText(
            self.text(), Qt.TextElideMode.ElideMiddle, self.width()
        )
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignVCenter), text)
