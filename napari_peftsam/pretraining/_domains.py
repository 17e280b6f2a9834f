"""Figures on the domains that no run trains on, and that no weights are chosen by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from napari_peftsam.errors import InputFileError
from napari_peftsam.evaluation import LabelledImage
from napari_peftsam.files import pair_folders
from napari_peftsam.models import build
from napari_peftsam.pretraining._validation import Figures, figures_of

__all__ = ["OTHER_DOMAINS", "measure_domains"]

OTHER_DOMAINS = ("dsb_histo", "phase_cells", "em_axons")
_OBJECTS = 150  # of each domain


def measure_domains(
    model: str | Path, data: Path, objects: int = _OBJECTS
) -> Iterator[tuple[str, Figures]]:
    """Yield the figures of a model on each of `OTHER_DOMAINS`.

    Parameters
    ----------
    model
        A name of the registry or the path of a checkpoint.
    data
        Folder that holds a folder of each domain, with ``images`` and ``labels``.
    objects
        Evaluated objects of each domain, a random sample, always the same one.

    Raises
    ------
    InputFileError
        If the folder of a domain is missing.
    """
    built = build(model)
    for domain in OTHER_DOMAINS:
        folder = data / domain
        if not folder.is_dir():
            raise InputFileError(f"{data} holds no folder {domain}")
        pairs = pair_folders(folder / "images", folder / "labels")
        images: list[LabelledImage] = [(pair.name, *pair.read()) for pair in pairs]
        yield domain, figures_of(built, images, objects)
