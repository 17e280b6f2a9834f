"""One model in the list of models; it decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFrame, QLabel, QProgressBar, QToolTip, QWidget

from napari_peftsam.widgets._parts import beside, push_button, stacked, text_label

if TYPE_CHECKING:
    from napari_peftsam.models import DownloadProgress, ModelEntry

__all__ = ["ModelRow", "RowState", "separator"]

_PARTS = 1000
_CITE = "cite"


@dataclass(frozen=True)
class RowState:
    """State of a model, as its row shows it.

    Attributes
    ----------
    text
        What is being done with the model; empty if there is something to do.
    is_begun
        Whether a part of its checkpoint is on this computer.
    is_recommended
        Whether it is the one to start with.
    is_downloading, progress
        Whether it is coming, and how much is here; None until the server has answered.
    failure
        Why it could not be downloaded; empty otherwise.
    """

    text: str = ""
    is_begun: bool = False
    is_recommended: bool = False
    is_downloading: bool = False
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
        self.stop.setFixedWidth(30)
        top = beside(self.title, self.megabytes, stretch=0, spacing=6)
        bottom = beside(self.terms, self.state, self.action, self.stop, stretch=0, spacing=6)
        parts = (top, self.purpose, bottom, self.progress, self.failure)
        layout = stacked(*parts, inside=self, spacing=3)
        layout.setContentsMargins(0, 4, 0, 6)

    def show_state(self, state: RowState) -> None:
        """Show what can be done with the model now."""
        entry = self.entry
        star = "★ " if state.is_recommended else ""
        self.title.setText(f"<b>{star}{escape(entry.name)}</b>")
        self.state.setText(state.text)
        self.state.setToolTip("" if entry.available or entry.url else entry.absence())
        self.action.setVisible(not state.text)
        if entry.available:
            self.action.setText("Use")
            self.action.setToolTip(f"Answer prompts with {entry.title}")
        else:
            self.action.setText("Resume" if state.is_begun else "Download")
            self.action.setToolTip(f"From {entry.url}")
        self.stop.setVisible(state.is_downloading)
        self.progress.setVisible(state.is_downloading)
        self.failure.setVisible(bool(state.failure))
        self.failure.setText(f"⚠ {state.failure}")
        is_measured = state.progress is not None and bool(state.progress.total)
        self.progress.setRange(0, _PARTS if is_measured else 0)  # else busy
        if is_measured and state.progress is not None:
            self.progress.setValue(round(_PARTS * state.progress.fraction))

    def _link(self, target: str) -> None:
        clipboard = QGuiApplication.clipboard()
        if target == _CITE and clipboard is not None:
            clipboard.setText(self.entry.citation)
            below = self.terms.mapToGlobal(self.terms.rect().bottomLeft())
            QToolTip.showText(below, "Copied", self.terms)


def _terms(entry: ModelEntry) -> str:
    cite = f'<a href="{_CITE}" style="color: gray">cite</a>' if entry.citation else ""
    return " · ".join(part for part in (escape(entry.license), cite) if part)


def separator() -> QWidget:
    """Return a line between two rows."""
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    return line
