"""The finetuning dock's view: its parts, their layout, and what they show of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, QPoint, QSize
from qtpy.QtWidgets import (
    QProgressBar,
    QScrollArea,
    QSizePolicy,
    QWidget,
)

from napari_peftsam.app.advice import format_time
from napari_peftsam.widgets._curve import TrainingCurve
from napari_peftsam.widgets._finetune_options import FinetuneOptions
from napari_peftsam.widgets._parts import (
    DOCK_WIDTH,
    MARGINS,
    beside,
    push_button,
    scrolled,
    stacked,
    text_label,
    timer,
)
from napari_peftsam.widgets._training import VERBS, Phase
from napari_peftsam.widgets.keys import KEYS, keyed

if TYPE_CHECKING:
    from napari_peftsam.training import TrainEvent

_PROGRESS_PARTS = 1000
_UNFOLDED_MS = 350  # longer than QCollapsible takes to unfold
_LEAST_HEIGHT = 60  # pixels: method, placement and their cost
_STATUS = {
    Phase.IDLE: "",
    Phase.STARTING: "Starting…",
    Phase.TRAINING: "Training…",
    Phase.STOPPING: "Finishing this step with the best state so far…",
    Phase.JUDGING: "Comparing it with the present one, on held-out objects…",
}


class FinetuneView(QWidget):
    """The parts of the dock, by name.

    Options and curve scroll where the window is low, and only the curve is left while a
    run goes on; the button and what it did are always in sight.
    """

    def __init__(self, options: FinetuneOptions, theme: str) -> None:
        super().__init__()
        self.summary = text_label()
        self._phase: Phase | None = None
        self.options = options
        self.train = push_button()
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.status = text_label()
        self.curve = TrainingCurve(theme)
        self.memory = text_label()
        self.outcome = text_label()
        self.compare = keyed(
            push_button(), "before", "", "Switch between the adapters before and after it ({})"
        )
        for part in (
            self.progress, self.status, self.memory, self.curve, self.outcome, self.compare
        ):  # fmt: skip
            part.hide()
        self._lay_out()

    def _lay_out(self) -> None:
        inner = QWidget()
        stacked(self.curve, self.options, inside=inner).addStretch(1)
        buttons = beside(self.train, self.compare)
        self._area = _LowArea(inner)
        unfolded = timer(self, _UNFOLDED_MS)
        unfolded.timeout.connect(self._scroll_to_options)
        self.options.collapsible.toggled.connect(lambda _: unfolded.start())
        layout = stacked(
            self.summary, self._area, self.options.problem, buttons,
            self.progress, self.status, self.memory, self.outcome, inside=self,
        )  # fmt: skip
        layout.setContentsMargins(*MARGINS)
        layout.addStretch(1)

    def _scroll_to_options(self) -> None:
        """Bring what was unfolded into sight, where the dock is low."""
        bar, part = self._area.verticalScrollBar(), self.options.collapsible
        if bar is not None and part.isExpanded():
            bar.setValue(part.mapTo(self._area.widget(), QPoint(0, 0)).y())

    def show_phase(self, phase: Phase, why_not: str) -> None:
        """Show what the run does; `why_not` says why none can start, empty if one can."""
        running = phase is not Phase.IDLE
        key = KEYS["finetune"].shown
        self.train.setText(f"{VERBS[phase]}  {key}")
        self.train.setEnabled(running or not why_not)
        tips = {
            Phase.IDLE: why_not or f"Finetune on the accepted objects ({key}); go on annotating",
            Phase.STOPPING: "Do not wait for this step; the best state so far is kept",
            Phase.JUDGING: "Do not wait for this; what the last validation says decides",
        }
        self.train.setToolTip(tips.get(phase, f"Stop and keep the best state so far ({key})"))
        self.options.setVisible(not running)
        self.progress.setVisible(running)
        self.status.setVisible(running)
        if phase is not self._phase:  # else it says how far the run is
            self._phase = phase
            self.status.setText(_STATUS[phase])
        self.outcome.setVisible(not running and bool(self.outcome.text()))
        if phase is not Phase.TRAINING:
            self.progress.setRange(0, 0)  # busy
        if running:
            self.curve.show()
        if phase in (Phase.IDLE, Phase.STARTING):
            self.memory.hide()

    def show_event(self, event: TrainEvent) -> None:
        """Show what a run reports."""
        from napari_peftsam.training import (
            MemoryPlanned,
            TrainingStarted,
            TrainingStep,
            Validated,
        )

        if isinstance(event, TrainingStarted):
            self.curve.set_live(event.validation_iou)
            self.summary.setText(
                f"Learns from {event.training_objects} objects, checks on {event.held_out_objects}."
            )
        elif isinstance(event, MemoryPlanned):
            text = event.describe()
            self.memory.setText(f"{text[:1].upper()}{text[1:]}.")
            self.memory.show()
        elif isinstance(event, Validated):
            self.curve.add_iou(event.step, event.iou)
        elif isinstance(event, TrainingStep):
            self.curve.add_loss(event.step, event.loss)
            total = event.seconds + event.remaining
            self.progress.setRange(0, _PROGRESS_PARTS)
            self.progress.setValue(round(_PROGRESS_PARTS * event.seconds / total))
            self.status.setText(f"Step {event.step} · {format_time(event.remaining)} left")

    def show_outcome(self, message: str) -> None:
        """Show how the last run ended."""
        self.outcome.setText(message)
        self.outcome.setVisible(bool(message))

    def show_compare(self, live: str, before: str, after: str) -> None:
        """Offer the other one of two adapters; without a new one, nothing."""
        other = f"Before ({before})" if live == after else f"After ({after})"
        self.compare.setText(f"{other}  {KEYS['before'].shown}")
        self.compare.setVisible(bool(after))


class _LowArea(QScrollArea):
    """Scrolls a widget, and asks for just the height that it has."""

    def __init__(self, inner: QWidget) -> None:
        super().__init__()
        scrolled(inner, self)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.setMinimumHeight(_LEAST_HEIGHT)

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return the size of the widget, as wide as a dock should be."""
        inner = self.widget()
        layout = None if inner is None else inner.layout()
        if layout is None:
            return QSize(DOCK_WIDTH, 0)
        # Beside a scroll bar labels need more height, without which it would stay for ever.
        viewport = self.viewport()
        width = viewport.width() if viewport is not None and self.isVisible() else DOCK_WIDTH
        frame = self.height() - self.maximumViewportSize().height()
        # Labels wrap; without one, as during a run, a layout does not know any such height.
        wrapped = layout.hasHeightForWidth()
        height = layout.totalHeightForWidth(width) if wrapped else layout.totalSizeHint().height()
        return QSize(DOCK_WIDTH, height + frame)

    def event(self, event: QEvent | None) -> bool:
        """Follow parts that come and go, and the width in which they wrap."""
        kinds = (QEvent.Type.LayoutRequest, QEvent.Type.Resize)
        if event is not None and event.type() in kinds:
            self.updateGeometry()
        return bool(super().event(event))
