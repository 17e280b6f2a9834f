"""A simulated annotator: does through a workspace what a user does in the viewer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_peftsam.app.prompting import predict_pending
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import Accept, AddPoint, Discard, PaintAtom, PlaneKey, paint
from napari_peftsam.errors import PromptError
from napari_peftsam.evaluation import Target
from napari_peftsam.types import BoolArray, LabelArray

__all__ = ["Annotated", "annotate_object", "choose_labels"]

_GOOD_IOU = 0.8
_MOST_CLICKS = 4
_MIN_AREA = 25  # pixels; nobody clicks on less


@dataclass(frozen=True)
class Annotated:
    """One object of the annotator: its clicks, its IoU when accepted, pixels brushed after."""

    label: int
    clicks: int
    iou: float
    brushed: int


def choose_labels(truth: LabelArray, at_most: int, seed: int) -> list[int]:
    """Return labels of at most so many objects to annotate, drawn at random, ascending."""
    labels, areas = np.unique(truth[truth > 0], return_counts=True)
    labels = labels[areas >= _MIN_AREA]
    order = np.random.default_rng(seed).permutation(labels)
    return sorted(int(label) for label in order[:at_most])


def annotate_object(workspace: Workspace, plane: PlaneKey, truth: BoolArray) -> Annotated | None:
    """Click until the mask is good or patience ends, accept it, and brush away what is wrong.

    Parameters
    ----------
    truth
        ``(H, W)`` the object that the annotator sees.

    Returns
    -------
    Annotated or None
        None if other objects cover all of the mask: then nothing is accepted.
    """
    target, document = Target.from_mask(truth), workspace.document
    click, clicks, agreement = target.first_click(), 0, 0.0
    while True:
        document.do(AddPoint(plane, click))
        mask = predict_pending(workspace).whole()
        clicks, agreement = clicks + 1, target.iou(mask)
        correction = target.next_click(mask)
        if agreement >= _GOOD_IOU or clicks == _MOST_CLICKS or correction is None:
            break
        click = correction
    try:
        label = document.do(Accept())
    except PromptError:
        document.do(Discard())
        return None
    return Annotated(label, clicks, agreement, _brush(workspace, plane, label, truth))


def _brush(workspace: Workspace, plane: PlaneKey, label: int, truth: BoolArray) -> int:
    """Make the object equal to the truth, without painting over others; return the pixels."""
    labels = workspace.document.labels(plane)
    strokes = [((labels == 0) & truth, 0, label), ((labels == label) & ~truth, label, 0)]
    atoms = [PaintAtom(np.nonzero(where), old, new) for where, old, new in strokes if where.any()]
    action = paint(workspace.document.image(plane.image), atoms)
    if action is not None:
        workspace.document.do(action)
    return int(sum(np.count_nonzero(where) for where, _, _ in strokes))
