"""Pairs of images and labels, and the checks that they fit."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_peftsam.errors import InputFileError, LabelError
from napari_peftsam.geometry import check_labels
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ReadOptions
from napari_peftsam.planes import LazyImage
from napari_peftsam.types import LabelArray, PixelArray

from ._objects import OBJECT_SUFFIXES
from ._read import IMAGE_SUFFIXES, ImageFile, image_name, open_image, read_labels
from ._zarr import is_zarr, list_fields

__all__ = [
    "ImagePair",
    "check_pair",
    "check_shapes",
    "find_images",
    "list_images",
    "pair_folders",
    "pair_prompts",
    "split_pieces",
]

_log = logging.getLogger(__name__)
_PROMPTS = (".csv", *OBJECT_SUFFIXES)  # those of label images would be the images' own


@dataclass(frozen=True)
class ImagePair:
    """An image file and the label file that belongs to it."""

    name: str
    image_path: Path
    label_path: Path
    options: ReadOptions = AS_THE_FILE_SAYS

    def read(self) -> tuple[PixelArray, LabelArray]:
        """Return pixels and labels of the same size; the labels may hold no object.

        See `napari_peftsam.files.read_image` for the shapes and `check_shapes` for the errors.
        """
        file, labels = self.open()
        return np.asarray(file.pixels), labels

    def open(self) -> tuple[ImageFile, LabelArray]:
        """Return the open image and the labels, as of `read`."""
        file, labels = open_image(self.image_path, self.options), read_labels(self.label_path)
        check_shapes(file.pixels, labels, self.name)
        pieces, problem = split_pieces(labels)
        if problem and self.options.number_pieces:
            return file, pieces
        if problem:
            _log.warning("%s: %s: use --number-pieces if each is an object", self.name, problem)
        return file, labels


def split_pieces(labels: LabelArray) -> tuple[LabelArray, str]:
    """Return labels with a number for each piece, and the problem, where all have one number.

    The problem is empty, and the labels are the same, where there are several numbers or one
    piece.
    """
    from scipy import ndimage

    highest = int(labels.max(initial=0))
    if not highest or not np.isin(labels, (0, highest)).all():
        return labels, ""
    neighbours = np.zeros((3,) * labels.ndim, bool)  # in the plane only
    neighbours[(1,) * (labels.ndim - 2)] = True
    pieces, count = ndimage.label(labels, neighbours)
    if count < 2:
        return labels, ""
    return pieces, f"all {count} separate pieces have the number {highest}, so they are one object"


def pair_folders(
    images: str | Path, labels: str | Path, options: ReadOptions = AS_THE_FILE_SAYS
) -> tuple[ImagePair, ...]:
    """Pair the files of two folders by name without suffix.

    ``x.ome.tif``, ``x.png`` and ``x.zarr`` all have the name ``x``. Hidden files, other
    kinds of file and subfolders are ignored; files without a partner are left out, with
    a warning in the log.

    Returns
    -------
    tuple of ImagePair
        Sorted by name, at least one.

    Raises
    ------
    InputFileError
        If a folder is missing, both are the same, two files of one folder have the same
        name, or no image has labels.
    """
    image_folder, label_folder = Path(images), Path(labels)
    image_files, label_files = list_images(image_folder), list_images(label_folder)
    if image_folder.resolve() == label_folder.resolve():
        raise InputFileError(
            f"{image_folder}: images and labels are in one folder; put them into two, an image "
            "and its labels under the same name"
        )
    common = _common_names(
        image_files,
        label_files,
        f"no image of {image_folder} ({_examples(image_files)}) has labels of the same name "
        f"in {label_folder} ({_examples(label_files)})",
    )
    return tuple(ImagePair(n, image_files[n], label_files[n], options) for n in common)


def pair_prompts(images: str | Path, prompts: str | Path) -> tuple[tuple[str, Path, Path], ...]:
    """Pair images with files of prompts by name: ``x.ome.tif`` with ``x.json`` or ``x.csv``.

    Files without a partner are left out, with a warning in the log. Both may be in one folder.

    Returns
    -------
    tuple of (name, image, prompts)
        Sorted by name, at least one.
    """
    image_files = list_images(images)
    prompt_files = _by_name(Path(prompts), _PROMPTS, _prompts_name)
    common = _common_names(
        image_files,
        prompt_files,
        f"no image of {images} ({_examples(image_files)}) has prompts of the same name in "
        f"{prompts} ({_examples(prompt_files, _PROMPTS)})",
    )
    return tuple((n, image_files[n], prompt_files[n]) for n in common)


def _prompts_name(path: Path) -> str:
    suffix = next(each for each in _PROMPTS if path.name.lower().endswith(each))
    return path.name[: -len(suffix)]


def list_images(folder: str | Path) -> dict[str, Path]:
    """Return the images of a folder by name (see `image_name`), sorted; perhaps none."""
    return _by_name(Path(folder), IMAGE_SUFFIXES, image_name)


def find_images(sources: Iterable[str | Path]) -> list[Path]:
    """Return the images that files, folders, patterns and plates stand for, in their order.

    A folder stands for its images by name, a plate (OME-Zarr) for its fields of view, and a
    pattern like ``"cells*.tif"``, which some shells leave alone, for the files that it fits.

    Raises
    ------
    InputFileError
        If there is nothing of a name, or a folder has no image.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if is_zarr(source):
            inside = [*list_fields(source).values()] or [source]
        elif source.is_dir():
            inside = list(list_images(source).values())
        elif not source.exists() and set("*?[") & set(source.name) and source.parent.is_dir():
            inside = sorted(source.parent.glob(source.name))
        else:
            inside = [source]
        if not inside:
            raise InputFileError(f"{source}: holds no image; name a folder of images, or an image")
        found += inside
    return found


def _common_names(first: dict[str, Path], second: dict[str, Path], problem: str) -> list[str]:
    """Return the names of both, sorted; name the others in the log."""
    if not (common := first.keys() & second.keys()):
        raise InputFileError(f"{problem}; rename the files so that they match")
    if alone := sorted(first.keys() ^ second.keys()):
        _log.warning("left out, no partner of the same name: %s", ", ".join(alone))
    return sorted(common)


def _by_name(
    folder: Path, suffixes: tuple[str, ...], name_of: Callable[[Path], str]
) -> dict[str, Path]:
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "no such folder"
        raise InputFileError(f"{folder}: {reason}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        wanted = suffix in suffixes and path.is_dir() == (suffix == ".zarr")
        if path.name.startswith(".") or not wanted:
            continue
        # Accents have two forms, which systems exchange on copying.
        other = found.setdefault(unicodedata.normalize("NFC", name_of(path)), path)
        if other != path:
            raise InputFileError(
                f"{folder}: {other.name} and {path.name} have the same name; keep one of them"
            )
    return found


def _examples(files: dict[str, Path], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> str:
    if not files:
        return f"no {', '.join(suffixes)} files"
    shown = ", ".join(p.name for p in list(files.values())[:3])
    return shown if len(files) <= 3 else f"{shown}, ..."


def check_shapes(pixels: PixelArray | LazyImage, labels: LabelArray, name: str) -> None:
    """Raise `LabelError` unless `labels` has one value per pixel of `pixels`.

    Parameters
    ----------
    pixels
        ``(..., H, W)`` grey or ``(..., H, W, 3 or 4)`` colour.
    labels
        ``(..., H, W)``.
    name
        What to call the pair in messages.
    """
    colour = pixels.shape[:-1] == labels.shape and pixels.shape[-1] in (3, 4)
    if pixels.shape != labels.shape and not colour:
        raise LabelError(
            f"{name}: the labels have the shape {labels.shape} but the image {pixels.shape}; use "
            "labels of the same height and width"
        )


def check_pair(pixels: PixelArray, labels: LabelArray, name: str) -> LabelArray:
    """Return `labels` (booleans as 0 and 1) if they can be used with `pixels`.

    Raises
    ------
    LabelError
        If they are not whole numbers of at least 0, of another size (see
        `check_shapes`), or hold no object.
    """
    labels = check_labels(labels, name)
    check_shapes(pixels, labels, name)
    if not labels.any():
        raise LabelError(
            f"{name}: the labels hold no object (all are 0); annotate one or leave the image out"
        )
    return labels
