"""Folders of images and labels as annotated planes, and outputs checked in advance."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from napari_peftsam.errors import LabelError, PeftSamError, TrainingError
from napari_peftsam.evaluation import LabelledImage
from napari_peftsam.files import ImagePair, pair_folders
from napari_peftsam.files.outputs import check_not_an_input, check_output
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ReadOptions
from napari_peftsam.models.memory import is_out_of_memory
from napari_peftsam.normalisation import check_normalisable
from napari_peftsam.training import AnnotatedPlane

_log = logging.getLogger(__name__)
_NAMED = 5  # files in a message

__all__ = ["check_not_an_input", "check_output", "folder_planes", "labelled", "why_ended"]


def folder_planes(
    images: Path, labels: Path, options: ReadOptions = AS_THE_FILE_SAYS
) -> tuple[AnnotatedPlane, ...]:
    """Read all pairs of two folders; a stack gives one plane per slice with objects.

    Images without any object are left out, which the log says.

    Raises
    ------
    InputFileError, LabelError, ImageError
        If a folder or file cannot be used, or no image has an object; the message names it.
    """
    planes: list[AnnotatedPlane] = []
    empty: list[str] = []
    for pair in pair_folders(images, labels, options):
        found = list(_planes(pair))
        planes += found
        empty += [] if found else [pair.label_path.name]
    if not planes:
        raise LabelError(f"{labels}: no label image holds an object (all are 0): annotate some")
    if empty:
        named = ", ".join(empty[:_NAMED]) + (", ..." if len(empty) > _NAMED else "")
        _log.warning("left out %d images without objects: %s", len(empty), named)
    return tuple(planes)


def _planes(pair: ImagePair) -> Iterator[AnnotatedPlane]:
    pixels, labels = pair.read()
    for index in np.ndindex(labels.shape[:-2]):
        if not labels[index].any():
            continue
        name = f"{pair.name}{list(index)}" if index else pair.name
        try:
            check_normalisable(pixels[index])  # better found now, with its name
        except PeftSamError as error:
            raise type(error)(f"{pair.image_path}: {error}") from error
        yield AnnotatedPlane(name, pair.name, pixels[index], labels[index])


def labelled(plane: AnnotatedPlane) -> LabelledImage:
    """Return a plane as `napari_peftsam.evaluation.evaluate` takes it."""
    parts = (plane.name, plane.pixels, plane.labels)
    return parts if plane.limits is None else (*parts, plane.limits)


def why_ended(error: Exception, model: str, device: str) -> str:
    """Return why a training broke off; raise `error` again if the program is at fault."""
    if isinstance(error, TrainingError):
        return str(error)
    if not is_out_of_memory(error):
        raise error
    return (
        f"not enough memory on {device} to train {model}: adapt fewer blocks "
        "(placement late-25%), or choose a smaller model or the device 'cpu'"
    )
