"""``napari-peftsam export``: labels in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_peftsam.errors import ConfigurationError

from ._console import emit, say
from ._options import Json

__all__ = ["export"]


def export(
    labels: Annotated[
        Path, typer.Argument(help="Label image (TIFF, PNG or zarr), or project (.peftsam).")
    ],
    output: Annotated[Path, typer.Option(help="File or zarr folder to write.")],
    format_name: Annotated[str, typer.Option("--format", help="tiff, ome-zarr or coco.")],
    image: Annotated[
        str | None,
        typer.Option(help="Name of the image, for a project that holds several."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write labels as compressed TIFF, OME-Zarr or COCO JSON.

    Those of a project are written with the provenance of the objects; it may be open in a
    viewer.
    """
    from napari_peftsam.app.exchange import export_file
    from napari_peftsam.app.project_commands import export_project
    from napari_peftsam.document import is_project

    if is_project(labels):
        written = export_project(labels, image, output, format_name, say)
    elif image is not None:
        raise ConfigurationError(f"{labels} is no project: leave out --image")
    else:
        written = export_file(labels, output, format_name)
    emit({"output": str(written), "format": format_name}, as_json, str(written))
