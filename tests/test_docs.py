"""The pages that scripts fill say what the code does, and what was measured."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scripts import each other, as when they are run."""
    monkeypatch.syspath_prepend(str(DOCS))


def test_the_page_of_methods_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_methods.py"))
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert script["filled"](page) == page, "run: make methods-page"


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    script = runpy.run_path(str(DOCS / "make_methods.py"))
    with pytest.raises(ValueError, match="no place for the table lora"):
        script["filled"]("<!-- table: methods -->\n\n\n\n<!-- end of table -->\n")


def test_the_page_of_performance_shows_the_kept_figures() -> None:
    script = runpy.run_path(str(DOCS / "make_performance.py"))
    figures = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert script["filled"](page, figures) == page, "run: make performance-page"


def test_the_kept_figures_are_not_of_a_quick_run() -> None:
    figures = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))
    assert figures.get("report", {}).get("settings", {}).get("architecture", "vit_b") == "vit_b"
    assert figures.get("scaling", {}).get("architecture", "vit_b") == "vit_b"
