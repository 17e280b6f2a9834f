"""``napari-peftsam segment-batch``: folders of images and prompts in, label images out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._batch import BatchOptions, run_batch
from ._options import Adapter, Device, Json, Model, Precision, Scheduler, Space, Store, Workers

if TYPE_CHECKING:
    from napari_peftsam.batch.plan import BatchFinished

__all__ = ["segment_batch"]


def segment_batch(  # noqa: PLR0913, PLR0917  # one parameter per option
    images: Annotated[
        Path, typer.Option(help="Folder of images (TIFF, PNG, JPEG or zarr), or a large zarr.")
    ],
    prompts: Annotated[
        Path,
        typer.Option(
            help="Folder of JSON files as `segment` takes, named as the images; of a large image "
            "the file."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for the labels, NAME.ome.zarr for each; of a large image the OME-Zarr."
        ),
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
    """Segment prompted objects of many images, or of a large one, by several processes.

    Object number i of an image's prompts file gets label i. An image that fails is left out
    and told; a second run finds the embeddings of the first.
    """
    options = BatchOptions(model, adapter, device, precision, workers, scheduler, store, space)
    plan = options.plan()
    from napari_peftsam.batch.large_image import segment_large_image
    from napari_peftsam.batch.segment import segment_batch as many
    from napari_peftsam.files import is_zarr

    segment = segment_large_image if images.is_file() or is_zarr(images) else many
    run_batch(lambda stop: segment(images, prompts, output, plan, stop), _text, as_json)


def _text(finished: BatchFinished) -> str:
    if finished.objects is None:
        return "no labels were written"
    empty = f", {finished.empty} without a pixel" if finished.empty else ""
    images = f"{finished.images} of {finished.total} images"
    return f"{finished.objects} objects{empty} in {images}: {finished.output}"
