"""``napari-peftsam info``, ``replay``, ``recover`` and ``export``: commands about projects."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_peftsam.errors import ConfigurationError, ExportError, count_text
from napari_peftsam.outputs import safe_name

from ._console import INTERRUPTED, Progress, emit, graceful_interrupt, note
from ._options import Json, ProjectFile
from .adapters import describe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_peftsam.app.export_all import ExportProgress
    from napari_peftsam.document import Document, Store

_DIFFERENT = _LOST = 1  # exit codes


def info(
    file: Annotated[
        Path, typer.Argument(help="Project file (.peftsam) or adapter file (.safetensors).")
    ],
    as_json: Json = False,
) -> None:
    """Show how much a project holds, which may be open in a viewer, or what an adapter is.

    Objects are the accepted ones. Seconds are the time worked: the gaps between actions, each
    at most 60 s. Images whose file is missing or has changed are named on standard error.
    Judged proposals are those that an adapter brings along for automatic segmentation.
    """
    if file.suffix.lower() == ".safetensors":
        from napari_peftsam.peft import load_adapter

        adapter = load_adapter(file)
        shown, text = describe(adapter)
        number = len(adapter.judged[1])
        emit(
            {**shown, "judged": number}, as_json, f"{text}, {count_text(number, 'judged proposal')}"
        )
        return
    from napari_peftsam.document import find_source, judged_by_adapter, open_project, summary

    with closing(open_project(file, read_only=True)) as store:
        values, judged = summary(store), judged_by_adapter(store)
        sources = {
            info.name: find_source(info.source, store.path)
            for info in store.images().values()
            if not info.is_removed
        }
    for name, found in sources.items():
        if found.text:
            note(f"{name}: {found.text}")
    missing = [name for name, found in sources.items() if found.state == "missing"]
    lines = [f"{name:10}{value:>10,g}" for name, value in values.items()]
    lines += [f"{name}: {count_text(n, 'judged proposal')}" for name, n in judged.items() if n]
    emit({**values, "missing": missing, "judged": judged}, as_json, "\n".join(lines))


def recover(
    project: ProjectFile,
    output: Annotated[Path, typer.Option(help="Project file to write; must not exist.")],
    as_json: Json = False,
) -> None:
    """Write what is readable of a damaged project into a new one; the old one stays as it is.

    The exit code is 1 if images, labels, records or adapters were lost, or may have been.
    """
    if output.exists():
        raise ConfigurationError(f"{output} exists already: choose another name for the copy")

    from napari_peftsam.document import recover_project

    report = recover_project(project, output)
    counts = {k: len(v) if isinstance(v, list | tuple) else v for k, v in asdict(report).items()}
    counts["in_doubt"] = report.in_doubt
    emit({"output": str(output), **counts}, as_json, f"{report.text}\n{output}")
    if report.has_losses:
        raise typer.Exit(_LOST)


def export(
    labels: Annotated[
        Path, typer.Argument(help="Label image (TIFF, PNG or zarr), or project (.peftsam).")
    ],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="tiff, ome-zarr, ome-zarr-0.4, coco, yolo, roi, geojson, cellpose, csv or overlay "
            "(see docs/formats.md); of a project several, as tiff,csv.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="File or zarr folder to write; of a project with several images, or in "
            "several formats, a folder for all of them.  [default: beside the image]"
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Name of the image, for a project that holds several."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write labels in the format of another program.

    Those of a project are written with the provenance of the objects; it may be open in a
    viewer. An export of all images goes on where it was interrupted.
    """
    from napari_peftsam.app.exchange import export_file
    from napari_peftsam.app.export_all import default_place
    from napari_peftsam.app.project_commands import export_project
    from napari_peftsam.document import is_project

    formats = [name.strip() for name in format_name.split(",")]
    if len(formats) > 1 and (image is not None or not is_project(labels)):
        raise ConfigurationError(
            f"got --format {format_name}: only a whole project is written in several formats at "
            "once"
        )
    output = output or default_place(labels, formats, image)
    if is_project(labels) and image is None and _is_of_all(labels, output, formats):
        _export_all(labels, output, formats, as_json)
        return
    if is_project(labels):
        written = export_project(labels, image, output, format_name, note)
    elif image is not None:
        raise ConfigurationError(f"{labels} is no project: leave out --image")
    else:
        written = export_file(labels, output, format_name)
    emit({"output": str(written), "format": format_name}, as_json, str(written))


def _is_of_all(project: Path, output: Path, formats: Sequence[str]) -> bool:
    """Return True for several formats, or where `output` is, or can only be, a folder."""
    from napari_peftsam.document import open_project
    from napari_peftsam.export import FORMATS

    suffixes = tuple(suffix for known in FORMATS.values() for suffix in known.suffixes)
    if len(formats) > 1:
        return True
    if output.exists() or output.name.lower().endswith(suffixes):
        return output.is_dir() and not output.name.lower().endswith(suffixes)
    with closing(open_project(project, read_only=True)) as store:
        return sum(not info.is_removed for info in store.images().values()) > 1


def _export_all(project: Path, folder: Path, formats: Sequence[str], as_json: bool) -> None:
    from napari_peftsam.app.export_all import export_all, images_to_export
    from napari_peftsam.app.runner import run
    from napari_peftsam.document import Document, open_project
    from napari_peftsam.outputs import check_not_an_input

    check_not_an_input(folder, project)
    message = "stopping; what is written stays"
    with (
        closing(open_project(project, read_only=True)) as store,
        graceful_interrupt(message) as stop,
        Progress() as progress,
    ):
        document = Document(store)

        def watch(event: ExportProgress) -> None:
            progress.show(event.done / event.total, f"{event.done} of {event.total}")
            if stop.is_set():
                raise typer.Exit(INTERRUPTED)

        images = images_to_export(document)
        report = run(export_all(document, images, folder, formats), watch)
    for each in report.notes:
        note(each)
    files = [str(path) for path in report.written]
    values = {"output": str(folder), "written": files, "kept": report.kept, "format": formats}
    kept = f", {report.kept} were there" if report.kept else ""
    emit(values, as_json, f"{count_text(len(files), 'file')} written{kept}: {folder}")


def replay(
    project: ProjectFile,
    until: Annotated[
        int | None, typer.Option(min=0, help="Stop after this many actions.  [default: all]")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the labels, IMAGE.tif for each image.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rebuild the labels of a project from its actions; it may be open in a viewer.

    Neither model nor images are needed. Without --until the result is compared with the labels
    and records in the project: each difference is one line on standard error, and the exit
    code is 1 then.
    """
    from napari_peftsam.document import open_project, verify
    from napari_peftsam.document import replay as rebuild

    if output is not None:
        _check_folder(output)
    with closing(open_project(project, read_only=True)) as store:
        if until is not None and until > store.last_number:
            raise ConfigurationError(
                f"{project} holds {store.last_number} actions, not {until}: give a smaller --until"
            )
        document, differences = verify(store) if until is None else (rebuild(store, until), [])
        files = [] if output is None else _write(document, store, output)
    values = {
        "actions": document.store.last_number,
        "images": len(document.images),
        "objects": sum(len(image.records) for image in document.images.values()),
        "identical": not differences if until is None else None,
        "differences": differences,
        "files": [str(path) for path in files],
    }
    for difference in differences:
        note(difference)
    verdict = "" if until is not None else "; the project differs" if differences else "; identical"
    text = "{actions} actions, {images} images, {objects} objects".format(**values) + verdict
    emit(values, as_json, "\n".join([text, *map(str, files)]))
    if differences:
        raise typer.Exit(_DIFFERENT)


def label_file_names(names: list[str]) -> list[str]:
    """Return a file name for each image, safe and distinct on all systems."""
    taken: set[str] = set()
    found = []
    for name in names:
        safe = safe_name(name)
        unique, number = safe, 2
        while unique.casefold() in taken:  # some systems do not tell cases apart
            unique, number = f"{safe}-{number}", number + 1
        taken.add(unique.casefold())
        found.append(f"{unique}.tif")
    return found


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file: choose another folder")
    if not output.parent.is_dir():
        raise ExportError(f"there is no folder {output.parent}: create it first")


def _write(document: Document, store: Store, output: Path) -> list[Path]:
    from napari_peftsam.app.export_context import context_of
    from napari_peftsam.export import export_labels
    from napari_peftsam.metadata import UNKNOWN
    from napari_peftsam.projects import check_not_a_source

    images = list(document.images.values())
    paths = [output / name for name in label_file_names([image.name for image in images])]
    for path in paths:
        check_not_a_source(document, path, store.path)
    output.mkdir(exist_ok=True)
    for image, path in zip(images, paths, strict=True):
        export_labels(image.labels, path, "tiff", context_of(image, UNKNOWN, image_name=image.name))
    return paths
