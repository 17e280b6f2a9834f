"""``napari-peftsam export-model``: model and adapter as one plain SAM checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._console import emit
from ._options import Json, Model

__all__ = ["export_model"]


def export_model(
    adapter: Annotated[Path, typer.Option(help="Adapter file to merge into the model.")],
    output: Annotated[Path, typer.Option(help="Checkpoint to write (.pth).")],
    model: Model = "builtin",
    as_json: Json = False,
) -> None:
    """Write a plain SAM checkpoint with an adapter merged in, for other SAM software."""
    from napari_peftsam.app.exchange import export_model_file

    written = export_model_file(model, adapter, output)
    emit({"output": str(written)}, as_json, str(written))
