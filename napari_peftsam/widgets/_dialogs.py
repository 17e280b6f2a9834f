"""The file dialogs; docks keep them as attributes, which scripts and tests replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

__all__ = ["ask_folder", "ask_open", "ask_save", "ask_yes", "with_ending"]


def ask_open(parent: QWidget, title: str, filters: str) -> Path | None:
    """Let the user choose an existing file; None if they change their mind."""
    chosen, _ = QFileDialog.getOpenFileName(parent, title, "", filters)
    return Path(chosen) if chosen else None


def ask_folder(parent: QWidget, title: str) -> Path | None:
    """Let the user choose a folder; None if they change their mind."""
    chosen = QFileDialog.getExistingDirectory(parent, title)
    return Path(chosen) if chosen else None


def ask_yes(parent: QWidget, title: str, question: str) -> bool:
    """Ask the user a question; whether the answer is yes."""
    return QMessageBox.question(parent, title, question) == QMessageBox.StandardButton.Yes


def with_ending(*endings: str) -> Callable[[Path], Path]:
    """Return what gives a path the first of these endings unless it has one of them."""
    return lambda path: (
        path if path.name.lower().endswith(endings) else path.with_name(f"{path.name}{endings[0]}")
    )


def ask_save(
    parent: QWidget, title: str, suggestion: str, filters: str, complete: Callable[[Path], Path]
) -> Path | None:
    """Let the user name a file to write; None if they change their mind.

    If `complete` makes another name of it and a file of that name is there, that is asked
    about: the system's dialog saw the first one.
    """
    chosen, _ = QFileDialog.getSaveFileName(parent, title, suggestion, filters)
    if not chosen:
        return None
    completed = complete(Path(chosen))
    if completed != Path(chosen) and completed.exists():
        question = f"{completed.name} exists already. Replace it?"
        if not ask_yes(parent, title, question):
            return None
    return completed
