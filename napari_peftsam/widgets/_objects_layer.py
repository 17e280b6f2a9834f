"""The labels layer that shows and edits the objects of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_peftsam.annotation import PaintAtom, Session
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._worker import notify

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Image

    from napari_peftsam.types import LabelArray

__all__ = ["ObjectsLayer"]

_LARGEST_FLAT = 8192  # pixels along the longer side; larger ones are shown as pyramids ...
_SMALLEST = 512  # ... down to about this
# napari's own undo knows strokes only; two histories of one array contradict each other.
_UNDO_KEYS = {"Control-Z": "undo", "Control-Shift-Z": "redo"}


class ObjectsLayer:
    """A labels layer that shares its array with the session, and reports its strokes.

    That of a large image is a pyramid of views of the array, of which napari reads what is
    visible: showing all of it at once takes a minute and gigabytes. napari does not paint
    in pyramids, so objects there are corrected by prompts, not by the brush.

    Parameters
    ----------
    session
        Where the objects are.
    image
        The image layer they belong to; gives scale, translation and so on.
    labels
        ``(..., H, W)`` the session's own array.
    name
        The layer's name; the user may change it.
    image_name
        Returns the image's present name in the session.
    """

    def __init__(
        self,
        session: Session,
        image: Image,
        labels: LabelArray,
        name: str,
        image_name: Callable[[], str],
    ) -> None:
        self._session = session
        self._image_name = image_name
        self._labels = labels
        self._is_pyramid = max(labels.shape[-2:]) > _LARGEST_FLAT
        self.layer = Labels(
            _pyramid(labels) if self._is_pyramid else labels,
            multiscale=self._is_pyramid,
            name=name,
            opacity=0.6,
            affine=image.affine,
            rotate=image.rotate,
            scale=image.scale,
            shear=image.shear,
            translate=image.translate,
            units=image.units,
            axis_labels=image.axis_labels,
        )
        shown = self.layer.data[0] if self._is_pyramid else self.layer.data
        assert shown is labels, "the session would write into another array"
        if not self._is_pyramid:
            self.layer.events.paint.connect(self._record)
            self.layer.events.data.connect(self._take_over)
        session.events.labels_changed.connect(self._refresh)
        for key, method in _UNDO_KEYS.items():
            self.layer.bind_key(key, _caller(getattr(session, method)), overwrite=True)

    def release(self) -> None:
        """Leave the layer to the user as an ordinary one."""
        if not self._is_pyramid:
            self.layer.events.paint.disconnect(self._record)
            self.layer.events.data.disconnect(self._take_over)
        self._session.events.labels_changed.disconnect(self._refresh)
        for key in _UNDO_KEYS:
            self.layer.bind_key(key, None)
        self.layer.locked = False

    def _record(self, event: Any) -> None:
        self._session.record_stroke(self._image_name(), [_atom(each) for each in event.value])

    def _take_over(self, event: Any) -> None:
        """Copy what replaced the layer's array (napari converts types so) into the shared one."""
        given = self.layer.data
        if given is self._labels:
            return
        try:
            self._session.set_labels(self._image_name(), np.asarray(given))
        except PeftSamError as error:
            notify(error)
        self.layer.data = self._labels

    def _refresh(self, image: str, region: tuple[slice, ...]) -> None:
        if image == self._image_name():
            self.layer.refresh(extent=False, highlight=False, thumbnail=False)


def _pyramid(labels: LabelArray) -> list[LabelArray]:
    """Return views of the labels at ever lower resolution; nothing is copied."""
    steps = [4**level for level in range(6) if max(labels.shape[-2:]) // 4**level > _SMALLEST]
    return [labels] + [labels[..., ::step, ::step] for step in steps[1:]]


def _atom(atom: Any) -> PaintAtom:
    if hasattr(atom, "slice_key"):
        return PaintAtom.from_region(atom.slice_key, atom.mask, atom.old_values, atom.new_value)
    return PaintAtom(*atom)


def _caller(function: Callable[[], object]) -> Callable[[Labels], None]:
    def call(_: Labels) -> None:
        function()

    return call
