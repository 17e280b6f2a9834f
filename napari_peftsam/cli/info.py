"""``napari-peftsam info``: contents of a project in numbers."""

from __future__ import annotations

from contextlib import closing

from ._console import emit, say
from ._options import Json, ProjectFile

__all__ = ["info"]


def info(project: ProjectFile, as_json: Json = False) -> None:
    """Show how much a project holds; it may be open in a viewer.

    Objects are the accepted ones. Seconds are the time worked: the gaps between actions, each
    at most 60 s. Images whose file is missing or has changed are named on standard error.
    """
    from napari_peftsam.document import find_source, open_project, summary

    with closing(open_project(project, read_only=True)) as store:
        values = summary(store)
        sources = {
            info.name: find_source(info.source, store.path)
            for info in store.images().values()
            if not info.is_removed
        }
    for name, found in sources.items():
        if found.text:
            say(f"{name}: {found.text}")
    missing = [name for name, found in sources.items() if found.state == "missing"]
    text = "\n".join(f"{name:10}{value:>10,g}" for name, value in values.items())
    emit({**values, "missing": missing}, as_json, text)
