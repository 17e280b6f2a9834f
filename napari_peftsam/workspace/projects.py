"""Documents of projects, and the pixels of their images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_peftsam.document import (
    Document,
    DocumentImage,
    ImageId,
    ImageSource,
    LocateImage,
    create_project,
    describe_source,
    find_source,
    is_digest_of,
    open_project,
    plane_digest,
    read_pixels,
    store_pixels,
)
from napari_peftsam.errors import ImageError, PeftSamError
from napari_peftsam.files import image_name, open_image
from napari_peftsam.planes import plane_of

__all__ = [
    "add_image",
    "attach_images",
    "has_digest",
    "locate_image",
    "open_document",
    "read_image_of",
    "with_digest",
]

_COLOURS = 3


def open_document(path: str | Path) -> Document:
    """Open a project file, or create it, and read its images.

    Raises
    ------
    ProjectError
        See `open_project` and `create_project`.
    """
    store = open_project(path) if Path(path).exists() else create_project(path)
    document = Document(store)
    attach_images(document)
    return document


def attach_images(document: Document) -> list[str]:
    """Give all images of a reopened project their pixels; slow.

    Returns
    -------
    list of str
        What the user must know: images that are missing, unreadable or changed.
    """
    notes = []
    for image in document.images.values():
        try:
            pixels, note = read_image_of(document, image)
            document.attach_pixels(image.id, pixels)
        except PeftSamError as error:
            note = f"{image.name}: {error}"
        notes += [note] if note else []
    return notes


def read_image_of(document: Document, image: DocumentImage) -> tuple[Any, str]:
    """Return an image's pixels, read from its file or from the project, and a note; slow.

    The note says that the file has changed; it is empty if all is well.

    Raises
    ------
    ImageError
        If the file is not there, or cannot be read.
    """
    store, source = document.store, image.info.source
    if source is None:
        raise ImageError("its pixels were never saved: locate a file that has them")
    found = find_source(source, store.path)
    if found.state == "inside":
        return read_pixels(store, source), ""
    if found.state == "missing" or found.path is None:
        raise ImageError(found.text)
    pixels = open_image(found.path)
    if has_digest(source, pixels, image.rgb):
        return pixels, ""
    changed = f"{found.path} has changed since it was annotated: check that the objects still fit"
    return pixels, f"{image.name}: {found.text or changed}"


def add_image(document: Document, given: Any, name: str | None = None) -> ImageId:
    """Add an image file or an array to a document; one that is there already is returned.

    Parameters
    ----------
    document
        What to add it to.
    given
        Path of a file, or ``(..., H, W)`` or ``(..., H, W, 3)`` pixels, which are stored in
        the project.
    name
        What people call it; default: the file's name, or ``"image"``.

    Raises
    ------
    InputFileError, ImageError
        If the file cannot be read, or another image has this name.
    ProjectError
        If an array is too large to be stored.
    """
    is_file = isinstance(given, str | Path)
    name = name or (image_name(Path(given)) if is_file else "image")
    known = document.find_image(name)
    before = None if known is None else known.info.source
    if is_file:
        source = describe_source(given, document.store.path)
        if known is not None and before is not None and before.path == source.path:
            return known.id
        pixels = open_image(Path(given))
    else:
        pixels, source = given, store_pixels(document.store, given)
        if known is not None and before is not None and before.digest == source.digest:
            return known.id
    rgb = pixels.ndim > 2 and pixels.shape[-1] == _COLOURS
    if is_file:
        source = with_digest(source, pixels, rgb)
    return document.add_image(name, pixels, rgb=rgb, source=source)


def locate_image(document: Document, image: ImageId, path: Path) -> str:
    """Say where an image's file is now, and read it; slow.

    Returns
    -------
    str
        That other pixels are in it, as far as can be told; empty if all is well.

    Raises
    ------
    InputFileError, ImageError
        If the file cannot be read, or has another shape than what was annotated.
    """
    entry = document.image(image)
    pixels = open_image(path)
    before = entry.info.source
    document.attach_pixels(image, pixels)
    source = with_digest(describe_source(path, document.store.path), pixels, entry.rgb)
    document.do(LocateImage(image, source))
    if before is None or has_digest(before, pixels, entry.rgb):
        return ""
    return f"{path} has other pixels than what was annotated: check that the objects still fit"


def with_digest(source: ImageSource, pixels: Any, rgb: bool) -> ImageSource:
    """Return a source that tells its pixels from others."""
    return replace(source, digest=plane_digest(_middle(pixels, rgb)))


def has_digest(source: ImageSource, pixels: Any, rgb: bool) -> bool:
    """Say whether pixels are those of a source, as far as its digest tells."""
    return not source.digest or is_digest_of(source.digest, _middle(pixels, rgb))


def _middle(pixels: Any, rgb: bool) -> Any:
    """Return the plane in the middle of a stack: the first ones are often empty."""
    leading = pixels.shape[: -3 if rgb else -2]
    return plane_of(pixels, tuple(n // 2 for n in leading))
