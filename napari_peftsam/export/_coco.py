"""COCO JSON: one annotation per object and plane, with a compressed run-length mask."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.types import LabelArray

from ._format import ExportContext, Labelled, Record


def write_coco(path: Path, labels: LabelArray, context: ExportContext) -> None:
    write_coco_set(path, [(labels, context)])


def write_coco_set(path: Path, given: Iterable[Labelled]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    category, numbers_of = "objects", dict[str, int]()
    for labels, context in given:
        names += [context.image_name]
        category, own = context.name, context.categories
        for each in context.classes:
            numbers_of.setdefault(each, len(numbers_of) + 1)
        records = {record["label"]: record for record in context.records}
        for index in np.ndindex(labels.shape[:-2]):
            about = _image(len(images) + 1, index, labels.shape, context.image_name)
            complete = [c for c in context.complete if c["index"] in (None, list(index))]
            images.append({**about, "complete": complete} if complete else about)
            sets = context.every(labels)
            for annotation in chain(*(_annotations(each[index], records) for each in sets)):
                name = own.get(annotation["label"], category)
                numbers = {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": numbers_of.setdefault(name, len(numbers_of) + 1),
                }
                annotations.append({**annotation, **numbers})
    shown = names[0] if len(names) == 1 else f"{len(names)} images"
    content = {
        "info": {"description": f"{category} of {shown}, by napari-peftsam"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": ""}
            for name, number in (numbers_of or {category: 1}).items()
        ],
    }
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def _image(
    number: int, index: tuple[int, ...], shape: tuple[int, ...], name: str
) -> dict[str, Any]:
    """Describe a plane; those of a stack have the name of its file and their index."""
    height, width = shape[-2:]
    image = {"id": number, "file_name": name, "height": height, "width": width}
    return {**image, "index": list(index)} if index else image


def _annotations(plane: LabelArray, records: dict[int, Record]) -> Iterator[dict[str, Any]]:
    from pycocotools import mask

    for label, counts in _run_lengths(plane):
        rle = mask.frPyObjects({"size": list(plane.shape), "counts": counts}, *plane.shape)
        extra = {k: v for k, v in records.get(label, {}).items() if v is not None}
        yield {
            **extra,
            "label": label,
            "segmentation": {"size": list(plane.shape), "counts": rle["counts"].decode("ascii")},
            "area": int(mask.area(rle)),
            "bbox": [float(v) for v in mask.toBbox(rle)],
            "iscrowd": 0,
        }


def _run_lengths(plane: LabelArray) -> Iterator[tuple[int, list[int]]]:
    """Yield each label with the lengths of its runs, background first, column by column.

    All objects come from one pass over the plane: a mask per object would take time
    proportional to their number times the size of the plane.
    """
    flat: npt.NDArray[Any] = plane.ravel(order="F")
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    stops = np.concatenate((starts[1:], [flat.size]))
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    order = order[values[order] > 0]
    found, first = np.unique(values[order], return_index=True)
    for label, runs in zip(found.tolist(), np.split(order, first[1:]), strict=False):
        edges = np.stack((starts[runs], stops[runs]), axis=1).ravel()
        yield label, np.diff(edges, prepend=0, append=flat.size).tolist()
