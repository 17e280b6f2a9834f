"""The file dialogs; docks keep them as attributes, which scripts and tests replace."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

__all__ = ["ask_open", "ask_save"]


def ask_open(parent: QWidget, title: str, filters: str) -> Path | None:
    """Let the user choose an existing file; None if they change their mind."""
    chosen, _ = QFileDialog.getOpenFileName(parent, title, "", filters)
    return Path(chosen) if chosen else None


def ask_save(
    parent: QWidget, title: str, suggestion: str, filters: str, suffixes: tuple[str, ...]
) -> Path | None:
    """Let the user name a file to write; None if they change their mind.

    A name without one of the suffixes gets the first one. If a file of the completed name
    is there, that is asked about: the system's dialog saw another name.
    """
    chosen, _ = QFileDialog.getSaveFileName(parent, title, suggestion, filters)
    if not chosen:
        return None
    path = Path(chosen)
    if path.name.lower().endswith(suffixes):
        return path
    completed = path.with_name(path.name + suffixes[0])
    if completed.exists():
        question = f"{completed.name} exists already. Replace it?"
        buttons = QMessageBox.StandardButton
        if QMessageBox.question(parent, title, question) != buttons.Yes:
            return None
    return completed
