"""Files in and out: labels of single images, plain checkpoints and HF `peft` folders."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.export_context import context_of
from napari_peftsam.batch.segment import PromptedImage, SegmentReport
from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.document import Document, ImageId
from napari_peftsam.errors import ConfigurationError, LabelError
from napari_peftsam.export import ExportContext, export_labels, export_target
from napari_peftsam.files import atomic_path, open_labels, read_provenance
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ReadOptions
from napari_peftsam.models import DENSE_HEAD, DenseHead, SamModel, build, checkpoint_state
from napari_peftsam.outputs import check_not_an_input, check_output
from napari_peftsam.peft import (
    EXCHANGE_FORMATS,
    Adapter,
    ExpectedAdapter,
    check_replaceable,
    dense_head_of,
    export_hf_peft,
    import_adapter,
    load_adapter,
    merge,
    restore_adapter,
    save_adapter,
)
from napari_peftsam.projects import check_not_a_source
from napari_peftsam.types import ModelReference

# --- labels --------------------------------------------------------------------------


def segment_file(
    image: Path,
    prompts: Path | None,
    output: Path,
    choice: ModelChoice | None = None,
    options: ReadOptions = AS_THE_FILE_SAYS,
    config: AutomaticConfig | None = None,
) -> SegmentReport:
    """Segment the objects of a prompts file, or all objects, in one image and write their labels.

    Parameters
    ----------
    image
        One plane, ``(H, W)`` or ``(H, W, 3)``; a large one is read and segmented in tiles.
    prompts
        A file, see `napari_peftsam.batch.prompts_file.read_prompts_for`; its object ``i``
        (from 1) gets label ``i``. None: look for all objects.
    output
        The TIFF file or OME-Zarr folder to write; for a large image it must be a folder,
        into which objects are written one by one.
    options
        Axes, channels and the rest of what the image's file leaves open.
    config
        How to look for objects without prompts.
    """
    choice = choice or ModelChoice()
    prompted = PromptedImage.open(image, prompts, output, choice.reading(options))
    engine = choice.engine()
    engine.keeps_activations = False  # no other adapter comes
    return prompted.segment(engine, output, config)


def export_file(labels: Path, output: Path, format_name: str) -> Path:
    """Write a label file in another format, with pixel size and provenance; return the path.

    Raises
    ------
    LabelError
        If it holds no object.
    """
    check_not_an_input(export_target(output, format_name), labels)
    values, metadata = open_labels(labels)
    if not values.any():
        raise LabelError(f"{labels} holds no object (all labels are 0): there is nothing to export")
    records = read_provenance(labels)
    context = ExportContext.of(metadata, image_name=labels.name, records=records)
    return export_labels(values, output, format_name, context)


def export_image(
    document: Document, image: ImageId, path: Path, format_name: str | None = None
) -> Path:
    """Write the labels of an image with their provenance, see `napari_peftsam.export`.

    A file that an image of the document comes from is never replaced (`ExportError`).
    """
    target = path if format_name is None else export_target(path, format_name)
    check_not_a_source(document, target, document.store.path)
    annotated = document.image(image)
    pixels = None if annotated.pixels is None else np.asarray(annotated.pixels)
    context = context_of(annotated, classes=document.categories, pixels=pixels)
    return export_labels(annotated.labels, path, format_name, context)


# --- weights and adapters ---------------------------------------------------------------


def export_adapter_file(
    model: str | Path,
    adapter: Path,
    output: Path,
    format_name: str = "hf-peft",
    *,
    anonymise: bool = False,
) -> Path:
    """Write an adapter for another program, or as a file for somebody else; slow.

    Parameters
    ----------
    model
        The model it was trained on: a name of the registry, or the path of a checkpoint.
    adapter
        The adapter file.
    output
        A new folder, or an older export, which is replaced; a file of the format ``adapter``.
    format_name
        One of `EXCHANGE_FORMATS`, or ``adapter``, the program's own.
    anonymise
        Leave out the names of the images it was trained on.
    """
    if format_name == "adapter":
        check_output(output, (".safetensors",))
        check_not_an_input(output, adapter)
        given = load_adapter(adapter)
        save_adapter(given.anonymous() if anonymise else given, output)
        return output
    if format_name not in EXCHANGE_FORMATS:
        raise ConfigurationError(
            f"unknown format {format_name!r}: choose one of {', '.join(EXCHANGE_FORMATS)}, adapter"
        )
    check_not_an_input(output, Path(ModelReference.parse(model).source), adapter)
    if output.is_dir():
        check_replaceable(output)
        check_output(output / "x")
    else:
        check_output(output)
    trained = load_adapter(adapter)
    export_hf_peft(build(model), trained, output, anonymise=anonymise)
    return output


def import_adapter_file(
    source: Path,
    output: Path,
    model: str | Path | None = None,
    expected: ExpectedAdapter | None = None,
) -> Adapter:
    """Write an adapter that HF `peft` trained as an adapter file; slow.

    Parameters
    ----------
    source
        A folder of HF `peft`.
    output
        The ``.safetensors`` file to write.
    model
        The model it was trained on. None: an export of this program knows it; else the
        built-in one.
    expected
        Settings that the user knows, see `napari_peftsam.peft.import_adapter`.
    """
    check_output(output, (".safetensors",))
    check_not_an_input(output, source, *(source.iterdir() if source.is_dir() else ()))
    adapter = restore_adapter(source, expected) if model is None else None
    if adapter is None:
        adapter = import_adapter(source, build(model or "builtin"), expected)
    save_adapter(adapter, output)
    return adapter


def export_model(
    model: SamModel, adapter: Adapter | None, path: Path, strength: float = 1.0
) -> Path:
    """Write the model's weights, with `adapter` merged in, as a plain SAM state dict.

    `segment_anything.sam_model_registry` loads it if the architecture is one of its own,
    MobileSAM's loads ``vit_t``; `napari_peftsam.models.build` loads it in any case, with
    the head of the built-in model, or of the adapter on it. `strength` is a factor on the
    adapter's changes. The frame is in torch's metadata of the state dict,
    ``_metadata[""]["image_size"]``;
    `segment_anything.modeling.Sam` takes it as ``img_size`` where it is not 1024.

    Raises
    ------
    ConfigurationError
        If the adapter's method cannot be merged.
    ExportError
        If the file cannot be written; a file that was there before is untouched.
    """
    state = model.sam.state_dict() if adapter is None else merge(model, adapter, strength)
    named = checkpoint_state(model.architecture, state)
    if isinstance(model.dense_head, DenseHead):  # other programs refuse one in their own models
        head = dense_head_of(model, adapter) or model.dense_head
        named |= {f"{DENSE_HEAD}{key}": v for key, v in head.state_dict().items()}
    plain: Any = OrderedDict((name, tensor.cpu()) for name, tensor in named.items())
    plain._metadata = {"": {"image_size": model.image_size}}  # noqa: SLF001  # as torch keeps it
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(plain, file)
        except RuntimeError as error:
            # When the file system refuses, torch reports that its own count is wrong.
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(error)) from error
    return path


def export_model_file(model: str | Path, adapter: Path, output: Path) -> Path:
    """Write a plain SAM checkpoint of a model with an adapter merged in; slow."""
    check_output(output, (".pth", ".pt"))
    check_not_an_input(output, Path(ModelReference.parse(model).source), adapter)
    trained = load_adapter(adapter)
    return export_model(build(model), trained, output)
