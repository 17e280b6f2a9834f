"""``napari-peftsam recover``: a copy of what is readable of a damaged project."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from napari_peftsam.errors import ConfigurationError

from ._console import emit
from ._options import Json, ProjectFile

__all__ = ["recover"]

_LOST = 1  # exit code


def recover(
    project: ProjectFile,
    output: Annotated[Path, typer.Option(help="Project file to write; must not exist.")],
    as_json: Json = False,
) -> None:
    """Write what is readable of a damaged project into a new one; the old one stays as it is.

    The exit code is 1 if images, labels, records or adapters were lost.
    """
    if output.exists():
        raise ConfigurationError(f"{output} exists already: choose another name for the copy")

    from napari_peftsam.document import recover_project

    report = recover_project(project, output)
    counts = {k: v if isinstance(v, int) else len(v) for k, v in asdict(report).items()}
    emit({"output": str(output), **counts}, as_json, f"{report.text}\n{output}")
    if report.has_losses:
        raise typer.Exit(_LOST)
