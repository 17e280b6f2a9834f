"""The page of methods says what the code does."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_of_methods_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_methods.py"))
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert script["filled"](page) == page, "run: make methods-page"


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    script = runpy.run_path(str(DOCS / "make_methods.py"))
    with pytest.raises(ValueError, match="no place for the table lora"):
        script["filled"]("<!-- table: methods -->\n\n\n\n<!-- end of table -->\n")
