"""Build a site from the pages of ``docs/`` and the README: ``make docs``, into ``build/site``.

The pages are written for the repository. Here they are copied, links between them are turned to
where the copies lie, and links to other files of the repository become plain text.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BUILD = ROOT / "build"
CARD = "napari_peftsam/models/weights/MODEL_CARD.md"

PAGES = {
    "Start": "index.md",
    "Annotating": "annotating.md",
    "Projects": "projects.md",
    "Files and formats": "formats.md",
    "Models": "models.md",
    "Methods": "methods.md",
    "Python": "python.md",
    "Command line": "command-line.md",
    "Automatic segmentation": "automatic.md",
    "Many machines": "many-machines.md",
    "Security": "security.md",
    "Other programs": "exchange.md",
    "Performance": "performance.md",
    "Study of the methods": "study.md",
    "Study of the settings": "settings-study.md",
    "Which model goes live": "gate.md",
    "The built-in model": "model-card.md",
    "Architecture": "architecture.md",
    "The rebuild": "rebuild.md",
}
"""Title and file of each page of the site, in the order of its navigation."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def pages() -> dict[str, str]:
    """Return the text of each page of the site by its file name."""
    sources = {"index.md": ROOT / "README.md", "model-card.md": ROOT / CARD}
    sources |= {path.name: path for path in sorted(DOCS.glob("*.md"))}
    places = {path.resolve(): name for name, path in sources.items()}
    places |= {path.resolve(): f"images/{path.name}" for path in (DOCS / "images").iterdir()}
    return {
        name: _turned(path.read_text(encoding="utf-8"), path.parent, places)
        for name, path in sources.items()
    }


def _turned(text: str, folder: Path, places: dict[Path, str]) -> str:
    """Turn links from a page in a folder to where the copies lie."""

    def turned(link: re.Match[str]) -> str:
        picture, title, target, anchor = link.groups()
        if "://" in target:
            return link[0]
        place = places.get((folder / target).resolve())
        return title if place is None else f"{picture}[{title}]({place}{anchor or ''})"

    return _LINK.sub(turned, text)


def configuration() -> str:
    """Return the configuration of mkdocs."""
    listed = "\n".join(f"  - {title}: {name}" for title, name in PAGES.items())
    return (
        "site_name: napari-peftsam\ndocs_dir: pages\nsite_dir: site\nuse_directory_urls: false\n"
        "theme:\n  name: material\n  font: false\n"
        "markdown_extensions:\n  - tables\n  - attr_list\n  - pymdownx.superfences\n"
        f"nav:\n{listed}\n"
    )


def main() -> None:
    """Write pages and configuration, and let mkdocs build the site; any warning is an error."""
    from mkdocs.__main__ import cli

    target = BUILD / "pages"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(DOCS / "images", target / "images")
    for name, text in pages().items():
        (target / name).write_text(text, encoding="utf-8")
    (BUILD / "mkdocs.yml").write_text(configuration(), encoding="utf-8")
    sys.exit(cli(["build", "--strict", "--config-file", str(BUILD / "mkdocs.yml")]))


if __name__ == "__main__":
    main()
