"""A small valid file of every format that is read, and how it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import tifffile
import torch
import zarr
from PIL import Image

from napari_peftsam.batch.prompts_file import read_prompts, read_prompts_for
from napari_peftsam.document import (
    AcceptObjects,
    Document,
    NewObject,
    PlaneKey,
    create_project,
    open_project,
    verify,
)
from napari_peftsam.export import FORMATS as EXPORTED
from napari_peftsam.export import export_labels
from napari_peftsam.files import open_image, open_labels, read_image, read_labels, read_objects
from napari_peftsam.models import SamModel, available_models, build, build_tiny
from napari_peftsam.peft import (
    Adapter,
    CobotLoraConfig,
    LoraConfig,
    capture,
    export_hf_peft,
    import_adapter,
    inject,
    load_adapter,
    save_adapter,
)
from napari_peftsam.types import Prompts

SHAPE = (24, 32)


@dataclass(frozen=True)
class Format:
    """How a valid file is written below a folder, and how it is read.

    Attributes
    ----------
    make
        Writes it.
    name
        Of the file in its folder.
    read
        Reads it as the program does.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]

    def write(self, folder: Path) -> Path:
        """Write it and return its path."""
        folder.mkdir(parents=True)
        path = folder / self.name
        self.make(path)
        return path


def labels() -> np.ndarray:
    """Return two objects."""
    made = np.zeros(SHAPE, np.uint16)
    made[3:12, 4:15], made[14:22, 18:30] = 1, 2
    return made


@cache
def _model() -> SamModel:
    return build_tiny()


def _adapter(config: CobotLoraConfig | LoraConfig) -> Adapter:
    with inject(_model(), config) as injection:
        return capture(injection)


def _image(path: Path) -> None:
    read_image(path)
    open_image(path)
    open_labels(path)


def _write_zarr(version: int, path: Path) -> None:
    array = zarr.create_array(path, shape=SHAPE, chunks=(12, 16), dtype="u2", zarr_format=version)
    array[:] = labels()


def _write_ome_tiff(path: Path) -> None:
    stack = np.stack([labels(), labels()])
    about = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, stack, ome=True, metadata=about, compression="zlib")


def _write_prompts(path: Path) -> None:
    objects = [{"points": [[3, 4], [8, 9]], "labels": [1, 0]}, {"box": [2, 2, 12, 16]}]
    path.write_text(json.dumps(objects))


def _read_centres(path: Path) -> None:
    image = path.with_name("image.tif")
    tifffile.imwrite(image, labels())
    read_prompts_for(open_image(image), "image", path)


def _write_project(path: Path) -> None:
    document = Document(create_project(path))
    image = document.add_image("cells", labels())
    made = NewObject(Prompts(), labels() == 1)
    document.do(AcceptObjects(PlaneKey(image), (made,)))
    document.store.close()


def _read_project(path: Path) -> None:
    with closing(open_project(path, read_only=True)) as store:
        Document(store)
        verify(store)


def _write_models(path: Path) -> None:
    entry = '[[model]]\nname = "ours"\npath = "ours.pth"\ntitle = "Ours"\nmegabytes = 3\n'
    path.write_text(entry)


def _read_models(path: Path) -> None:
    os.environ["NAPARI_PEFTSAM_CONFIG"] = str(path.parent)
    available_models()


def _read_checkpoint(path: Path) -> None:
    build(path, "cpu")


def _export(name: str, path: Path) -> None:
    export_labels(labels(), path, format_name=name)


def _outlines(path: Path) -> None:
    read_objects(path, SHAPE, "cells")


FORMATS: dict[str, Format] = {
    "tiff": Format(
        "a.tif", lambda path: tifffile.imwrite(path, labels(), compression="zlib"), _image
    ),
    "ome-tiff": Format("a.ome.tif", _write_ome_tiff, _image),
    "png": Format("a.png", lambda path: Image.fromarray(labels()).save(path), _image),
    "jpeg": Format("a.jpg", lambda path: Image.fromarray(labels().astype("u1")).save(path), _image),
    "zarr 2": Format("a.zarr", partial(_write_zarr, 2), _image),
    "zarr 3": Format("a.zarr", partial(_write_zarr, 3), _image),
    "prompts": Format("a.json", _write_prompts, read_prompts),
    "centres": Format("a.csv", lambda path: path.write_text("y,x\n3,4\n18,20\n"), _read_centres),
    "checkpoint": Format(
        "a.pt", lambda path: torch.save(_model().sam.state_dict(), path), _read_checkpoint
    ),
    "adapter": Format(
        "a.safetensors",
        lambda path: save_adapter(_adapter(CobotLoraConfig(rank=4)), path),
        load_adapter,
    ),
    "HF adapter": Format(
        "hf",
        lambda path: export_hf_peft(_model(), _adapter(LoraConfig(rank=2)), path),
        lambda path: import_adapter(path, _model()),
    ),
    "project": Format("a.peftsam", _write_project, _read_project),
    "models.toml": Format("models.toml", _write_models, _read_models),
} | {
    name: Format(f"a{EXPORTED[name].suffixes[0]}", partial(_export, name), read)
    for name, read in (
        ("ome-zarr", read_labels),
        ("ome-zarr-0.4", read_labels),
        ("coco", _outlines),
        ("roi", _outlines),
        ("geojson", _outlines),
        ("cellpose", _outlines),
    )
}
"""All that is read, by what it is called."""
