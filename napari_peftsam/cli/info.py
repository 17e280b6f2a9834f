"""``napari-peftsam info``: contents of a project in numbers."""

from __future__ import annotations

from contextlib import closing

from ._console import emit
from ._options import Json, ProjectFile

__all__ = ["info"]


def info(project: ProjectFile, as_json: Json = False) -> None:
    """Show how much a project holds; it may be open in a viewer.

    Objects are the accepted ones. Seconds are the time worked: the gaps between actions, each
    at most 60 s.
    """
    from napari_peftsam.document import open_project, summary

    with closing(open_project(project, read_only=True)) as store:
        values = summary(store)
    emit(values, as_json, "\n".join(f"{name:10}{value:>10,g}" for name, value in values.items()))
