"""Folders of images and labels as annotated planes, and outputs checked in advance."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from napari_peftsam.errors import ConfigurationError, ExportError, PeftSamError, TrainingError
from napari_peftsam.evaluation import LabelledImage
from napari_peftsam.files import ImagePair, pair_folders
from napari_peftsam.models.memory import is_out_of_memory
from napari_peftsam.normalisation import check_normalisable
from napari_peftsam.training import AnnotatedPlane

__all__ = ["check_not_an_input", "check_output", "folder_planes", "labelled", "why_ended"]


def folder_planes(images: Path, labels: Path) -> tuple[AnnotatedPlane, ...]:
    """Read all pairs of two folders; a stack gives one plane per slice with objects.

    Raises
    ------
    InputFileError, LabelError, ImageError
        If a folder or file cannot be used; the message names it.
    """
    return tuple(plane for pair in pair_folders(images, labels) for plane in _planes(pair))


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


def check_output(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Raise unless a file can be written at `path`: before the work, not after it.

    Raises
    ------
    ConfigurationError
        If its name does not end in one of `suffixes`.
    ExportError
        If its folder is missing or not writable, or `path` is itself a folder.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigurationError(
            f"{path} has the wrong ending for this output: end its name in {' or '.join(suffixes)}"
        )
    if path.is_dir():
        raise ExportError(f"cannot write {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ExportError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    try:
        # Permissions alone do not tell about read-only disks, so it is tried.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error.strerror or error}; choose a folder you may write to"
        ) from error


def check_not_an_input(output: Path, *inputs: Path) -> None:
    """Raise `ConfigurationError` if writing `output` would replace one of the inputs."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise ConfigurationError(
                f"{output} is an input of this command and would be overwritten: "
                "choose another name for the output"
            )
