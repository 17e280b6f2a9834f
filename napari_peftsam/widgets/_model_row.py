"""One model in the list of models; shows what it is told and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from napari_peftsam.app.advice import download_text
from napari_peftsam.widgets._parts import push_button, text_label

if TYPE_CHECKING:
    from napari_peftsam.models import DownloadProgress, ModelEntry

__all__ = ["ModelRow", "RowState"]

_PARTS = 1000
_CITE = "cite"


@dataclass(frozen=True)
class RowState:
    """What a row shows besides the model's description.

    Attributes
    ----------
    available, begun
        Its checkpoint is on this computer, or a part of it.
    live, loading
        The model answers prompts, or is about to.
    recommended
        It is the one to start with.
    downloading, stopping
        It is coming, or its download is about to end; how far it is is in `progress`, None
        until the server has answered.
    failure
        Why it could not be downloaded; empty otherwise.
    """

    available: bool = False
    begun: bool = False
    live: bool = False
    loading: bool = False
    recommended: bool = False
    downloading: bool = False
    stopping: bool = False
    progress: DownloadProgress | None = None
    failure: str = ""


class ModelRow(QFrame):
    """Name, size, purpose, licence, citation, and the button for the next step.

    Parameters
    ----------
    entry
        The model.
    """

    def __init__(self, entry: ModelEntry) -> None:
        super().__init__()
        self.entry = entry
        self.title = QLabel()
        self.title.setTextFormat(Qt.TextFormat.RichText)
        self.title.setToolTip(entry.title)
        self.megabytes = QLabel(f"{entry.megabytes:,} MB" if entry.megabytes else "")
        self.purpose = text_label(
            entry.purpose or (entry.title if entry.title != entry.name else "")
        )
        self.terms = QLabel(_terms(entry))
        self.terms.setTextFormat(Qt.TextFormat.RichText)
        self.terms.setToolTip(entry.citation)
        self.terms.linkActivated.connect(self._link)
        self.state = QLabel()
        self.action = push_button()
        self.stop = push_button("✕", "Stop; what has come is kept")
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.failure = text_label()
        self._lay_out()

    def _lay_out(self) -> None:
        top, bottom = QHBoxLayout(), QHBoxLayout()
        top.addWidget(self.title, 1)
        top.addWidget(self.megabytes)
        bottom.addWidget(self.terms, 1)
        for widget in (self.state, self.action, self.stop):
            bottom.addWidget(widget)
        self.stop.setFixedWidth(30)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 4, 0, 6)
        layout.setSpacing(3)
        layout.addLayout(top)
        layout.addWidget(self.purpose)
        layout.addLayout(bottom)
        layout.addWidget(self.progress)
        layout.addWidget(self.failure)

    def show_state(self, state: RowState) -> None:
        """Show what can be done with the model now."""
        entry = self.entry
        star = "★ " if state.recommended else ""
        self.title.setText(f"<b>{star}{escape(entry.name)}</b>")
        self._show_action(state)
        self.stop.setVisible(state.downloading)
        self.progress.setVisible(state.downloading)
        self.failure.setVisible(bool(state.failure))
        self.failure.setText(f"⚠ {state.failure}")
        if state.progress is None or not state.progress.total:
            self.progress.setRange(0, 0)  # busy
        else:
            self.progress.setRange(0, _PARTS)
            self.progress.setValue(round(_PARTS * state.progress.fraction))

    def _show_action(self, state: RowState) -> None:
        text = _state_text(self.entry, state)
        self.state.setText(text)
        self.state.setToolTip("" if state.available or self.entry.url else self.entry.absence())
        self.action.setVisible(not text)
        if state.available:
            self.action.setText("Use")
            self.action.setToolTip(f"Answer prompts with {self.entry.title}")
        else:
            self.action.setText("Resume" if state.begun else "Download")
            self.action.setToolTip(f"From {self.entry.url}")

    def _link(self, target: str) -> None:
        clipboard = QGuiApplication.clipboard()
        if target == _CITE and clipboard is not None:
            clipboard.setText(self.entry.citation)
            below = self.terms.mapToGlobal(self.terms.rect().bottomLeft())
            QToolTip.showText(below, "Copied", self.terms)


def _state_text(entry: ModelEntry, state: RowState) -> str:
    if state.downloading:
        return download_text(state.progress)
    if state.stopping:
        return "◌ stopping"
    if state.loading:
        return "◌ loading"
    if state.live:
        return "● in use"
    return "" if state.available or entry.url else "⚠ missing"


def _terms(entry: ModelEntry) -> str:
    cite = f'<a href="{_CITE}" style="color: gray">cite</a>' if entry.citation else ""
    return " · ".join(part for part in (escape(entry.license), cite) if part)


def separator() -> QWidget:
    """Return a line between two rows."""
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    return line
