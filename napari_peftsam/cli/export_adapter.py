"""``napari-peftsam export-adapter``: an adapter as a folder for other PEFT software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._console import emit
from ._options import Json, Model

__all__ = ["export_adapter"]


def export_adapter(
    adapter: Annotated[Path, typer.Option(help="Adapter file to export.")],
    output: Annotated[Path, typer.Option(help="Folder to write; an older export is replaced.")],
    model: Model = "builtin",
    format_name: Annotated[
        str, typer.Option("--format", help="hf-peft: a folder that HF peft loads.")
    ] = "hf-peft",
    as_json: Json = False,
) -> None:
    """Write an adapter for HF peft, tuned mask decoder and prompt encoder included.

    For methods whose updates are low-rank (all kinds of LoRA, PiSSA, FacT); others are refused
    with what to do instead. There: PeftModel.from_pretrained(sam, folder).
    """
    from napari_peftsam.app.exchange import export_adapter_folder

    written = export_adapter_folder(model, adapter, output, format_name)
    emit({"output": str(written), "format": format_name}, as_json, str(written))
