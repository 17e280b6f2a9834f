"""``napari-peftsam import-adapter``: an adapter file from a folder of HF peft."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._console import emit
from ._options import Json

__all__ = ["import_adapter"]

_MODEL = (
    "The model it was trained on, a name or a checkpoint's path.  [default: builtin; exports of "
    "this program know theirs]"
)
_PLACEMENT = "Blocks it must adapt, as in finetune; by default those found."


def import_adapter(  # noqa: PLR0913, PLR0917  # one parameter per option
    source: Annotated[Path, typer.Argument(help="Folder that HF peft or export-adapter wrote.")],
    output: Annotated[Path, typer.Option(help="Adapter file to write (.safetensors).")],
    model: Annotated[str | None, typer.Option(help=_MODEL)] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank it must have; by default the one found.")
    ] = None,
    placement: Annotated[str | None, typer.Option(help=_PLACEMENT)] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Factor it must have (lora_alpha / rank); by default the one found."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn LoRA weights of HF peft into an adapter file of this program.

    HF's folders do not name the model they belong to: give it with --model.
    """
    from napari_peftsam.app.exchange import import_adapter_file
    from napari_peftsam.peft import ExpectedAdapter, Placement

    placed = None if placement is None else Placement.parse(placement)
    adapter = import_adapter_file(source, output, model, ExpectedAdapter(rank, placed, alpha))
    options = adapter.config.model_dump(mode="json")
    values = {
        "output": str(output),
        "method": adapter.config.method,
        "rank": options.get("rank"),
        "placement": options.get("placement"),
        "matrices": options.get("matrices"),
        "alpha": options.get("alpha"),
        "model": adapter.base.name,
    }
    shown = ", ".join(f"{k} {v}" for k, v in values.items() if v is not None and k != "output")
    emit(values, as_json, f"{shown}\nadapter: {output}")
