"""``napari-peftsam segment``: one image and a file of prompts in, one label image out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._console import emit, say
from ._options import Adapter, Device, Json, Model, Precision

__all__ = ["segment"]


def segment(  # noqa: PLR0913, PLR0917  # one parameter per option
    image: Annotated[Path, typer.Argument(help="One 2D image: TIFF, PNG, JPEG or zarr.")],
    prompts: Annotated[Path, typer.Option(help="JSON file: a list of objects, as above.")],
    output: Annotated[
        Path, typer.Option(help="Label image to write: .tif, or .zarr, which a large image needs.")
    ],
    model: Model = "builtin",
    adapter: Adapter = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Segment prompted objects; object number i of the prompts file gets label i.

    The prompts file is a list of {"points": [[row, col], ...], "labels": [1, 0, ...],
    "box": [row0, col0, row1, col1]}: points (label 1 on the object, 0 not on it), a box,
    or both.
    """
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.exchange import segment_file

    report = segment_file(image, prompts, output, ModelChoice(model, adapter, device, precision))
    if report.empty:
        numbers = ", ".join(map(str, report.empty))
        say(f"note: no pixel was left for object {numbers}")
    emit(report.to_dict(), as_json, f"{report.objects} objects: {report.output}")
