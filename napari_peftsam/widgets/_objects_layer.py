"""The labels layer that shows and edits the objects of one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_peftsam.document import Document, ImportLabels, PaintAtom, paint
from napari_peftsam.errors import PeftSamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Image

    from napari_peftsam.document import DocumentImage, Paint
    from napari_peftsam.types import LabelArray

__all__ = ["ObjectsLayer"]

_LARGEST_FLAT = 8192  # pixels along the longer side; larger ones are shown as pyramids ...
_SMALLEST = 512  # ... down to about this
# napari's own undo knows strokes only; two histories of one array contradict each other.
_UNDO_KEYS = {"Control-Z": "undo", "Control-Shift-Z": "redo"}


class ObjectsLayer:
    """A labels layer that shares its array with the document, and reports its strokes.

    That of a large image is a pyramid of views of the array, of which napari reads what is
    visible: showing all of it at once takes a minute and gigabytes. napari does not paint
    in pyramids, so objects there are corrected by prompts, not by the brush.

    Parameters
    ----------
    document
        Where the objects are.
    source
        The image layer they belong to; gives scale, translation and so on.
    image
        The image; the layer shows its own label array.
    name
        The layer's name; the user may change it.
    failed
        Called if an action is refused or cannot be saved.
    """

    def __init__(
        self,
        document: Document,
        source: Image,
        image: DocumentImage,
        name: str,
        failed: Callable[[PeftSamError], None],
    ) -> None:
        labels = image.labels
        self._document = document
        self._failed = failed
        self.image = image
        self._labels = labels
        self._is_pyramid = max(labels.shape[-2:]) > _LARGEST_FLAT
        self.layer = Labels(
            _pyramid(labels) if self._is_pyramid else labels,
            multiscale=self._is_pyramid,
            name=name,
            opacity=0.6,
            affine=source.affine,
            rotate=source.rotate,
            scale=source.scale,
            shear=source.shear,
            translate=source.translate,
            units=source.units,
            axis_labels=source.axis_labels,
        )
        shown = self.layer.data[0] if self._is_pyramid else self.layer.data
        assert shown is labels, "the document would write into another array"
        if not self._is_pyramid:
            self.layer.events.paint.connect(self._record)
            self.layer.events.data.connect(self._take_over)
        document.events.labels_changed.connect(self._refresh)
        for key, method in _UNDO_KEYS.items():
            self.layer.bind_key(key, self._caller(getattr(document, method)), overwrite=True)

    def release(self) -> None:
        """Leave the layer to the user as an ordinary one."""
        if not self._is_pyramid:
            self.layer.events.paint.disconnect(self._record)
            self.layer.events.data.disconnect(self._take_over)
        self._document.events.labels_changed.disconnect(self._refresh)
        for key in _UNDO_KEYS:
            self.layer.bind_key(key, None)
        self.layer.locked = False

    def _caller(self, function: Callable[[], object]) -> Callable[[Labels], None]:
        def call(_: Labels) -> None:
            try:
                function()
            except PeftSamError as error:
                self._failed(error)

        return call

    def _record(self, event: Any) -> None:
        action = paint(self.image, [_atom(each) for each in event.value])
        if action is None:
            return
        try:
            self._document.do(action)
        except PeftSamError as error:
            self._put_back(action)
            self._failed(error)

    def _put_back(self, action: Paint) -> None:
        """Paint what was there before: a stroke that cannot be saved is not done."""
        assert action.old is not None, "a stroke knows what it painted over"
        np.put(self._labels, action.where, action.old)
        self.layer.refresh(extent=False, highlight=False, thumbnail=False)

    def _take_over(self, event: Any) -> None:
        """Copy what replaced the layer's array (napari converts types so) into the shared one."""
        given = self.layer.data
        if given is self._labels:
            return
        try:
            self._document.do(ImportLabels(self.image.id, np.asarray(given)))
        except PeftSamError as error:
            self._failed(error)
        self.layer.data = self._labels

    def _refresh(self, image: str, region: tuple[slice, ...]) -> None:
        if image == self.image.id:
            self.layer.refresh(extent=False, highlight=False, thumbnail=False)


def _pyramid(labels: LabelArray) -> list[LabelArray]:
    """Return views of the labels at ever lower resolution; nothing is copied."""
    steps = [4**level for level in range(6) if max(labels.shape[-2:]) // 4**level > _SMALLEST]
    return [labels] + [labels[..., ::step, ::step] for step in steps[1:]]


def _atom(atom: Any) -> PaintAtom:
    if hasattr(atom, "slice_key"):
        return PaintAtom.from_region(atom.slice_key, atom.mask, atom.old_values, atom.new_value)
    return PaintAtom(*atom)
