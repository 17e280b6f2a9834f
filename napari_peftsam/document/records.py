"""Records of images, models, adapters and training runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_peftsam.metadata import UNKNOWN, ImageMetadata
from napari_peftsam.types import Box

__all__ = [
    "OBJECTS",
    "CompleteRegion",
    "ImageInfo",
    "ImageSource",
    "LiveAdapter",
    "ModelVersion",
    "Run",
    "StoredAdapter",
    "class_of",
    "label_set_of",
]

OBJECTS = ""
"""The label set with the objects of an image that have no class."""
BACKGROUND = "background"
"""The label set in which 1 marks pixels that strokes declare to be background."""
PROPOSALS = "proposals"
"""The label set with the proposals that nobody has judged yet."""
_CLASS = "class "


def label_set_of(category: str) -> str:
    """Return the label set of the objects of a class, which may lie in those of others."""
    return f"{_CLASS}{category}" if category else OBJECTS


def class_of(label_set: str) -> str:
    """Return the class whose objects a label set holds, empty for those without one."""
    return label_set.removeprefix(_CLASS)


Index = tuple[int, ...]


@dataclass(frozen=True)
class ImageSource:
    """The origin of an image's pixels.

    Attributes
    ----------
    path
        The file or folder, relative to the project's folder where it lies below it or beside
        it; empty if the pixels are stored in the project.
    size
        Bytes of the file, or of the files in the folder.
    modified
        Time of the last change in nanoseconds since 1970.
    series
        Number of the image in a file that holds several.
    digest
        Content hash of the stored pixels, or of those that were read.
    absolute
        Absolute path where the file was last found.
    """

    path: str = ""
    size: int = 0
    modified: int = 0
    series: int = 0
    digest: str = ""
    absolute: str = ""


@dataclass(frozen=True)
class CompleteRegion:
    """A part of an image in which all objects are annotated: the rest of it is background.

    Attributes
    ----------
    index
        The plane it lies in; None for all planes.
    box
        A rectangle; None for the whole plane unless there is an outline.
    outline
        Corners ``(row, col)`` of a lasso in pixel centres, empty if it is none.
    """

    index: Index | None = None
    box: Box | None = None
    outline: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class ImageInfo:
    """Stored properties of an image, beside its labels and objects.

    Attributes
    ----------
    name
        Its name, unique in the document.
    shape
        The spatial shape ``(..., H, W)``.
    rgb
        Whether the last axis of the pixels holds colours.
    label_type
        Data type of the labels.
    next_label
        The label that the next object gets.
    source
        Origin of the pixels; None for pixels that exist in memory only.
    complete
        Regions in which all objects are annotated.
    is_removed
        Whether it was removed from the document; undo brings it back.
    metadata
        Its axes, pixel size and channels, and how its file was read.
    """

    name: str
    shape: tuple[int, ...]
    rgb: bool = False
    label_type: str = "int32"
    next_label: int = 1
    source: ImageSource | None = None
    complete: tuple[CompleteRegion, ...] = ()
    is_removed: bool = False
    metadata: ImageMetadata = UNKNOWN

    def __post_init__(self) -> None:
        if len(self.shape) < 2 or min(self.shape) < 1:
            raise ValueError(f"an image cannot have the shape {self.shape}")


# --- models and adapters ------------------------------------------------------------


@dataclass(frozen=True)
class ModelVersion:
    """The model, adapter and digests that predict candidates; equal ones give equal answers.

    Attributes
    ----------
    model, adapter
        Names, for the record.
    weights
        Identifies the model's weights: another model cannot refine its logits.
    embedding
        Identifies the embedding.
    decoder
        Identifies the adapter that decodes it: as an embedding's, it may be of the base model.
    """

    model: str = ""
    adapter: str = ""
    weights: str = ""
    embedding: object = None
    decoder: str = ""


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in the document.

    Attributes
    ----------
    name
        ``v1``, ``v2``, … or the name of the file it came from.
    digest
        Names the blob that holds its file.
    weights
        Hash of the base weights it works with.
    iou
        Held-out IoU, None if it was not measured.
    from_file
        Whether it was loaded from a file.
    """

    name: str
    digest: str = ""
    weights: str = ""
    iou: float | None = None
    from_file: bool = False


@dataclass(frozen=True)
class LiveAdapter:
    """The model and adapter in use.

    Attributes
    ----------
    model
        Registry name or path of the model; empty if none was loaded.
    name
        Name of the adapter; empty for the bare model.
    strength
        Share of its changes that is applied, from 0 to 1.
    """

    model: str = ""
    name: str = ""
    strength: float = 1.0


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes
    ----------
    adapter
        Name of the resulting adapter; empty if the earlier one stayed.
    config
        Options, as JSON types.
    report
        Curves and figures, as JSON types.
    """

    adapter: str
    config: dict[str, Any]
    report: dict[str, Any]
