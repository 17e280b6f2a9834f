"""Naming a file never replaces one that was not asked about."""

from __future__ import annotations

from pathlib import Path

import pytest
from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_peftsam.widgets._dialogs import ask_save, with_ending

YES, NO = QMessageBox.StandardButton.Yes, QMessageBox.StandardButton.No


@pytest.mark.parametrize(
    ("typed", "answer", "expected"),
    [
        pytest.param("new", None, "new.pth", id="completed"),
        pytest.param("v1.2", None, "v1.2.pth", id="a dot is no ending"),
        pytest.param("there.pth", None, "there.pth", id="asked by the dialog itself"),
        pytest.param("other.PT", None, "other.PT", id="another ending"),
        pytest.param("there", YES, "there.pth", id="replace"),
        pytest.param("there", NO, None, id="do not replace"),
        pytest.param("", None, None, id="cancelled"),
    ],
)
def test_names_are_completed_and_asked_about(
    typed: str,
    answer: object,
    expected: str | None,
    tmp_path: Path,
    qtbot: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "there.pth").touch()
    chosen = str(tmp_path / typed) if typed else ""
    asked: list[str] = []

    def question(parent: object, title: str, text: str) -> object:
        asked.append(text)
        return answer

    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (chosen, ""))
    monkeypatch.setattr(QMessageBox, "question", question)
    path = ask_save(QWidget(), "Save", "there.pth", "*.pth", with_ending(".pth", ".pt"))
    assert path == (None if expected is None else tmp_path / expected)
    assert len(asked) == (0 if answer is None else 1)
