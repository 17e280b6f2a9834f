"""The file dialogs; docks keep them as attributes, which scripts and tests replace."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QWidget

__all__ = ["ask_open", "ask_save"]


def ask_open(parent: QWidget, title: str, filters: str) -> Path | None:
    """Let the user choose an existing file; None if they change their mind."""
    chosen, _ = QFileDialog.getOpenFileName(parent, title, "", filters)
    return Path(chosen) if chosen else None


def ask_save(parent: QWidget, title: str, suggestion: str, filters: str) -> Path | None:
    """Let the user name a file to write; None if they change their mind."""
    chosen, _ = QFileDialog.getSaveFileName(parent, title, suggestion, filters)
    return Path(chosen) if chosen else None
