"""Projects that were opened lately, in a small file of the user's configuration folder."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from napari_peftsam.errors import PeftSamError
from napari_peftsam.files import atomic_path
from napari_peftsam.folders import configuration_folder, project_folder

__all__ = ["note_recent", "recent_projects"]

_KEPT = 10


def recent_projects() -> tuple[Path, ...]:
    """Return the projects opened last, the newest first; some may be gone."""
    with suppress(OSError, ValueError):
        found = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(found, list):
            return tuple(Path(each) for each in found if isinstance(each, str))[:_KEPT]
    return ()


def note_recent(path: Path) -> None:
    """Put a project at the head of the list, unless it has no name of its own."""
    path = path.resolve()
    if path.parent == project_folder().resolve():
        return
    paths = [path, *(each for each in recent_projects() if each != path)][:_KEPT]
    with suppress(OSError, PeftSamError):  # a list that cannot be written costs nobody any work
        _file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(_file()) as temporary:
            temporary.write_text(json.dumps([str(each) for each in paths]), encoding="utf-8")


def _file() -> Path:
    return configuration_folder() / "recent.json"
