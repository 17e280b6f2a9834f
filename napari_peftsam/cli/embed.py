"""``napari-peftsam embed``: images in, their embeddings into the store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from napari_peftsam.folders import embedding_folder

from ._console import Progress, emit, say
from ._options import Adapter, Device, Json, Model

__all__ = ["embed"]


def embed(  # noqa: PLR0913, PLR0917  # one parameter per option
    images: Annotated[
        list[Path], typer.Argument(help="Images of any size: TIFF, PNG, JPEG or zarr.")
    ],
    store: Annotated[
        Path | None,
        typer.Option(help="Folder to keep embeddings in.  [default: that of the viewer]"),
    ] = None,
    space: Annotated[
        float, typer.Option(min=0.001, help="Disk space of the folder in GB; what is old goes.")
    ] = 4.0,
    model: Model = "builtin",
    adapter: Adapter = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Embed images in advance; large ones (as zarr) tile by tile, read as they are needed.

    An interrupted run goes on where it was. The viewer finds the embeddings when the
    images are opened with the same model and adapter.
    """
    from napari_peftsam.embeddings import EmbeddingStore
    from napari_peftsam.workspace import EmbedReport, ModelChoice, embed_images

    folder = embedding_folder() if store is None else store
    choice = ModelChoice(model, adapter, device)
    engine = choice.open(EmbeddingStore(folder, round(space * 1e9))).engine
    with Progress() as progress, closing(embed_images(engine, images)) as events:
        try:
            for event in events:
                if isinstance(event, EmbedReport):
                    report = event
                    break
                progress.show(event.fraction, f"{event.name}: tile {event.tile} of {event.tiles}")
        except KeyboardInterrupt:
            progress.end()
            say("what is embedded is kept: the same command goes on from there")
            raise
    known = f", {report.from_store} of them known before" if report.from_store else ""
    emit(
        {**report.to_dict(), "store": str(folder)},
        as_json,
        f"{report.planes} planes, {report.tiles} tiles{known}: {folder}",
    )
