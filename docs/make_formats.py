"""Write the tables of formats.md from the code; the words between them are the page's own.

Run it with ``make formats-page``. A test compares the page with what this writes.
"""

from __future__ import annotations

from pathlib import Path

from _tables import filled as filled_page
from _tables import table

from napari_peftsam.export import FORMATS
from napari_peftsam.files import FILE_KINDS

PAGE = Path(__file__).parent / "formats.md"


def read() -> str:
    """Return the kinds of file that are read."""
    return table(
        ("files", "axes", "pixel size", "channels", "read by", "tested with"),
        "llllll",
        (
            (kind.title, kind.axes, kind.scale, kind.channels, kind.library, kind.tested)
            for kind in FILE_KINDS
        ),
    )


def written() -> str:
    """Return the formats that are written."""
    return table(
        ("`--format`", "what", "ending", "holds", "written by"),
        "lllll",
        (
            (f"`{one.name}`", one.title, f"`{one.suffixes[0]}`", one.holds, one.library)
            for one in FORMATS.values()
        ),
    )


def filled(page: str) -> str:
    """Return the page with its tables made anew."""
    return filled_page(page, {"read": read, "written": written}, PAGE.name)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
