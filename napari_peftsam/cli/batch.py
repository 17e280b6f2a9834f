"""``napari-peftsam embed``, ``segment`` and ``segment-batch``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.errors import ConfigurationError, count_text

from ._console import (
    INTERRUPTED,
    USER_ERROR,
    Progress,
    emit,
    fail,
    graceful_interrupt,
    note,
    say,
)
from ._options import (
    BATCH,
    MODEL,
    NUMBER_PIECES,
    READING,
    Json,
    Values,
    changed_options,
    configure,
    grouped,
    options_of,
    read_options,
)

if TYPE_CHECKING:
    from napari_peftsam.batch.plan import BatchEvent, BatchFinished, BatchPlan
    from napari_peftsam.metadata import ReadOptions


@grouped(model=MODEL, batch=(*BATCH, *READING))
def embed(
    *,
    images: Annotated[
        list[Path],
        typer.Argument(help="Images of any size (TIFF, PNG, JPEG or zarr), or folders of them."),
    ],
    batch: Values,
    model: Values,
    as_json: Json = False,
) -> None:
    """Embed images in advance; large ones (as zarr) tile by tile, read as they are needed.

    If the embeddings cannot all be kept, nothing is begun, and an error says what they need.
    An interrupted run goes on where it was. The viewer finds the embeddings when the
    images are opened with the same model and adapter.
    """
    plan = _plan(model, read_options(batch), **batch)
    from napari_peftsam.batch.embed import embed_batch

    def text(finished: BatchFinished) -> str:
        tiles = finished.tiles or 0
        known = tiles - (finished.computed or 0)
        before = f", {known} of them known before" if known else ""
        return f"{_images(finished)}, {count_text(tiles, 'embedding')}{before}: {finished.output}"

    _run(lambda stop: embed_batch(images, plan, stop), text, as_json)


AUTOMATIC = options_of(AutomaticConfig, "eager", "min_size", "fast")


@grouped(model=MODEL, reading=(*READING, NUMBER_PIECES), automatic=AUTOMATIC)
def segment(  # noqa: PLR0913
    *,
    image: Annotated[Path, typer.Argument(help="One 2D image: TIFF, PNG, JPEG or zarr.")],
    output: Annotated[
        Path, typer.Option(help="Label image to write: .tif, or .zarr, which a large image needs.")
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSON file: a list of objects, as above; or centres (.csv), or rough labels or "
            "outlines, of which the boxes are taken. Without it all objects are looked for."
        ),
    ] = None,
    automatic: Values,
    reading: Values,
    model: Values,
    as_json: Json = False,
) -> None:
    """Segment all objects of an image, or those that are prompted.

    Object number i of a prompts file gets label i. The file is a list of {"points": [[row, col],
    ...], "labels": [1, 0, ...], "box": [row0, col0, row1, col1]}: points (label 1 on the object,
    0 not on it), a box, or both.
    """
    config = automatic_config(prompts, automatic)
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.exchange import segment_file

    reading_options = read_options(reading)
    report = segment_file(image, prompts, output, ModelChoice(**model), reading_options, config)
    if report.counts is not None and not report.objects:
        why = _why_lost(report.counts.to_dict(), config)
        say(f"note: no object was found{f': {why}' if why else ''}")
    if report.empty:
        numbers = ", ".join(map(str, report.empty))
        say(f"note: no pixel was left for object {numbers}")
    emit(report.to_dict(), as_json, f"{count_text(report.objects, 'object')}: {report.output}")


def _why_lost(stages: Mapping[str, int], config: AutomaticConfig) -> str:
    """Return how many proposals the options and the limit of a tile left out; empty if none."""
    reasons = {
        "too_small": f"smaller than --min-size {config.min_size}",
        "below": f"less certain than --eager {config.eager:g} asks for",
        "left_out": "beyond the most that is looked at",
    }
    counts = (
        (count_text(stages[each], "proposal"), why) for each, why in reasons.items() if stages[each]
    )
    return ", ".join(f"{count} {why}" for count, why in counts)


def automatic_config(prompts: Path | None, values: Values) -> AutomaticConfig:
    """Return the options of a segmentation without prompts; with prompts there are none."""
    config = configure(AutomaticConfig, **values)
    changed = changed_options(AutomaticConfig, values)
    if prompts is not None and changed:
        raise ConfigurationError(
            f"--{changed[0].replace('_', '-')} is for a segmentation without --prompts: leave one "
            "of them out"
        )
    return config


@grouped(model=MODEL, batch=(*BATCH, *READING, NUMBER_PIECES), automatic=AUTOMATIC)
def segment_batch(  # noqa: PLR0913
    *,
    images: Annotated[
        Path, typer.Option(help="Folder of images (TIFF, PNG, JPEG or zarr), or a large zarr.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for the labels, NAME.ome.zarr for each; of a large image with prompts the "
            "OME-Zarr."
        ),
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Folder of files as `segment` takes, named as the images; of a large image "
            "the file. Without it all objects are looked for."
        ),
    ] = None,
    automatic: Values,
    batch: Values,
    model: Values,
    as_json: Json = False,
) -> None:
    """Segment all or prompted objects of many images, or of a large one, by several processes.

    Object number i of an image's prompts file gets label i. Images that fail are left out
    and listed; a second run finds the embeddings of the first.
    """
    config = automatic_config(prompts, automatic)
    plan = _plan(model, read_options(batch), **batch)
    from napari_peftsam.batch.large_image import segment_large_image
    from napari_peftsam.batch.segment import segment_batch as segment_folder
    from napari_peftsam.files import is_zarr

    def text(finished: BatchFinished) -> str:
        if finished.objects is None:
            return "no labels were written"
        empty = f", {finished.empty} without a pixel" if finished.empty else ""
        found = count_text(finished.objects, "object")
        lost = sum((Counter(each["stages"]) for each in finished.per_image), Counter[str]())
        why = f"\nleft out: {text}" if (text := _why_lost(lost, config)) else ""
        return f"{found}{empty} in {_images(finished)}: {finished.output}{why}"

    def run(stop: Callable[[], bool]) -> Iterator[BatchEvent]:
        if prompts is not None and (images.is_file() or is_zarr(images)):
            return segment_large_image(images, prompts, output, plan, stop)
        return segment_folder(images, prompts, output, plan, stop, config)

    _run(run, text, as_json)


def _images(finished: BatchFinished) -> str:
    return f"{finished.images} of {count_text(finished.total, 'image')}"


def _plan(
    model: Values,
    reading: ReadOptions,
    store: Path | None,
    space: float | None,
    workers: int | None,
    scheduler: str | None,
) -> BatchPlan:
    from napari_peftsam.batch.cluster import ClusterChoice
    from napari_peftsam.batch.plan import BatchPlan, ModelSource

    if space is not None and not isfinite(space):
        raise ConfigurationError(
            f"--space must be a number of GB, got {space}: leave it out for no limit"
        )
    return BatchPlan(
        ModelSource(**model),
        ClusterChoice(scheduler, workers),
        store,
        None if space is None else round(space * 1e9),
        reading,
    )


_MOST_NOTES = 10  # about images of one batch


def _left_out(text: str, number: int) -> str:
    if number <= _MOST_NOTES:
        return text
    return "more images are left out, as the end will say" if number == _MOST_NOTES + 1 else ""


def _tell_blank(names: Sequence[str]) -> None:
    for name in names[:_MOST_NOTES]:
        say(f"note: {name} is blank and has no embedding")
    if (more := len(names) - _MOST_NOTES) > 0:
        say(f"note: {more} more are blank, too")


def _run(
    batch: Callable[[Callable[[], bool]], Iterator[BatchEvent]],
    text: Callable[[BatchFinished], str],
    as_json: bool,
) -> None:
    """Show the progress of a batch, which asks whether to stop, and its result.

    If images failed, one line names the first, and the exit code is 2.
    """
    from napari_peftsam.batch.plan import BatchFinished

    finished, failed, held = None, set[str](), ""
    message = "stopping; what is finished is kept"
    with graceful_interrupt(message) as stop, Progress() as progress:
        for event in batch(stop.is_set):
            if isinstance(event, BatchFinished):
                finished = event
                continue
            image = event.task.image or event.name
            if held and image not in failed:  # else the only image, which follows at the end
                progress.end()
                note(held)
                held = ""
            if event.error is not None and image not in failed:  # named once, not for each part
                failed.add(image)
                held = _left_out(f"left out {event.name}: {event.error}", len(failed))
            progress.show(event.done / event.total, f"{event.done} of {event.total}: {event.name}")
    if held and len(failed) > 1:
        note(held)
    assert finished is not None, "a batch ends with its report"
    _tell_blank(finished.blank)
    if as_json or finished.images or not finished.failed:
        emit(finished.to_dict(), as_json, text(finished))
    if finished.failed:
        name, reason = next(iter(finished.failed.items()))
        others = len(finished.failed) - 1
        first = reason if reason.startswith(name) else f"{name}: {reason}"
        fail(first + (f"; {others} more failed, too" if others else ""))
        raise typer.Exit(USER_ERROR)
    if stop.is_set():
        raise typer.Exit(INTERRUPTED)
