"""Segmentation and export of single files, one call each."""

from __future__ import annotations

from pathlib import Path

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.exchange import export_model
from napari_peftsam.batch.segment import PromptedImage, SegmentReport
from napari_peftsam.errors import LabelError
from napari_peftsam.export import ExportContext, export_labels, export_target
from napari_peftsam.files import read_labels
from napari_peftsam.files.outputs import check_not_an_input, check_output
from napari_peftsam.models import build
from napari_peftsam.peft import load_adapter

__all__ = ["SegmentReport", "export_file", "export_model_file", "segment_file"]


def segment_file(
    image: Path, prompts: Path, output: Path, choice: ModelChoice | None = None
) -> SegmentReport:
    """Segment the objects of a prompts file in one image and write their labels.

    Parameters
    ----------
    image
        One plane, ``(H, W)`` or ``(H, W, 3)``; a large one is read and segmented in tiles.
    prompts
        A JSON file, see `napari_peftsam.batch.prompts_file.read_prompts`; its object ``i``
        (from 1) gets label ``i``.
    output
        The TIFF file or OME-Zarr folder to write; for a large image it must be a folder,
        into which objects are written one by one.

    Raises
    ------
    PeftSamError
        If an input cannot be used, a prompt lies outside the image, or `output` cannot
        be written.
    """
    prompted = PromptedImage.open(image, prompts, output)
    engine = (choice or ModelChoice()).engine()
    engine.keeps_activations = False  # no other adapter comes
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
