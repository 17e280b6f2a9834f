"""Segmentation and export of single files, one call each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from napari_peftsam.app._folders import check_not_an_input, check_output
from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.engine import Engine
from napari_peftsam.app.large import (
    SegmentReport,
    check_label_output,
    embed_plane,
    segment_large,
    segment_plane,
)
from napari_peftsam.app.prompts_file import check_prompts_inside, read_prompts
from napari_peftsam.app.workspace import export_model
from napari_peftsam.embeddings import PlaneEmbedding
from napari_peftsam.errors import ImageError, LabelError
from napari_peftsam.export import ExportContext, export_labels, export_target
from napari_peftsam.files import open_image, read_labels
from napari_peftsam.models import build
from napari_peftsam.peft import load_adapter
from napari_peftsam.planes import LazyImage
from napari_peftsam.types import PixelArray, Prompts

__all__ = ["PromptedImage", "SegmentReport", "export_file", "export_model_file", "segment_file"]


@dataclass(frozen=True, eq=False)
class PromptedImage:
    """One image plane, perhaps on disk, with prompts for its objects that lie inside."""

    path: Path
    pixels: PixelArray | LazyImage = field(repr=False)
    prompts: tuple[Prompts, ...] = field(repr=False)

    @classmethod
    def open(cls, image: Path, prompts: Path) -> PromptedImage:
        """Read prompts and open the image, see `segment_file`."""
        asked, pixels = read_prompts(prompts), open_image(image)
        if pixels.ndim > 2 + (pixels.shape[-1] == 3):  # a stack
            raise ImageError(f"{image} is a stack of shape {pixels.shape}: save one plane of it")
        check_prompts_inside(asked, (pixels.shape[0], pixels.shape[1]), prompts)
        return cls(image, pixels, asked)

    def segment(self, engine: Engine, output: Path) -> SegmentReport:
        """Segment the objects and write their labels, see `segment_file`."""
        image = engine.tiled(self.pixels, self.path.name)
        if len(image.grid) > 1:
            return segment_large(engine, image, self.prompts, output)
        [encoded] = embed_plane(engine, str(self.path), self.pixels)
        embedding = PlaneEmbedding(encoded.embedding.key, image, encoded.embedding)
        labels = segment_plane(engine, embedding, self.prompts)
        found = set(labels.ravel().tolist())
        empty = tuple(i for i in range(1, len(self.prompts) + 1) if i not in found)
        context = ExportContext(image_name=self.path.name)
        return SegmentReport(len(self.prompts), empty, export_labels(labels, output, None, context))


def segment_file(
    image: Path, prompts: Path, output: Path, choice: ModelChoice | None = None
) -> SegmentReport:
    """Segment the objects of a prompts file in one image and write their labels.

    Parameters
    ----------
    image
        One plane, ``(H, W)`` or ``(H, W, 3)``; a large one is read and segmented in tiles.
    prompts
        A JSON file, see `read_prompts`; its object ``i`` (from 1) gets label ``i``.
    output
        The TIFF file or OME-Zarr folder to write; for a large image it must be a folder,
        into which objects are written one by one.

    Raises
    ------
    PeftSamError
        If an input cannot be used, a prompt lies outside the image, or `output` cannot
        be written.
    """
    check_not_an_input(output, image, prompts)
    check_label_output(output)
    prompted = PromptedImage.open(image, prompts)
    engine = (choice or ModelChoice()).open().engine
    engine.keeps_prefixes = False  # no other adapter comes
    return prompted.segment(engine, output)


def export_file(labels: Path, output: Path, format_name: str) -> Path:
    """Write a label file in another format; return what was written.

    Raises
    ------
    InputFileError, LabelError
        If the labels cannot be read, are no whole numbers, or hold no object.
    ConfigurationError, ExportError
        See `napari_peftsam.export.export_labels`.
    """
    check_not_an_input(export_target(output, format_name), labels)
    values = read_labels(labels)
    if not values.any():
        raise LabelError(f"{labels} holds no object (all labels are 0): there is nothing to export")
    context = ExportContext(image_name=labels.name)
    return export_labels(values, output, format_name, context)


def export_model_file(model: str | Path, adapter: Path, output: Path) -> Path:
    """Write a plain SAM checkpoint of a model with an adapter merged in; slow.

    Raises
    ------
    PeftSamError
        If the model or the adapter cannot be used, or `output` cannot be written; see
        `napari_peftsam.app.export_model`.
    """
    check_output(output, (".pth", ".pt"))
    check_not_an_input(output, Path(model), adapter)
    trained = load_adapter(adapter)
    return export_model(build(model), trained, output)
