"""The file dialogs; docks keep them as attributes, which scripts and tests replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QInputDialog,
    QMessageBox,
    QWidget,
)

from napari_peftsam.widgets._parts import MARGINS, form_layout, stacked, text_label


def ask_open(parent: QWidget, title: str, filters: str) -> Path | None:
    """Let the user choose an existing file; None if they change their mind."""
    chosen, _ = QFileDialog.getOpenFileName(parent, title, "", filters)
    return Path(chosen) if chosen else None


def ask_files(parent: QWidget, title: str, filters: str) -> tuple[Path, ...]:
    """Let the user choose existing files; none if they change their mind."""
    chosen, _ = QFileDialog.getOpenFileNames(parent, title, "", filters)
    return tuple(map(Path, chosen))


def ask_folder(parent: QWidget, title: str, begin: Path | None = None) -> Path | None:
    """Let the user choose a folder, beginning at `begin`; None if they change their mind."""
    chosen = QFileDialog.getExistingDirectory(parent, title, str(begin or ""))
    return Path(chosen) if chosen else None


def ask_number(
    parent: QWidget, title: str, question: str, value: int, least: int = 1
) -> int | None:
    """Let the user enter a number from `least` on; None if they change their mind."""
    number, accepted = QInputDialog.getInt(parent, title, question, value, least)
    return number if accepted else None


def ask_text(parent: QWidget, title: str, question: str) -> str | None:
    """Let the user enter a text; None if it is empty, or they change their mind."""
    text, accepted = QInputDialog.getText(parent, title, question)
    return (text.strip() or None) if accepted else None


def ask_one(parent: QWidget, title: str, question: str, choices: Sequence[str]) -> int | None:
    """Let the user choose by one button each; the number of it, None if they change their mind."""
    box = QMessageBox(QMessageBox.Icon.Question, title, question, parent=parent)
    buttons = [box.addButton(text, QMessageBox.ButtonRole.AcceptRole) for text in choices]
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.exec()
    pressed = box.clickedButton()
    return buttons.index(pressed) if pressed in buttons else None


def ask_texts(
    parent: QWidget, title: str, question: str, *fields: tuple[str, str, Sequence[str], str]
) -> tuple[str, ...] | None:
    """Let the user fill in texts; None if they change their mind.

    Parameters
    ----------
    fields
        For each text its name, present value, suggestions, and a tip.
    """
    dialog = QDialog(parent)
    dialog.setWindowTitle(title)
    editors = []
    for _, value, suggestions, tip in fields:
        editor = QComboBox()
        editor.setEditable(True)
        editor.addItems(list(suggestions))
        editor.setCurrentText(value)
        editor.setToolTip(tip)
        editors.append(editor)
    rows = form_layout(*((name, e) for (name, *_), e in zip(fields, editors, strict=True)))
    answers = QDialogButtonBox.StandardButton
    buttons = QDialogButtonBox(answers.Ok | answers.Cancel)
    buttons.accepted.connect(dialog.accept)
    buttons.rejected.connect(dialog.reject)
    tips = text_label("\n".join(f"{name}: {tip}" for name, _, _, tip in fields))
    layout = stacked(text_label(question), rows, tips, buttons, inside=dialog)
    layout.setContentsMargins(*MARGINS)
    dialog.resize(420, dialog.sizeHint().height())
    accepted = dialog.exec() == QDialog.DialogCode.Accepted
    return tuple(e.currentText().strip() for e in editors) if accepted else None


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
