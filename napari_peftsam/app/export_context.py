"""Names, classes, provenance and regions of an image for an export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari_peftsam.document import OBJECTS, CompleteRegion, DocumentImage, class_of
from napari_peftsam.export import ExportContext
from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.projects import file_name


def context_of(
    image: DocumentImage,
    metadata: ImageMetadata | None = None,
    *,
    image_name: str | None = None,
    classes: Sequence[str] = (),
    pixels: Any = None,
) -> ExportContext:
    """Return what an export tells of an image beside its labels; call it where it is used.

    Parameters
    ----------
    metadata
        Axes and pixel size; default: the stored ones.
    image_name
        Default: the name of its file.
    classes
        All classes of the document.
    pixels
        The image, to be stored along with the labels.
    """
    background = image.background
    has_strokes = background is not None and bool(background.any())
    return ExportContext.of(
        image.info.metadata if metadata is None else metadata,
        image_name=file_name(image) if image_name is None else image_name,
        label_sets={class_of(k): image.array(k).copy() for k in image.label_sets if k != OBJECTS},
        pixels=pixels,
        records=tuple(image.records[label].to_dict() for label in sorted(image.records)),
        classes=classes,
        complete=tuple(_region_dict(region) for region in image.info.complete),
        background=background.copy() if background is not None and has_strokes else None,
    )


def _region_dict(region: CompleteRegion) -> dict[str, Any]:
    return {
        "index": None if region.index is None else list(region.index),
        "box": None if region.box is None else list(region.box.as_tuple()),
        "outline": [list(corner) for corner in region.outline],
    }
