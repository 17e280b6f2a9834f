"""Objects of a stack that go on in the next plane, under the same number."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.app.clean import clean_prediction
from napari_peftsam.app.refine import embedded
from napari_peftsam.document import DocumentImage, NewObject, PlaneKey
from napari_peftsam.errors import LabelError
from napari_peftsam.geometry import deepest_pixel, iou
from napari_peftsam.types import Box, LabelArray, Point, Prompts, Window

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace

__all__ = ["Continued", "continue_objects", "continued_labels"]

_SAME = 0.25  # IoU of one object in two neighbouring planes, at least


@dataclass(frozen=True, eq=False)
class Continued:
    """Masks of objects in the next plane, and how many have none there."""

    objects: tuple[NewObject, ...]
    ended: int


def continued_labels(
    image: DocumentImage, source: PlaneKey, target: PlaneKey, chosen: Iterable[int] = ()
) -> tuple[int, ...]:
    """Return the objects of one plane that are not in another: of those chosen, else of all.

    Raises
    ------
    LabelError
        If there is none.
    """
    here, there = (np.unique(image.plane_labels(plane)) for plane in (source, target))
    found = np.setdiff1d(here, there)
    asked = np.array(list(chosen), found.dtype)
    found = np.intersect1d(found, asked) if len(asked) else found[found > 0]
    if not len(found):
        raise LabelError(
            f"no object of plane {_name(source)} is missing in plane {_name(target)}: annotate "
            "one there first"
        )
    return tuple(found.tolist())


def continue_objects(
    workspace: Workspace, source: PlaneKey, target: PlaneKey, labels: Iterable[int]
) -> Generator[Any, None, Continued]:
    """Predict objects of one plane in the next one of the stack; slow.

    The objects are those of the moment of this call. The prompts of each are its mask, the box
    around it, and the point deepest inside. An object ends where the best mask hardly overlaps
    with it.
    """
    image = workspace.document.image(source.image)
    boxes = {label: image.box(source, label) for label in labels}
    before = image.plane_labels(source).copy()
    asked = {label: box for label, box in boxes.items() if box is not None}
    return _continued(workspace, target, before, asked)


def _continued(
    workspace: Workspace, target: PlaneKey, before: LabelArray, boxes: Mapping[int, Box]
) -> Generator[Any, None, Continued]:
    from napari_peftsam.segmentation import mask_prompt_of

    while True:
        engine, embedding = yield from embedded(workspace, target)
        version, made = engine.version(embedding), list[NewObject]()
        for label, box in boxes.items():
            mask = before == label
            row0, col0, row1, col1 = map(int, box.as_tuple())
            row, col = deepest_pixel(mask[row0:row1, col0:col1])
            prompts = Prompts((Point(float(row0 + row), float(col0 + col)),), box)
            found = yield from engine.predict_steps(
                embedding, prompts, mask_prompt_of(embedding, mask), adapter=version.decoder
            )
            if found is None:  # another adapter is live by now
                break
            best = NewObject.best_of(prompts, clean_prediction(found, prompts), version)
            window = Window(*(best.offset or (0, 0)), *best.mask.shape)
            if iou(best.mask, mask, window) >= _SAME:
                made.append(replace(best, label=label))
        else:
            return Continued(tuple(made), len(boxes) - len(made))


def _name(plane: PlaneKey) -> str:
    return ", ".join(map(str, plane.index))
