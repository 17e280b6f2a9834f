"""Projects as the docks offer, read and describe them; no Qt."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.document import (
    AutomaticProject,
    Document,
    DocumentImage,
    ImageSource,
    ImportLabels,
    Store,
    open_project,
)
from napari_peftsam.errors import PeftSamError, count_text
from napari_peftsam.projects import import_objects, read_image_of, read_located

_IN_MEMORY = 2_000_000_000  # bytes of an image that the viewer holds in memory

# --- sentences -----------------------------------------------------------------------------


def project_title(names: Sequence[str]) -> str:
    """Return the name of the first image, and the number of the others."""
    if not names:
        return "project"
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def describe_offer(project: AutomaticProject) -> str:
    """Return a project's images, the time of its last action and its number of objects."""
    objects = count_text(project.objects, "object")
    return f"{project_title(project.images)} ({_local_time(project.time)}, {objects})"


def explain_offer(project: AutomaticProject) -> str:
    """Return why a project is offered."""
    ended = "ended unexpectedly" if project.is_interrupted else "was closed without a name"
    return f"{', '.join(project.images)}: the last session {ended}, everything is saved"


def project_note(store: Store, progress: str, missing: Sequence[str]) -> str:
    """Return what the user should know about a project; empty if all is well.

    Parameters
    ----------
    progress
        What is being done with it at present.
    missing
        Names of the images whose file was not found.
    """
    if progress:
        return f"◌ {progress}"
    if store.read_only:
        why = store.why_read_only.removeprefix("it is ")
        return f"⚠ Read-only: {why}. Save it under another name."
    if missing:
        return f"⚠ Not found: {project_title(missing)}. Project ▾ Locate image finds it again."
    return ""


def _local_time(time: str) -> str:
    try:
        then = datetime.fromisoformat(time).astimezone()
    except ValueError:
        return time
    today = then.date() == datetime.now().astimezone().date()
    return then.strftime("%H:%M" if today else "%d %b %H:%M")


# --- images --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image of a project, read from its file.

    Attributes
    ----------
    pixels
        None if they cannot be read.
    note
        What is wrong with the file: missing, unreadable, changed; empty if nothing.
    number
        Position among the images that are read, from 1.
    source
        Where the file is now, if that was asked for.
    """

    image: DocumentImage
    pixels: Any
    note: str = ""
    number: int = 1
    source: ImageSource | None = None


def read_images(document: Document, images: Sequence[DocumentImage]) -> Generator[ReadImage]:
    """Read images with their objects, so that showing them needs no disk."""
    for number, image in enumerate(images, start=1):
        try:
            image.read()
            pixels, note = read_image_of(document, image)
            pixels = _in_memory(pixels)
        except PeftSamError as error:
            pixels, note = None, f"{image.name}: {error}"
        yield ReadImage(image, pixels, note, number)


def read_located_image(document: Document, image: DocumentImage, path: Path) -> ReadImage:
    """Read a missing image from where it is now; slow."""
    pixels, source, note = read_located(document, image, path)
    return ReadImage(image, _in_memory(pixels), note, source=source)


def _in_memory(pixels: Any) -> Any:
    """Read an image unless it is very large: napari asks for the same plane again and again."""
    if pixels is None:
        return None
    size = int(np.prod(pixels.shape, dtype=np.int64)) * np.dtype(pixels.dtype).itemsize
    return np.asarray(pixels) if size <= _IN_MEMORY else pixels


# --- objects -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ObjectImport:
    """Objects of a colleague's project.

    Attributes
    ----------
    actions
        They add the objects, image by image.
    report
        One sentence on what is added and what is left out.
    """

    actions: tuple[ImportLabels, ...]
    report: str


def read_objects(document: Document, path: Path) -> ObjectImport:
    """Read the objects of another project for the images of the same name and shape; slow."""
    found, skipped = [], []
    store = open_project(path, read_only=True)
    try:
        for other in Document(store).images.values():
            own = document.find_image(other.name)
            if own is None or own.shape != other.shape:
                skipped.append(other.name)
            else:
                sets = {name: other.array(name) for name in other.label_sets}
                found.append(import_objects(own, sets, other.records))
    finally:
        store.close()
    objects, covered = (sum(getattr(i, n) for i in found) for n in ("objects", "covered"))
    text = f"{count_text(objects, 'object')} imported into {count_text(len(found), 'image')}"
    if covered:
        text += f"; {covered} are covered by objects that were there"
    if skipped:
        text += f"; skipped, as no image here has their name and shape: {', '.join(skipped)}"
    return ObjectImport(tuple(i.action for i in found if i.action is not None), text)
