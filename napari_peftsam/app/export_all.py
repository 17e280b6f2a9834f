"""Export of all images of a project into one folder; it goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from napari_peftsam.app.export_context import context_of
from napari_peftsam.batch.plan import make_folder
from napari_peftsam.document import (
    Document,
    DocumentImage,
    ImageId,
    find_source,
    is_project,
    open_project,
)
from napari_peftsam.document.derive import numbered
from napari_peftsam.errors import InputFileError, LabelError, PeftSamError
from napari_peftsam.export import ExportContext, ExportFormat, export_format, export_labels
from napari_peftsam.files import atomic_path, image_name, is_zarr
from napari_peftsam.limits import read_json
from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.outputs import safe_name
from napari_peftsam.projects import check_not_a_source, file_name, read_image_of

_MEMORY = ".napari-peftsam-export.json"
Read = Callable[[], tuple[np.ndarray[Any, Any] | None, str]]


@dataclass(frozen=True)
class ExportProgress:
    """One more file is written, or found as it would be written: `done` of `total`."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class ExportReport:
    """Files that were written, files that an earlier run had written, and notes for the user."""

    written: tuple[Path, ...]
    kept: int
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ExportImage:
    """A copy of the objects of one image, and what reads its pixels when they are needed."""

    name: str
    labels: np.ndarray[Any, Any]
    context: ExportContext
    read: Read
    fingerprint: str = ""  # of the file with its pixels

    def with_pixels(self) -> tuple[ExportContext, str]:
        """Return the context with the image's pixels, and a note if there is a problem; slow."""
        pixels, note = self.read()
        return replace(self.context, pixels=pixels), note

    def digest(self, format_name: str) -> str:
        """Return a hash of what would be written."""
        c = self.context
        about = (c.image_name, c.scale, c.units, c.axes, c.records, *c.label_sets)
        parts = (format_name, self.fingerprint, *about, self.labels.shape)
        found = xxhash.xxh128(repr(parts).encode())
        for each in (self.labels, *c.label_sets.values()):
            found.update(np.ascontiguousarray(each).tobytes())
        return found.hexdigest()


def images_to_export(
    document: Document, metadata_of: Callable[[ImageId], ImageMetadata] | None = None
) -> list[ExportImage]:
    """Return copies of all images with objects; call it where the document is used.

    `metadata_of` returns the present axes and pixel size of an image; default: the stored ones.
    """
    found: list[ExportImage] = []
    taken: set[str] = set()
    for image in document.images.values():
        if not image.records:
            continue
        file = file_name(image)
        # A project that came by mail may name any file.
        stem, other = safe_name(image_name(file)), safe_name(image.name)
        names = chain((stem, other), numbered(stem))
        # Some systems do not tell cases apart.
        name = next(each for each in names if each.casefold() not in taken)
        taken.add(name.casefold())
        file = file if name == stem else name  # a data set tells its images apart by it
        metadata = None if metadata_of is None else metadata_of(image.id)
        context = context_of(image, metadata, image_name=file, classes=document.categories)
        labels = image.labels.copy()
        read = _reader(document, image)
        found.append(ExportImage(name, labels, context, read, _fingerprint(document, image)))
    return found


def _fingerprint(document: Document, image: DocumentImage) -> str:
    """Return what tells whether an image has the same pixels as before, without reading them."""
    found = find_source(image.info.source, document.store.path)
    has_pixels = image.pixels is not None or found.state != "missing"
    stamp = _stamp(found.path) if found.path is not None else ""
    return repr((has_pixels, stamp, image.info.metadata.read_with))


def _stamp(path: Path) -> str:
    """Return size and time of a file or folder, empty if there is none."""
    try:
        known = path.stat()
    except OSError:
        return ""
    return f"{known.st_size}:{known.st_mtime_ns}"


def _reader(document: Document, image: DocumentImage) -> Read:
    present = image.pixels

    def read() -> tuple[np.ndarray[Any, Any] | None, str]:
        try:
            if present is not None:
                return np.asarray(present), ""
            pixels, note = read_image_of(document, image)
            return np.asarray(pixels), note
        except PeftSamError as error:
            return None, f"{image.name}: {error}"

    return read


def export_all(
    document: Document, images: Sequence[ExportImage], folder: Path, formats: Iterable[str]
) -> Generator[ExportProgress, None, ExportReport]:
    """Write all images in some formats into one folder; slow, can be closed between files.

    Files are called like the images; COCO and YOLO are one data set of all images. What an
    earlier run wrote, and is the same now, is not written again.

    Parameters
    ----------
    document
        The project, of whose own images none is replaced.
    images
        Of `images_to_export`.
    folder
        Where to write; made if need be.
    formats
        Keys of `napari_peftsam.export.FORMATS`.

    Raises
    ------
    LabelError
        If no image has an object.
    ConfigurationError, ExportError
        See `napari_peftsam.export.export_labels`; files that are written stay.
    """
    chosen = [export_format(name) for name in dict.fromkeys(formats)]
    if not images:
        raise LabelError("no image has an object: there is nothing to export")
    make_folder(folder)
    memory = _remembered(folder)
    written: list[Path] = []
    notes: list[str] = []
    jobs = [job for each in chosen for job in _jobs(each, images)]
    for done, (target_name, part, format_) in enumerate(jobs, start=1):
        target = folder / target_name
        check_not_a_source(document, target, document.store.path)
        digest = "-".join(image.digest(format_.name) for image in part)
        if memory.get(target_name) != f"{digest} {_stamp(target)}" or not target.exists():
            notes += [note for note in _write(target, part, format_) if note not in notes]
            written.append(target)
            memory[target_name] = f"{digest} {_stamp(target)}"
            _remember(folder, memory)
        yield ExportProgress(target_name, done, len(jobs))
    return ExportReport(tuple(written), len(jobs) - len(written), tuple(notes))


def default_place(labels: Path, formats: Sequence[str], image: str | None = None) -> Path:
    """Return where labels are written by default: beside the image, or else the file of labels.

    Several images of a project, or formats, get a folder ``objects`` there; `image` names one.
    """
    suffix = export_format(formats[0]).suffixes[0]
    if not labels.name or (labels.is_dir() and not is_zarr(labels)):
        raise InputFileError(f"{labels} is a folder: name a file of labels or a project")
    if not is_project(labels):
        return labels.with_name(f"{image_name(labels)}-objects{suffix}")
    with closing(open_project(labels, read_only=True)) as store:
        every = Document(store).images.values()
        images = [each for each in every if image in (None, each.name)]
        found = (find_source(each.info.source, store.path).path for each in images)
        folder = next((path.parent for path in found if path and path.exists()), labels.parent)
    if len(images) > 1 or len(formats) > 1:
        return folder / "objects"
    name = image_name(file_name(images[0])) if images else labels.stem
    return folder / f"{name}-objects{suffix}"


def _jobs(
    format_: ExportFormat, images: Sequence[ExportImage]
) -> list[tuple[str, Sequence[ExportImage], ExportFormat]]:
    """Return the files of a format: name, images."""
    suffix = format_.suffixes[0]
    if format_.write_all is not None:
        return [(f"objects{suffix}", images, format_)]
    jobs: dict[str, tuple[str, Sequence[ExportImage], ExportFormat]] = {}
    for image in images:
        is_stack = format_.per_plane and image.labels.ndim > 2
        for name, part in _planes(image) if is_stack else [(image.name, image)]:
            free = next(each for each in numbered(name) if each not in jobs)
            jobs[free] = f"{free}{suffix}", [part], format_
    return list(jobs.values())


def _planes(image: ExportImage) -> Iterable[tuple[str, ExportImage]]:
    """Yield the planes of a stack that hold objects."""
    c = image.context
    for index in np.ndindex(image.labels.shape[:-2]):
        others = {name: each[index] for name, each in c.label_sets.items()}
        if image.labels[index].any() or any(each.any() for each in others.values()):

            def read(index: tuple[int, ...] = index) -> tuple[np.ndarray[Any, Any] | None, str]:
                pixels, note = image.read()
                return None if pixels is None else pixels[index], note

            complete = [r for r in c.complete if r["index"] in (None, list(index))]
            context = ExportContext(
                c.name,
                c.image_name,
                label_sets=others,
                records=c.records,
                classes=c.classes,
                complete=[{**region, "index": None} for region in complete],
                background=None if c.background is None else c.background[index],
            )
            name = "_".join([image.name, *map(str, index)])
            fingerprint = image.fingerprint
            yield name, ExportImage(name, image.labels[index], context, read, fingerprint)


def _write(target: Path, images: Sequence[ExportImage], format_: ExportFormat) -> list[str]:
    """Write one file and return notes for the user."""
    pairs = [(image.labels, *image.with_pixels()) for image in images]
    if format_.write_all is not None:
        with atomic_path(target) as temporary:
            format_.write_all(temporary, [(labels, context) for labels, context, _ in pairs])
    else:
        for labels, context, _ in pairs:
            export_labels(labels, target, format_.name, context)
    return [note for *_, note in pairs if note]


def _remembered(folder: Path) -> dict[str, str]:
    with suppress(PeftSamError):
        found = read_json(folder / _MEMORY)
        if isinstance(found, dict):
            return {str(name): str(digest) for name, digest in found.items()}
    return {}


def _remember(folder: Path, memory: dict[str, str]) -> None:
    with atomic_path(folder / _MEMORY) as temporary:
        temporary.write_text(json.dumps(memory), encoding="utf-8")
