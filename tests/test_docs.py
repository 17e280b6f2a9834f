"""The pages that scripts fill say what the code does, and what was measured."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import tifffile

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def _neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the scripts import each other, as when they are run."""
    monkeypatch.syspath_prepend(str(DOCS))


def test_the_page_of_methods_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_methods.py"))
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert script["filled"](page) == page, "run: make methods-page"


def test_the_page_of_formats_is_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_formats.py"))
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    assert script["filled"](page) == page, "run: make formats-page"


def test_the_site_has_every_page_and_no_dead_link() -> None:
    script = runpy.run_path(str(DOCS / "make_site.py"))
    pages = script["pages"]()
    assert set(script["PAGES"].values()) == set(pages)
    for name, text in pages.items():
        for _, _, target, _ in script["_LINK"].findall(text):
            exists = target in pages or (DOCS / target).exists()
            assert "://" in target or exists, f"{name}: {target}"


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


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import napari_peftsam as ps
    from napari_peftsam.files import read_labels

    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    example = text.split("## In Python\n")[1].split("```python\n")[1].split("```")[0]
    assert len(example.splitlines()) <= 12
    assert "seconds=60" in example
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).normal(30, 5, (256, 256)).clip(0, 255).astype(np.uint8)
    rows, cols = np.mgrid[:256, :256]
    for row, col in [(120, 64), (30, 80), (75, 140), (200, 33), (205, 175)]:
        pixels[(rows - row) ** 2 + (cols - col) ** 2 < 20**2] += 120
    tifffile.imwrite("cells.tif", pixels)
    exec(example.replace("seconds=60", "seconds=1"), {})
    labels = read_labels("labels.ome.zarr")
    assert len(np.unique(labels)) == 6
    with ps.App("cells.peftsam") as app:
        assert len(app.images["cells"].objects) == 5
        assert len(app.document.runs) == 1
