"""``napari-peftsam export``: a label image in the format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._console import emit
from ._options import Json

__all__ = ["export"]


def export(
    labels: Annotated[Path, typer.Argument(help="Label image: TIFF, PNG or zarr.")],
    output: Annotated[Path, typer.Option(help="File or zarr folder to write.")],
    format_name: Annotated[str, typer.Option("--format", help="tiff, ome-zarr or coco.")],
    as_json: Json = False,
) -> None:
    """Write labels as compressed TIFF, OME-Zarr or COCO JSON."""
    from napari_peftsam.workspace import export_file

    written = export_file(labels, output, format_name)
    emit({"output": str(written), "format": format_name}, as_json, str(written))
