"""``napari-peftsam embed``: images in, their embeddings into the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._batch import BatchOptions, run_batch
from ._options import Adapter, Device, Json, Model, Precision, Scheduler, Space, Store, Workers

if TYPE_CHECKING:
    from napari_peftsam.batch.plan import BatchFinished

__all__ = ["embed"]


def embed(  # noqa: PLR0913, PLR0917  # one parameter per option
    images: Annotated[
        list[Path],
        typer.Argument(help="Images of any size (TIFF, PNG, JPEG or zarr), or folders of them."),
    ],
    store: Store = None,
    space: Space = None,
    model: Model = "builtin",
    adapter: Adapter = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
) -> None:
    """Embed images in advance; large ones (as zarr) tile by tile, read as they are needed.

    If the embeddings cannot all be kept, nothing is begun, and it is told what they need.
    An interrupted run goes on where it was. The viewer finds the embeddings when the
    images are opened with the same model and adapter.
    """
    options = BatchOptions(model, adapter, device, precision, workers, scheduler, store, space)
    plan = options.plan()
    from napari_peftsam.batch.embed import embed_batch

    run_batch(lambda stop: embed_batch(images, plan, stop), _text, as_json)


def _text(finished: BatchFinished) -> str:
    assert finished.tiles is not None
    assert finished.computed is not None
    known = finished.tiles - finished.computed
    before = f", {known} of them known before" if known else ""
    images = f"{finished.images} of {finished.total} images"
    return f"{images}, {finished.tiles} embeddings{before}: {finished.output}"
