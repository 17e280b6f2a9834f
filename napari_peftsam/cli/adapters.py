"""``napari-peftsam export-model``, ``export-adapter`` and ``import-adapter``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._console import emit
from ._options import FrameSize, Json, Model

if TYPE_CHECKING:
    from napari_peftsam.peft import Adapter


def export_model(
    adapter: Annotated[Path, typer.Option(help="Adapter file to merge into the model.")],
    output: Annotated[Path, typer.Option(help="Checkpoint to write (.pth).")],
    model: Model = "builtin",
    frame: FrameSize = None,
    as_json: Json = False,
) -> None:
    """Write a plain SAM checkpoint with an adapter merged in, for other SAM software."""
    from napari_peftsam.app.exchange import export_model_file
    from napari_peftsam.batch.plan import ModelSource

    written = export_model_file(ModelSource(model, frame=frame).model, adapter, output)
    emit({"output": str(written)}, as_json, str(written))


def export_adapter(  # noqa: PLR0913, PLR0917  # one parameter per option
    adapter: Annotated[Path, typer.Option(help="Adapter file to export.")],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder to write, an older export is replaced; of the format adapter a file."
        ),
    ],
    model: Model = "builtin",
    frame: FrameSize = None,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="hf-peft: a folder that HF peft loads; adapter: a file of this program.",
        ),
    ] = "hf-peft",
    anonymise: Annotated[
        bool,
        typer.Option("--anonymise", help="Leave out the names of the images it was trained on."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write an adapter for HF peft, tuned mask decoder and prompt encoder included.

    Or for other people with this program, without the names of your images.

    For methods whose updates are low-rank (all kinds of LoRA, PiSSA, FacT); others are refused
    with what to do instead. There: PeftModel.from_pretrained(sam, folder).
    """
    from napari_peftsam.app.exchange import export_adapter_file
    from napari_peftsam.batch.plan import ModelSource

    chosen = ModelSource(model, frame=frame).model
    written = export_adapter_file(chosen, adapter, output, format_name, anonymise=anonymise)
    emit({"output": str(written), "format": format_name}, as_json, str(written))


def import_adapter(  # noqa: PLR0913, PLR0917  # one parameter per option
    source: Annotated[Path, typer.Argument(help="Folder that HF peft or export-adapter wrote.")],
    output: Annotated[Path, typer.Option(help="Adapter file to write (.safetensors).")],
    model: Annotated[
        str | None,
        typer.Option(
            help="The model it was trained on, a name or a checkpoint's path.  [default: builtin; "
            "exports of this program know theirs]"
        ),
    ] = None,
    frame: FrameSize = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank it must have; by default the one found.")
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(help="Blocks it must adapt, as in finetune; by default those found."),
    ] = None,
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
    from napari_peftsam.batch.plan import ModelSource
    from napari_peftsam.peft import ExpectedAdapter, Placement

    placed = None if placement is None else Placement.parse(placement)
    if frame is not None:
        model = str(ModelSource(model or "builtin", frame=frame).model)
    adapter = import_adapter_file(source, output, model, ExpectedAdapter(rank, placed, alpha))
    shown, text = describe(adapter)
    emit({"output": str(output), **shown}, as_json, f"{text}\nadapter: {output}")


def describe(adapter: Adapter) -> tuple[dict[str, Any], str]:
    """Return the method, the options and the model of an adapter, for JSON and for people."""
    options = adapter.config.model_dump(mode="json")
    shown = {
        "method": adapter.config.method,
        **{name: options.get(name) for name in ("rank", "placement", "matrices", "alpha")},
        "model": adapter.base.name,
    }
    return shown, ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)
