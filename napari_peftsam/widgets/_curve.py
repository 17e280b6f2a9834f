"""The live curves of a training: held-out IoU above, loss below, over the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from napari.utils.theme import get_theme
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_peftsam.widgets._parts import timer

_REFRESH_MS = 150  # steps of a small model come faster than anyone can look at them
_SMOOTHING = 0.9  # of the loss: single steps see few objects and jump
_HEIGHT = 150
_LEAST_HEIGHT = 110
_AXIS_WIDTH = 54
_LEAST_STEPS = 5  # what the axes span at least
_TICKS = 0.4  # of what pyqtgraph would write beside the plots, which are low
_LEAST_IOU = 0.04


class TrainingCurve(pg.GraphicsLayoutWidget):  # type: ignore[misc]  # pyqtgraph is untyped
    """Two small plots with a common axis of steps, in the colours of napari's theme.

    `add_loss` and `add_iou` only note a value; the plots follow a few times a second.
    """

    def __init__(self, theme: str = "dark", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._losses: list[tuple[int, float, float]] = []  # step, as measured, smoothed
        self._ious: list[tuple[int, float]] = []
        self._timer = timer(self, _REFRESH_MS)
        self._timer.timeout.connect(self.refresh)
        self._iou_plot = self._plot(0, "IoU")
        self._loss_plot = self._plot(1, "loss")
        self._loss_plot.setXLink(self._iou_plot)
        self._iou_plot.setLimits(yMin=0, yMax=1, minYRange=_LEAST_IOU)
        self._iou_plot.getAxis("bottom").setStyle(showValues=False)
        self._live_line = pg.InfiniteLine(angle=0)
        self._iou_plot.addItem(self._live_line, ignoreBounds=False)
        self._iou_curve = self._iou_plot.plot(symbol="o", symbolSize=5)
        self._best_dot = self._iou_plot.plot(symbol="o", symbolSize=9, pen=None)
        self._raw_curve = self._loss_plot.plot()
        self._loss_curve = self._loss_plot.plot()
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(_LEAST_HEIGHT)
        self.setMaximumHeight(_HEIGHT)
        self.setToolTip(
            "Above: IoU on held-out objects (dashed: the live adapter). Below: training loss."
        )
        self.set_theme(theme)
        self.clear_curves()

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size that leaves the dock narrow."""
        return QSize(260, _HEIGHT)

    def clear_curves(self) -> None:
        """Start anew."""
        self._losses.clear()
        self._ious.clear()
        self._live_line.hide()
        self.refresh()

    def set_live(self, iou: float) -> None:
        """Draw the held-out IoU that is to be beaten."""
        self._live_line.setValue(iou)
        self._live_line.show()
        self._refresh_soon()

    def add_loss(self, step: int, loss: float) -> None:
        """Append the loss of a step."""
        before = self._losses[-1][2] if self._losses else loss
        self._losses.append((step, loss, _SMOOTHING * before + (1 - _SMOOTHING) * loss))
        self._refresh_soon()

    def add_iou(self, step: int, iou: float) -> None:
        """Append the held-out IoU after a step."""
        self._ious.append((step, iou))
        self._refresh_soon()

    def refresh(self) -> None:
        """Draw what was noted."""
        steps, losses, smoothed = np.array(self._losses, float).reshape(-1, 3).T
        self._raw_curve.setData(steps, losses)
        self._loss_curve.setData(steps, smoothed)
        best = [max(self._ious, key=lambda point: point[1])] if self._ious else []
        for item, points in ((self._iou_curve, self._ious), (self._best_dot, best)):
            item.setData(*np.array(points, float).reshape(-1, 2).T)

    def set_theme(self, name: str) -> None:
        """Take the colours of one of napari's themes."""
        theme = get_theme(name)
        text, faint = theme.text.as_hex(), theme.secondary.as_hex()
        accent = theme.highlight.as_hex() if name == "light" else theme.icon.as_hex()
        self.setBackground(theme.background.as_hex())
        for plot in (self._iou_plot, self._loss_plot):
            for side in ("left", "bottom"):
                plot.getAxis(side).setPen(faint)
                plot.getAxis(side).setTextPen(text)
        strong = theme.current.as_hex()
        self._live_line.setPen(pg.mkPen(accent, style=pg.QtCore.Qt.PenStyle.DashLine))
        self._iou_curve.setPen(pg.mkPen(strong, width=2))
        self._iou_curve.setSymbolBrush(strong)
        self._iou_curve.setSymbolPen(None)
        self._best_dot.setSymbolBrush(text)
        self._best_dot.setSymbolPen(None)
        self._raw_curve.setPen(pg.mkPen(faint))
        self._loss_curve.setPen(pg.mkPen(accent, width=2))

    def _refresh_soon(self) -> None:
        if not self._timer.isActive():
            self._timer.start()

    def _plot(self, row: int, label: str) -> Any:
        plot = self.addPlot(row=row, col=0)
        for side in ("left", "bottom"):
            plot.getAxis(side).enableAutoSIPrefix(False)
            plot.getAxis(side).setStyle(maxTickLevel=0)
        plot.setLabel("left", label)
        plot.getAxis("left").setWidth(_AXIS_WIDTH)
        plot.getAxis("left").setTickDensity(_TICKS)
        plot.setLimits(xMin=0, minXRange=_LEAST_STEPS)
        plot.setMenuEnabled(False)
        plot.setMouseEnabled(x=False, y=False)
        plot.hideButtons()
        return plot
