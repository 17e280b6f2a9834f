"""``napari-peftsam download``: get a model of the registry, or go on getting it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from napari_peftsam.errors import ConfigurationError

from ._console import Progress, emit, say
from ._options import Json

if TYPE_CHECKING:
    from napari_peftsam.models import DownloadProgress, ModelEntry, Part

__all__ = ["download"]


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
                progress.show(event.fraction, _text(event))
        except KeyboardInterrupt:
            progress.end()
            if entry.remote(part)[1]:  # else the next download starts over
                say("what has come is kept: the same command goes on from there")
            raise
    return was_asked


def _text(event: DownloadProgress) -> str:
    total = f" of {event.total / 1e6:.1f}" if event.total else ""
    text = f"{event.received / 1e6:.1f}{total} MB"
    return text if event.verified is None else f"{text}, {event.verified / 1e6:.1f} MB verified"
