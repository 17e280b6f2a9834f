"""Objects of a stack that go on in the next plane, under the same number."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.app.clean import clean_prediction
from napari_peftsam.app.refine import embedded
from napari_peftsam.document import DocumentImage, NewObject, ObjectRecord, PlaneKey
from napari_peftsam.errors import LabelError
from napari_peftsam.geometry import deepest_pixel, iou
from napari_peftsam.types import BoolArray, Box, Point, Prompts, Window

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace

_SAME = 0.25  # IoU of one object in two neighbouring planes, at least


@dataclass(frozen=True, eq=False)
class Continued:
    """Masks of objects in the next plane, and how many have none there."""

    objects: tuple[NewObject, ...]
    ended: int


def continued_labels(
    image: DocumentImage, source: PlaneKey, target: PlaneKey, chosen: Collection[int] = ()
) -> tuple[int, ...]:
    """Return the objects of one plane that are not in another: of those chosen, else of all.

    Raises
    ------
    LabelError
        If there is none.
    """

    def lies_in(record: ObjectRecord, plane: PlaneKey) -> bool:
        return any(each.index == plane.index for each in record.planes)

    records = image.records.values()
    found = {r.label for r in records if lies_in(r, source) and not lies_in(r, target)}
    found = found & {*chosen} or (set() if chosen else found)
    if not found:
        raise LabelError(
            f"no object of plane {_name(source)} is missing in plane {_name(target)}: annotate "
            "one there first"
        )
    return tuple(sorted(found))


def continue_objects(
    workspace: Workspace, source: PlaneKey, target: PlaneKey, labels: Iterable[int]
) -> Generator[Any, None, Continued]:
    """Predict objects of one plane in the next one of the stack; slow.

    The objects are those of the moment of this call. The prompts of each are its mask, the box
    around it, and the point deepest inside. An object ends where the best mask hardly overlaps
    with it.
    """
    image = workspace.document.image(source.image)
    asked = {}
    for label in labels:
        box = image.box(source, label)
        if box is not None:
            asked[label] = box, image.mask(source, label, _window(box))
    return _continued(workspace, target, image.plane_shape, asked)


def _continued(
    workspace: Workspace,
    target: PlaneKey,
    shape: tuple[int, int],
    asked: Mapping[int, tuple[Box, BoolArray]],
) -> Generator[Any, None, Continued]:
    from napari_peftsam.segmentation import mask_prompt_of

    while True:
        engine, embedding = yield from embedded(workspace, target)
        version, made = engine.version(embedding), list[NewObject]()
        for label, (box, inside) in asked.items():
            window = _window(box)
            mask = np.zeros(shape, np.bool_)
            mask[window.slices] = inside
            row, col = deepest_pixel(inside)
            prompts = Prompts((Point(float(window.row + row), float(window.col + col)),), box)
            found = yield from engine.predict_steps(
                embedding, prompts, mask_prompt_of(embedding, mask), adapter=version.decoder
            )
            if found is None:  # another adapter is live by now
                break
            best = NewObject.best_of(prompts, clean_prediction(found, prompts), version)
            part = Window(*(best.offset or (0, 0)), *best.mask.shape)
            if iou(best.mask, mask, part) >= _SAME:
                made.append(replace(best, label=label))
        else:
            return Continued(tuple(made), len(asked) - len(made))


def _window(box: Box) -> Window:
    """Return the pixels of a box around whole ones."""
    row0, col0, row1, col1 = map(int, box.as_tuple())
    return Window(row0, col0, row1 - row0, col1 - col0)


def _name(plane: PlaneKey) -> str:
    return ", ".join(map(str, plane.index))
