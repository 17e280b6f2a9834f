"""Small Qt parts that look alike in all docks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from qtpy.QtCore import QObject, QSignalBlocker, QSize, Qt, QTimer
from qtpy.QtGui import QAction, QPainter, QPaintEvent, QWheelEvent
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QMenu,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStyle,
    QStyleOptionButton,
    QStylePainter,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    import napari

_Box = TypeVar("_Box", QHBoxLayout, QVBoxLayout)

DOCK_WIDTH = 288
"""Pixels that a dock asks for."""
NARROW = 64
"""Pixels of a list of choices at least, where there is little room."""
MARGINS = (6, 6, 6, 6)
"""Pixels around the parts of a dock: left, top, right, bottom."""
LABEL_WIDTH = 78
"""Pixels; the editors of several forms below each other line up."""
_FRAME = 6  # pixels beside the text of a button


def text_label(text: str = "") -> QLabel:
    """Return a label that wraps, never widens its dock, and can be copied from."""
    label = QLabel(text)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


class ElidedLabel(QLabel):
    """A label that is cut off where the dock is too narrow, instead of widening it.

    Names lose their middle; a sentence is better off without its end.
    """

    def __init__(self, mode: Qt.TextElideMode = Qt.TextElideMode.ElideMiddle) -> None:
        super().__init__()
        self._mode = mode

    def minimumSizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return that it may become narrow."""
        return QSize(24, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        """Paint as much of the text as fits."""
        painter = QPainter(self)
        text = self.fontMetrics().elidedText(self.text(), self._mode, self.width())
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignVCenter), text)


class ElidedButton(QPushButton):
    """A button whose text is cut off where the dock is too narrow for it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802  # Qt's name
        """Paint the button with as much of its text as fits."""
        painter, option = QStylePainter(self), QStyleOptionButton()
        self.initStyleOption(option)
        end, room = Qt.TextElideMode.ElideRight, self.width() - 2 * _FRAME
        option.text = self.fontMetrics().elidedText(self.text(), end, room)
        painter.drawControl(QStyle.ControlElement.CE_PushButton, option)


def push_button(text: str = "", tip: str = "") -> QPushButton:
    """Return a button; a click leaves the keys to the canvas."""
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return button


def tool_button(text: str, tip: str) -> QToolButton:
    """Return a small button without a frame; a click leaves the keys to the canvas."""
    button = QToolButton()
    button.setText(text)
    button.setToolTip(tip)
    button.setAutoRaise(True)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return button


def add_menu(to: QToolButton | QMenu, title: str = "") -> QMenu:
    """Return a new menu, which opens at a click on a button, or is part of another menu."""
    menu = QMenu(title, to)
    menu.setToolTipsVisible(True)
    if isinstance(to, QMenu):
        to.addMenu(menu)
    else:
        to.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        to.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        to.setMenu(menu)
    return menu


def add_entry(
    menu: QMenu, text: str, slot: Callable[[], object] = lambda: None, tip: str = ""
) -> QAction:
    """Return a new entry of a menu."""
    action = QAction(text.replace("&", "&&"), menu)
    action.triggered.connect(lambda _=False: slot())
    action.setToolTip(tip)
    menu.addAction(action)
    return action


def combo_box(tip: str = "") -> QComboBox:
    """Return a combo box that long items do not widen."""
    box = _QuietComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    box.setToolTip(tip)
    box.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return box


class _QuietComboBox(QComboBox):
    """A combo box that the mouse wheel scrolls past instead of changing its choice."""

    def wheelEvent(self, event: QWheelEvent | None) -> None:  # noqa: N802  # Qt's name
        """Leave the event to what is around the box."""
        if event is not None:
            event.ignore()


def fill_combo(combo: QComboBox, items: Sequence[tuple[str, object]], current: int) -> None:
    """Replace a combo's items (text and data) and choice without a signal."""
    with QSignalBlocker(combo):
        if [(combo.itemText(i), combo.itemData(i)) for i in range(combo.count())] != list(items):
            combo.clear()
            for text, data in items:
                combo.addItem(text, data)
        combo.setCurrentIndex(current)


def form_layout(*rows: tuple[str, QWidget | QLayout]) -> QFormLayout:
    """Return a form whose labels are as wide as those of other forms."""
    form = QFormLayout()
    form.setContentsMargins(0, 0, 0, 0)
    form.setVerticalSpacing(4)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    for title, editor in rows:
        form.addRow(label_of(title), editor)
    return form


def label_of(title: str) -> QLabel:
    """Return the label of one row of a form."""
    label = QLabel(title)
    label.setFixedWidth(LABEL_WIDTH)
    # Labels that may wrap are given more height than one line needs.
    label.setWordWrap(label.fontMetrics().horizontalAdvance(title) > LABEL_WIDTH)
    return label


def scrolled(inner: QWidget, area: QScrollArea | None = None) -> QScrollArea:
    """Return an area without a frame that scrolls up and down only."""
    area = QScrollArea() if area is None else area
    area.setWidget(inner)
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    return area


def timer(parent: QObject | None, milliseconds: int) -> QTimer:
    """Return a timer that fires once, this long after its latest start; a parent deletes it."""
    clock = QTimer(parent)
    clock.setSingleShot(True)
    clock.setInterval(milliseconds)
    return clock


def stop_timers(*timers: QTimer) -> None:
    """Stop timers; Qt has deleted them where the program ends with the window."""
    for clock in timers:
        with suppress(RuntimeError):
            clock.stop()


def beside(*parts: QWidget | QLayout, stretch: int | None = None, spacing: int = 4) -> QHBoxLayout:
    """Return a row; part number `stretch` takes the free room, by default all share it."""
    row = _filled(QHBoxLayout(), parts, spacing)
    for number in range(len(parts)):
        row.setStretch(number, int(stretch in (None, number)))
    return row


def stacked(
    *parts: QWidget | QLayout, inside: QWidget | None = None, spacing: int = 6
) -> QVBoxLayout:
    """Return a column, which lays out the widget `inside`."""
    column = _filled(QVBoxLayout(), parts, spacing)
    if inside is not None:
        inside.setLayout(column)
    return column


def _filled(layout: _Box, parts: Sequence[QWidget | QLayout], spacing: int) -> _Box:
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(spacing)
    for part in parts:
        layout.addWidget(part) if isinstance(part, QWidget) else layout.addLayout(part)
    return layout


def set_style(widget: QWidget, style: str) -> None:
    """Set a style sheet; the same one again would cost some milliseconds."""
    if widget.styleSheet() != style:
        widget.setStyleSheet(style)


_STAYS = 2500  # ms: as long as it takes to answer a prompt anew
_LOOKS: dict[str, Any] = {
    "font_size": 28.0, "position": "top_center", "color": "white", "box": True,
    "box_color": "#000000a0", "visible": True,
}  # fmt: skip


class Banner:
    """Uses napari's text overlay, and leaves it as it was."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._overlay = viewer.canvas.overlays.text
        self._before: dict[str, Any] = {}
        self._timer = timer(None, _STAYS)
        self._timer.timeout.connect(self.hide)

    def show(self, text: str) -> None:
        """Show a text for a moment."""
        looks = {**_LOOKS, "text": text}
        self._before = self._before or {name: getattr(self._overlay, name) for name in looks}
        self._overlay.update(looks)
        self._timer.start()

    def hold(self) -> None:
        """Let the text stay, if there is one."""
        self._timer.stop()

    def let_go(self) -> None:
        """Let the text go after a moment."""
        self._timer.start()

    def hide(self) -> None:
        """Show what was there before."""
        stop_timers(self._timer)
        before, self._before = self._before, {}
        self._overlay.update(before)
