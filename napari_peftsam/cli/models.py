"""``napari-peftsam models``, ``download`` and ``methods``: what ``--model``, ``--method`` name."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_peftsam.errors import ConfigurationError

from ._console import Progress, emit, say
from ._options import METHOD, Json, Values, grouped, method_options

if TYPE_CHECKING:
    from napari_peftsam.app.choice import MethodOverview
    from napari_peftsam.models import DownloadProgress, ModelEntry, Part

_SHOWN = (
    "name", "title", "purpose", "architecture", "megabytes", "license", "citation", "source",
    "available",
)  # fmt: skip
_HEAD = ("method", "encoder", "total", "merges", "")


def models(as_json: Json = False) -> None:
    """List the models that can be named and whether they are on this computer.

    Last comes which to start with, by kind of image, on this computer's device.
    `napari-peftsam download NAME` gets one that is not here. Models of your own are listed in
    models.toml, see docs/models.md.
    """
    from napari_peftsam.models import IMAGE_KINDS, available_models, device_memory, recommend

    memory = device_memory()
    chosen = {kind: recommend(kind, memory)[0] for kind in IMAGE_KINDS}
    entries = available_models()
    values = [
        _values(entry)
        | {"recommended_for": [kind for kind, name in chosen.items() if name == entry.name]}
        for entry in entries
    ]
    advice = "; ".join(f"{IMAGE_KINDS[kind]}: {name}" for kind, name in chosen.items())
    lines = [*map(_text, entries), f"recommended on this computer for {advice}"]
    emit({"models": values}, as_json, "\n".join(lines))


def _values(entry: ModelEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in _SHOWN} | {
        "path": str(entry.path) if entry.path else None,
        "decoder_available": entry.decoder_path is not None if entry.decoder_url else None,
    }


def _text(entry: ModelEntry) -> str:
    size = f"{entry.megabytes:>5} MB" if entry.megabytes else " " * 8
    here = "available" if entry.available else "not here" if entry.url else "missing"
    license_name = f" ({entry.license})" if entry.license else ""
    purpose = f"\n{'':21}{entry.purpose}" if entry.purpose else ""
    return f"{entry.name:20} {size}  {here:9}  {entry.title}{license_name}{purpose}"


# --- download -------------------------------------------------------------------------


def download(
    name: Annotated[str, typer.Argument(help="A name of the registry, see `models`.")],
    decoder: Annotated[
        bool,
        typer.Option("--decoder", help="Get its decoder for automatic segmentation instead."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Download a model and verify it; an interrupted download continues where it ended.

    Models are kept in the user's cache folder, or where NAPARI_PEFTSAM_MODELS says.
    """
    from napari_peftsam.models import find_model, model_names

    entry = find_model(name)
    if entry is None:
        raise ConfigurationError(
            f"unknown model {name!r}: choose one of {', '.join(model_names())}"
        )
    part: Part = "decoder" if decoder else "encoder"
    if part == "encoder" and entry.file is not None and entry.path is not None:
        path, was_here = entry.path, True  # it comes with the program, or is the user's own
    else:
        path, was_here = entry.target(part), not _fetch(entry, part)
    values = {"name": name, "part": part, "path": str(path), "downloaded": not was_here}
    emit(values, as_json, f"{'already here' if was_here else 'downloaded'}: {path}")


def _fetch(entry: ModelEntry, part: Part) -> bool:
    """Download a part; return False if it was here."""
    from napari_peftsam.models import download

    was_asked = False
    with Progress() as progress, closing(download(entry, part=part)) as events:
        try:
            for event in events:
                was_asked = True
                progress.show(event.fraction, received(event))
        except KeyboardInterrupt:
            progress.end()
            if entry.remote(part)[1]:  # else the next download starts over
                say("what has come is kept: the same command goes on from there")
            raise
    return was_asked


def received(event: DownloadProgress) -> str:
    """Return the megabytes that have come, of all if known, and the ones verified."""
    total = f" of {event.total / 1e6:.1f}" if event.total else ""
    text = f"{event.received / 1e6:.1f}{total} MB"
    return text if event.verified is None else f"{text}, {event.verified / 1e6:.1f} MB verified"


# --- methods --------------------------------------------------------------------------


@grouped(method=METHOD)
def methods(
    *,
    architecture: Annotated[
        str, typer.Option(help="builtin, vit_b, vit_l, vit_h or vit_t.")
    ] = "builtin",
    method: Values,
    as_json: Json = False,
) -> None:
    """Show the methods of finetuning, and how many parameters each trains.

    An option applies to the methods that have it; a method that cannot take one says so in
    its line. With --cobot alone, the orchestrated methods are shown.
    """
    given = method_options(method)
    from napari_peftsam.app.choice import compare_methods
    from napari_peftsam.models import architecture as find_architecture

    entries = compare_methods(find_architecture(architecture), *given)
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
