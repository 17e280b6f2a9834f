"""``napari-peftsam methods``: the finetuning methods and their trainable parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ._console import emit
from ._options import (
    Alpha,
    Bottleneck,
    Cobot,
    DecoderLoraRank,
    Json,
    Matrices,
    Method,
    Placement,
    Rank,
    Settings,
    method_options,
)

if TYPE_CHECKING:
    from napari_peftsam.app.methods import MethodOverview

__all__ = ["methods"]

_HEAD = ("method", "encoder", "total", "merges", "")


def methods(  # noqa: PLR0913, PLR0917  # one parameter per option
    architecture: Annotated[
        str, typer.Option(help="builtin, vit_b, vit_l, vit_h or vit_t.")
    ] = "builtin",
    method: Method = None,
    cobot: Cobot = False,
    rank: Rank = None,
    alpha: Alpha = None,
    placement: Placement = None,
    matrices: Matrices = None,
    bottleneck: Bottleneck = None,
    decoder_lora_rank: DecoderLoraRank = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Show the methods of finetuning, and how many parameters each trains.

    An option applies to the methods that have it; a method that cannot take one says so in
    its line. With --cobot alone, the orchestrated methods are shown.
    """
    options = method_options(
        settings,
        rank=rank,
        alpha=alpha,
        placement=placement,
        matrices=matrices,
        bottleneck=bottleneck,
        decoder_lora_rank=decoder_lora_rank,
    )

    from napari_peftsam.app.methods import compare_methods
    from napari_peftsam.models import architecture as find_architecture

    entries = compare_methods(find_architecture(architecture), method, options, cobot)
    emit([entry.to_dict() for entry in entries], as_json, _table(entries, architecture))


def _table(entries: tuple[MethodOverview, ...], architecture: str) -> str:
    rows = [_HEAD, *map(_row, entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    name, *others = widths
    lines = []
    for row in rows:
        middle = "  ".join(cell.rjust(w) for cell, w in zip(row[1:4], others, strict=True))
        lines.append(f"{row[0]:{name}}  {middle}  {row[4]}".rstrip())
    return "\n".join([f"trainable parameters in {architecture}", *lines])


def _row(entry: MethodOverview) -> tuple[str, ...]:
    counts = entry.counts
    numbers = (f"{counts.encoder:,}", f"{counts.total:,}") if counts else ("-", "-")
    note = f" (not here: {entry.unavailable})" if entry.unavailable else ""
    words = entry.problem or entry.method.changes + note
    return (entry.name, *numbers, "yes" if entry.method.mergeable else "no", words)
