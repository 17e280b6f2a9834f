"""The training of a viewer in one line: its button, a small curve, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QPointF, QSize, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QMouseEvent, QPainter, QPaintEvent, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_peftsam.app.advice import first_step_text, format_time
from napari_peftsam.widgets._parts import ElidedLabel, beside, push_button
from napari_peftsam.widgets._training import VERBS, Phase, TrainingRun
from napari_peftsam.widgets.keys import KEYS

if TYPE_CHECKING:
    from napari_peftsam.training import TrainEvent

_WIDTH, _HEIGHT, _EDGE = 56, 22, 3  # pixels
_ENDING = {Phase.STOPPING: "Finishing…", Phase.JUDGING: "Comparing…"}
_LEAST = 0.05  # IoU that the height spans at least


class TrainingLine(QWidget):
    """Follows a run; it changes nothing.

    Attributes
    ----------
    train
        Starts or stops a run.
    text, curve
        What the run does, and the held-out IoU so far; a click on the curve asks for more.
    """

    def __init__(self, training: TrainingRun) -> None:
        super().__init__()
        self.training = training
        self.train = push_button("", "")
        self.text, self.curve = ElidedLabel(Qt.TextElideMode.ElideRight), _Sparkline()
        self.setLayout(beside(self.train, self.curve, self.text, stretch=2))
        self.show_run()

    def show_run(self) -> None:
        """Show what the run does, and how it ended."""
        training, key = self.training, KEYS["finetune"].shown
        self.train.setText(f"{VERBS[training.phase]}  {key}")
        if training.phase is Phase.STARTING:
            self.curve.clear()
        if training.phase is Phase.IDLE and training.verdict:
            self.text.setText(training.verdict)
        elif training.phase is not Phase.TRAINING:  # else it says how far the run is
            self.text.setText(_ENDING.get(training.phase, ""))
        self.text.setToolTip(training.message)
        self.show_waiting()

    def show_waiting(self) -> None:
        """Show how far the first step is, and for how long the run has been starting before it."""
        waited, share = self.training.waited, self.training.share
        if waited is not None:
            starting = f"Starting… {format_time(waited)}"
            self.text.setText(starting if share is None else first_step_text(share))
            self.text.setToolTip(self.training.waiting)

    def show_event(self, event: TrainEvent) -> None:
        """Show what a run reports."""
        from napari_peftsam.training import TrainingStarted, TrainingStep, Validated

        if isinstance(event, TrainingStarted):
            self.curve.add(event.validation_iou)
        elif isinstance(event, Validated):
            self.curve.add(event.iou)
        elif isinstance(event, TrainingStep) and self.training.phase is not Phase.STOPPING:
            self.text.setText(f"{format_time(event.remaining)} left")
            self.text.setToolTip("")


class _Sparkline(QWidget):
    """A curve without axes; a click asks for the whole one."""

    clicked = QtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._values: list[float] = []
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip("IoU on held-out objects; a click shows the curve, data and options")

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return its fixed size."""
        return QSize(_WIDTH, _HEIGHT)

    def clear(self) -> None:
        """Start anew."""
        self._values.clear()
        self.update()

    def add(self, value: float) -> None:
        """Go on to another value."""
        self._values.append(value)
        self.update()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:  # noqa: N802
        """Ask for the whole curve."""
        self.clicked.emit()

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        """Paint the curve, or a place for it."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(self.palette().mid().color())
        painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        if not self._values:
            return
        low = min(self._values)
        span = max(_LEAST, max(self._values) - low)
        step = (self.width() - 2 * _EDGE) / max(1, len(self._values) - 1)
        tall = self.height() - 2 * _EDGE
        points = [
            QPointF(_EDGE + number * step, _EDGE + tall * (1 - (value - low) / span))
            for number, value in enumerate(self._values)
        ]
        painter.setPen(self.palette().text().color())
        painter.drawPolyline(QPolygonF(points))
