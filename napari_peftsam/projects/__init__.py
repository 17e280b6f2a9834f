"""Projects with the pixels of their images, and the list of those opened lately; no torch."""

from __future__ import annotations

from napari_peftsam.projects.images import (
    Imported,
    add_image,
    attach_images,
    check_not_a_source,
    find_origin,
    has_digest,
    import_objects,
    is_rgb,
    keep_pixels,
    locate_image,
    open_document,
    read_image_of,
    read_located,
    with_digest,
)
from napari_peftsam.projects.recent import note_recent, recent_projects

__all__ = [
    "Imported",
    "add_image",
    "attach_images",
    "check_not_a_source",
    "find_origin",
    "has_digest",
    "import_objects",
    "is_rgb",
    "keep_pixels",
    "locate_image",
    "note_recent",
    "open_document",
    "read_image_of",
    "read_located",
    "recent_projects",
    "with_digest",
]
