"""``napari-peftsam replay``: labels rebuilt from the actions of a project alone."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_peftsam.errors import ConfigurationError, ExportError

from ._console import emit, say
from ._options import Json, ProjectFile

if TYPE_CHECKING:
    from napari_peftsam.document import Document, Store

__all__ = ["label_file_names", "replay"]

_DIFFERENT = 1  # exit code
_UNSAFE = re.compile(r"[^\w .()+=,@-]")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # of Windows
_LONGEST = 100  # characters of a name; file systems take 255 bytes


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
        say(difference)
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
        safe = _UNSAFE.sub("_", name)[:_LONGEST].strip(" .") or "image"
        safe = f"_{safe}" if _DEVICES.match(safe) else safe
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
    from napari_peftsam.export import ExportContext, export_labels
    from napari_peftsam.projects import check_not_a_source

    images = list(document.images.values())
    paths = [output / name for name in label_file_names([image.name for image in images])]
    for path in paths:
        check_not_a_source(document, path, store.path)
    output.mkdir(exist_ok=True)
    for image, path in zip(images, paths, strict=True):
        records = tuple(record.to_dict() for record in document.records(image.id))
        context = ExportContext(image_name=image.name, records=records)
        export_labels(image.labels, path, "tiff", context)
    return paths
