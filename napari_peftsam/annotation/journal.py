"""Save what was annotated and take it up again; pixels are not part of the file."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from napari_peftsam.annotation.records import (
    ObjectRecord,
    PlaneKey,
    plane_from_dict,
    prompts_from_dict,
)
from napari_peftsam.annotation.session import Session
from napari_peftsam.errors import ExportError, InputFileError, PeftSamError
from napari_peftsam.types import LabelArray, Prompts

__all__ = ["SavedImage", "SavedSession", "load_session", "read_session", "save_session"]

_FORMAT = "napari-peftsam session"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class SavedImage:
    """The annotations of one image.

    Attributes
    ----------
    labels
        ``(..., H, W)`` integers, 0 is unlabelled.
    rgb
        Whether the pixels they belong to hold colours.
    records
        Provenance of the objects.
    """

    labels: LabelArray
    rgb: bool
    records: tuple[ObjectRecord, ...]


@dataclass(frozen=True, eq=False)
class SavedSession:
    """What a file holds: annotations by image, and the prompts that were not accepted yet."""

    images: Mapping[str, SavedImage] = field(default_factory=dict)
    plane: PlaneKey | None = None
    queue: tuple[Prompts, ...] = ()

    def restore(self, session: Session) -> tuple[str, ...]:
        """Import the annotations of the images that `session` has; return their names.

        Each import is one undoable step. The prompts come back too if nothing is
        being made in `session`; they wait for a prediction.
        """
        found = tuple(name for name in self.images if name in session.images)
        for name in found:
            saved = self.images[name]
            session.set_labels(name, saved.labels, records=saved.records)
        if self.plane is not None and self.plane.image in found and session.current is None:
            session.queue_prompts(self.plane, self.queue)
        return found


def save_session(session: Session, path: str | Path) -> Path:
    """Write labels, records and open prompts of all images; an older file is replaced.

    Parameters
    ----------
    session
        The session; it is not changed.
    path
        The file to write, usually ending in ``.npz``.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ExportError
        If it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    arrays: dict[str, Any] = {}
    for i, image in enumerate(session.images.values()):
        arrays[f"starts_{i}"], arrays[f"values_{i}"] = _encode(image.labels)
    arrays["session"] = np.array(json.dumps(_description(session)))
    temporary = path.with_name(f".{path.name}-{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            _write(file, arrays)
        temporary.replace(path)
    except OSError as error:
        raise ExportError(
            f"the session cannot be written to {path} ({error}): choose a folder that exists, "
            "may be written to and has space left"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def read_session(path: str | Path) -> SavedSession:
    """Read a file of `save_session`; an `InputFileError` says why it cannot be used."""
    path = Path(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            description = json.loads(str(arrays["session"]))
            if description["format"] != _FORMAT or description["version"] > _VERSION:
                raise InputFileError(
                    f"{path} has the format {description['format']!r}, version "
                    f"{description['version']}: update napari-peftsam to read it"
                )
            images = {
                entry["name"]: SavedImage(
                    _decode(arrays[f"starts_{i}"], arrays[f"values_{i}"], entry["shape"]),
                    bool(entry["rgb"]),
                    tuple(ObjectRecord.from_dict(r) for r in entry["records"]),
                )
                for i, entry in enumerate(description["images"])
            }
        plane = description["plane"]
        return SavedSession(
            images,
            None if plane is None else plane_from_dict(plane),
            tuple(prompts_from_dict(p) for p in description["queue"]),
        )
    except (
        OSError, EOFError, KeyError, IndexError, TypeError, ValueError, AttributeError,
        zipfile.BadZipFile, PeftSamError,
    ) as error:  # fmt: skip
        if isinstance(error, InputFileError):
            raise
        raise InputFileError(
            f"{path} is no readable session file ({error}): choose a file that was written by "
            "napari-peftsam"
        ) from error


def load_session(path: str | Path, images: Mapping[str, Any]) -> Session:
    """Return a new session with the annotations of a file.

    Parameters
    ----------
    path
        A file of `save_session`.
    images
        The pixels ``(..., H, W)`` or ``(..., H, W, 3|4)`` of every image in it, by name.

    Raises
    ------
    InputFileError
        If the file cannot be read or pixels are missing.
    """
    saved = read_session(path)
    missing = [name for name in saved.images if name not in images]
    if missing:
        raise InputFileError(
            f"{path} annotates the image {missing[0]!r}, which was not given: open it as well "
            f"(given: {', '.join(map(repr, images)) or 'none'})"
        )
    session = Session()
    for name, image in saved.images.items():
        session.add_image(
            name, images[name], rgb=image.rgb, labels=image.labels, records=image.records
        )
    if saved.plane is not None:
        session.queue_prompts(saved.plane, saved.queue)
    session.clear_history()
    return session


def _description(session: Session) -> dict[str, Any]:
    current = session.current
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "images": [
            {
                "name": name,
                "rgb": image.rgb,
                "shape": list(image.shape),
                "records": [r.to_dict() for r in session.records(name)],
            }
            for name, image in session.images.items()
        ],
        "plane": None if current is None else asdict(current.plane),
        "queue": [asdict(prompts) for prompts in session.queue],
    }


def _encode(labels: LabelArray) -> tuple[LabelArray, LabelArray]:
    """Return where runs of equal labels start (in C order), and their labels.

    Compressing every pixel of a large image takes seconds, its runs milliseconds.
    """
    flat = labels.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return starts, flat[starts]


def _decode(starts: LabelArray, values: LabelArray, shape: Sequence[int]) -> LabelArray:
    size = math.prod(shape)
    return np.repeat(values, np.diff(starts, append=size)).reshape(shape)


def _write(file: BinaryIO, arrays: dict[str, Any]) -> None:
    np.savez_compressed(file, **arrays)
    file.flush()
    os.fsync(file.fileno())
