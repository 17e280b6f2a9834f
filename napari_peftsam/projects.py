"""Projects with the pixels of their images, and the list of recent ones; imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.document import (
    Document,
    DocumentImage,
    ImageId,
    ImageSource,
    ImportLabels,
    LocateImage,
    ObjectRecord,
    Store,
    create_project,
    describe_source,
    find_source,
    is_digest_of,
    label_set_of,
    open_project,
    plane_digest,
    read_pixels,
    store_pixels,
)
from napari_peftsam.document.derive import utc_now
from napari_peftsam.document.objects import IMPORTED
from napari_peftsam.errors import ExportError, ImageError, PeftSamError
from napari_peftsam.files import (
    ImageFile,
    atomic_path,
    image_name,
    open_image,
    read_objects,
    split_pieces,
)
from napari_peftsam.folders import (
    configuration_folder,
    create_folder,
    expanded,
    project_folder,
    resolved,
)
from napari_peftsam.limits import read_json
from napari_peftsam.metadata import AS_THE_FILE_SAYS, UNKNOWN, ReadOptions
from napari_peftsam.planes import plane_of
from napari_peftsam.types import LabelArray

_COLOURS = 3
_RECENT = 10  # projects in the list


def open_document(path: str | Path) -> tuple[Document, tuple[str, ...]]:
    """Open a project file, or create it, and read its images; slow.

    Notes for the user come with the document: images that are missing, unreadable or changed,
    and why the project can only be read.
    """
    is_there = expanded(path).exists()
    store = open_project(path) if is_there else create_project(path)
    try:
        document = Document(store)
        notes = attach_images(document)
    except BaseException:
        store.close()
        raise
    if store.why_read_only:
        notes.append(f"{path} can only be read, {store.why_read_only}")
    return document, tuple(notes)


def attach_images(document: Document) -> list[str]:
    """Give all images of a reopened project their pixels; slow.

    Return notes for the user: images that are missing, unreadable or changed.
    """
    notes = []
    for image in document.images.values():
        try:
            pixels, note = read_image_of(document, image)
            image.attach_pixels(pixels)
        except PeftSamError as error:
            note = f"{image.name}: {error}"
        notes += [note] if note else []
    return notes


def read_image_of(document: Document, image: DocumentImage) -> tuple[Any, str]:
    """Return an image's pixels, read from its file or from the project, and a note; slow.

    The note says that the file has changed; it is empty if all is well.
    """
    store, source = document.store, image.info.source
    if source is None:
        raise ImageError("its pixels were never saved: locate a file that has them")
    found = find_source(source, store.path)
    if found.state == "inside":
        return read_pixels(store, source), ""
    if found.state == "missing" or found.path is None:
        raise ImageError(found.text)
    pixels = open_image(found.path, image.info.metadata.read_with).pixels
    if _has_digest(source, pixels, image.rgb):
        return pixels, ""
    changed = f"{found.path} has changed since it was annotated: check that the objects still fit"
    return pixels, f"{image.name}: {found.text or changed}"


def add_image(
    document: Document,
    given: Any,
    name: str | None = None,
    options: ReadOptions = AS_THE_FILE_SAYS,
) -> ImageId:
    """Add an image file or an array to a document; return an image that is there already.

    Parameters
    ----------
    document
        What to add it to.
    given
        Path of a file, or ``(..., H, W)`` or ``(..., H, W, 3)`` pixels, which are stored in
        the project.
    name
        What people call it; default: the file's name, or ``"image"``.
    options
        Axes, channels and the rest of what the file leaves open.
    """
    if isinstance(given, str | Path):
        path = describe_source(given, document.store.path).path
        known = [
            (image.id, image.info.source.digest)
            for image in document.images.values()
            if image.info.source is not None
            and image.info.source.path == path
            and name in (None, image.name)
        ]
        if known and replace(options, default_channels="") == AS_THE_FILE_SAYS:
            return known[0][0]
        file, name = open_image(Path(given), options), name or image_name(Path(given))
        pixels, rgb, metadata = file.pixels, file.rgb, file.metadata
        source = source_of(Path(given), file, document.store.path)
        for image_id, digest in known:
            if digest == source.digest:
                return image_id
    else:
        pixels, name = given if hasattr(given, "shape") else np.asarray(given), name or "image"
        rgb, metadata = is_rgb(pixels), UNKNOWN
        source, there = store_pixels(document.store, pixels), document.find_image(name)
        if there is not None and there.info.source == source:
            return there.id
    return document.add_image(name, pixels, rgb=rgb, source=source, metadata=metadata)


def is_rgb(pixels: Any) -> bool:
    """Return True if the last axis of pixels, as our readers return them, holds colours."""
    return bool(pixels.ndim > 2 and pixels.shape[-1] == _COLOURS)


def locate_image(document: Document, image: ImageId, path: Path) -> str:
    """Record the new location of an image's file, and read it; slow.

    Return a note if the file's pixels differ from the annotated ones, else an empty text.
    """
    entry = document.image(image)
    pixels, source, note = read_located(document, entry, path)
    entry.attach_pixels(pixels)
    document.do(LocateImage(image, source))
    return note


def read_located(
    document: Document, image: DocumentImage, path: Path
) -> tuple[Any, ImageSource, str]:
    """Return the pixels of the file that an image is said to come from; slow.

    The source and a note come with them. The note says that other pixels are in the file.
    """
    pixels = open_image(path, image.info.metadata.read_with).pixels
    source = _with_digest(describe_source(path, document.store.path), pixels, image.rgb)
    before = image.info.source
    if before is None or _has_digest(before, pixels, image.rgb):
        return pixels, source, ""
    changed = "has other pixels than what was annotated: check that the objects still fit"
    return pixels, source, f"{path} {changed}"


def source_of(path: Path, file: ImageFile, project: Path | None) -> ImageSource:
    """Return how a project refers to a file that was read; slow."""
    series = file.metadata.read_with.series or 0
    source = _with_digest(describe_source(path, project), file.pixels, file.rgb)
    return replace(source, series=series)


def _find_origin(image: DocumentImage, path: Path, project: Path | None) -> ImageSource | None:
    """Return how a project refers to a file, None if it does not hold an image's pixels; slow.

    Another program may have read it in another way, or changed the pixels since.
    """
    try:
        file = open_image(path, image.info.metadata.read_with)
        source = source_of(path, file, project)
    except PeftSamError:
        return None
    same = tuple(file.pixels.shape) == tuple(image.pixels.shape)
    return source if same and _has_digest(source, image.pixels, image.rgb) else None


def keep_pixels(store: Store, image: DocumentImage, path: Path | None) -> ImageSource | None:
    """Refer to the file that holds an image's pixels, or else keep them in the project; slow.

    None if there is neither such a file nor a project.
    """
    source = None if path is None else _find_origin(image, path, store.path)
    if source is None and store.path is not None and not store.read_only:
        return store_pixels(store, image.pixels)
    return source


@dataclass(frozen=True)
class Imported:
    """Objects of another project or a file for an image of this project.

    Attributes
    ----------
    action
        What imports them; None if there is nothing to import.
    objects
        How many there are.
    covered
        How many more there would be if existing objects did not cover them.
    problem
        Why pieces that are apart are one object, empty if none are.
    """

    action: ImportLabels | None = None
    objects: int = 0
    covered: int = 0
    problem: str = ""


def import_objects(
    own: DocumentImage, sets: Mapping[str, LabelArray], records: Mapping[int, ObjectRecord]
) -> Imported:
    """Add objects to an image; its own objects keep their pixels. Slow.

    Labels keep their numbers in an image without objects; else they follow the present ones.

    Parameters
    ----------
    own
        The image.
    sets
        ``(..., H, W)`` of the image's shape for each label set; no two have a label in common.
    records
        Provenance by label; objects without one count as imported.
    """
    new, kept, covered, number = dict[str, LabelArray](), list[ObjectRecord](), 0, own.next_label
    objects = 0
    for label_set, labels in sets.items():
        every, present = np.unique(labels[labels > 0]), own.array(label_set)
        free = (present == 0) & (labels > 0)
        taken = np.unique(labels[free])
        covered += len(every) - len(taken)
        if not len(taken):
            continue
        numbers = np.arange(number, number + len(taken)) if own.records else taken
        own.check_label_range(int(numbers[-1]))
        new[label_set] = present.copy()
        new[label_set][free] = numbers[np.searchsorted(taken, labels[free])]
        pairs = zip(taken.tolist(), numbers.tolist(), strict=True)
        kept += (replace(records[old], label=n) for old, n in pairs if old in records)
        number, objects = number + len(taken), objects + len(taken)
    if not new:
        return Imported(covered=covered)
    (first, labels), *others = new.items()
    action = ImportLabels(own.id, labels, tuple(kept), first, dict(others))
    return Imported(action, objects, covered)


def file_name(image: DocumentImage) -> str:
    """Return the name of an image's file without folders, or else the image's name."""
    source = image.info.source
    return Path(source.path).name if source is not None and source.path else image.name


def import_label_file(
    document: Document, image: ImageId, path: str | Path, number_pieces: bool = False
) -> tuple[int, str]:
    """Add the objects of a file to an image, see `napari_peftsam.files.read_objects`; slow.

    With `number_pieces`, each connected piece of a mask with one number is an object. Return
    the number of objects, and a note about those that were covered or left out.
    """
    own = document.image(image)
    found, note = read_label_file(own, path, number_pieces)
    if found.action is not None:
        document.do(found.action)
    return found.objects, note


def read_label_file(
    own: DocumentImage, path: str | Path, number_pieces: bool = False
) -> tuple[Imported, str]:
    """Read the objects of a file for an image, with a note as of `import_label_file`; slow."""
    file, notes = read_objects(path, own.shape, file_name(own), own.info.metadata.names), []
    labels, classes, sets = file.labels, file.classes, file.sets
    pieces, problem = split_pieces(labels)
    if problem and number_pieces:
        labels, sets, every = pieces, {}, range(1, int(pieces.max()) + 1)
        classes = {number: name for name in classes.values() for number in every}
    elif problem:
        notes.append(problem)
    now = utc_now()
    records = {
        label: ObjectRecord(label, (), IMPORTED, created=now, modified=now, category=category)
        for label, category in classes.items()
    } | {each.label: each for each in map(ObjectRecord.from_dict, file.records)}
    by_class = sets or _by_class(labels, records)
    found = import_objects(own, {label_set_of(k): each for k, each in by_class.items()}, records)
    if file.skipped:
        notes.append(f"{file.skipped} have no area in the image and are left out")
    if file.overlapping:
        notes.append(f"{file.overlapping} overlap with earlier ones, which keep the pixels")
    if found.covered:
        notes.append(f"{found.covered} are covered by objects that were there")
    return replace(found, problem="" if number_pieces else problem), "; ".join(notes)


def _by_class(labels: LabelArray, records: Mapping[int, ObjectRecord]) -> dict[str, LabelArray]:
    """Return the labels of each class."""
    found, rest = dict[str, LabelArray](), labels
    for category in sorted({record.category for record in records.values()} - {""}):
        inside = np.isin(labels, [n for n, r in records.items() if r.category == category])
        found[category], rest = np.where(inside, labels, 0), np.where(inside, 0, rest)
    return {"": rest, **found}


def check_not_a_source(document: Document, path: Path, project: Path | None) -> None:
    """Raise `ExportError` if an image of a document in the file `project` comes from `path`."""
    if not path.exists():
        return
    for image in document.images.values():
        found = find_source(image.info.source, project).path
        if found is not None and found.exists() and found.samefile(path):
            raise ExportError(f"{path} is an image of the project: choose another place for it")


def _with_digest(source: ImageSource, pixels: Any, rgb: bool) -> ImageSource:
    """Return a source with the digest of its pixels."""
    return replace(source, digest=plane_digest(_middle(pixels, rgb)))


def _has_digest(source: ImageSource, pixels: Any, rgb: bool) -> bool:
    """Return True if the digest of a source does not exclude these pixels."""
    if ":" not in source.digest:  # none, or that of pixels in the project
        return True
    return is_digest_of(source.digest, _middle(pixels, rgb))


def _middle(pixels: Any, rgb: bool) -> Any:
    """Return the plane in the middle of a stack: the first ones are often empty."""
    leading = pixels.shape[: -3 if rgb else -2]
    return plane_of(pixels, tuple(n // 2 for n in leading))


# --- recent projects ----------------------------------------------------------------


def recent_projects() -> tuple[Path, ...]:
    """Return the projects opened last, the newest first; some may be gone."""
    with suppress(PeftSamError):
        found = read_json(_file())
        if isinstance(found, list):
            return tuple(Path(each) for each in found if isinstance(each, str))[:_RECENT]
    return ()


def note_recent(path: Path) -> None:
    """Put a project at the head of the list, unless it has no name of its own."""
    path = resolved(path)
    if path.parent == resolved(project_folder()):
        return
    paths = [path, *(each for each in recent_projects() if each != path)][:_RECENT]
    with suppress(OSError, PeftSamError):  # a list that cannot be written costs nobody any work
        create_folder(_file().parent)
        with atomic_path(_file()) as temporary:
            temporary.touch(0o600)
            temporary.write_text(json.dumps([str(each) for each in paths]), encoding="utf-8")


def _file() -> Path:
    return configuration_folder() / "recent.json"
