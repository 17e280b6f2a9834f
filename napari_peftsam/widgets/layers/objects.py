"""The labels layers that show and edit the objects of one image."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import CyclicLabelColormap
from qtpy.QtCore import QThread, QTimer

from napari_peftsam.document import OBJECTS, ImportLabels, PaintAtom, class_of, paint
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._parts import stop_timers, timer
from napari_peftsam.widgets.layers.overlays import same_selection, spare_tools

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_peftsam.types import LabelArray
    from napari_peftsam.widgets.layers.bridge import LayerBridge
    from napari_peftsam.widgets.layers.view import ImageView

_LARGEST_FLAT = 8192  # pixels along the longer side; larger ones are shown as pyramids ...
_SMALLEST = 512  # ... down to about this
_FIRST_HUE, _HUES, _NUMBER, _GOLDEN = 0.85, 0.63, 49, 0.618034  # from pink over red to turquoise
# napari's own undo knows strokes only; two histories of one array contradict each other.
UNDO_KEYS = {"Control-Z": "undo", "Control-Shift-Z": "redo"}


class ImageObjects:
    """The layers with the objects of one image: of those without a class, and of each class."""

    def __init__(self, bridge: LayerBridge, view: ImageView) -> None:
        self._bridge, self.view = bridge, view
        self.image = bridge.document.image(view.image)
        self._sets = {OBJECTS: ObjectsLayer(bridge, view, OBJECTS)}
        self._follow_objects(self.image.id)
        bridge.document.events.objects_changed.connect(self._follow_objects)

    @property
    def layers(self) -> tuple[Labels, ...]:
        """All layers, that of objects without a class first."""
        return tuple(each.layer for each in self._sets.values())

    @property
    def in_use(self) -> Labels:
        """The layer of the class in use."""
        return self._sets.get(self._bridge.document.label_set, self._sets[OBJECTS]).layer

    def layer_of(self, label: int) -> Labels:
        """Return the layer with an object; of one that is not there yet, that in use."""
        is_there = label in self.image.records
        return self._sets[self.image.set_of(label)].layer if is_there else self.in_use

    def need(self, label_set: str) -> None:
        """Show a label set, above those that are shown."""
        if label_set in self._sets:
            return
        self._sets[label_set] = added = ObjectsLayer(self._bridge, self.view, label_set)
        *_, below, layer = self.layers
        layer.visible, layer.locked = below.visible, below.locked
        layers = self._bridge.viewer.layers
        if below in layers:  # else the image is put aside
            with same_selection(layers):
                layers.insert(layers.index(below) + 1, added.layer)
        self._bridge.events.own_layers_changed.emit()

    def follow_name(self) -> None:
        """Name the layers after their image again, but those that the user has named."""
        for each in self._sets.values():
            each.follow_name()

    def lock(self, locked: bool) -> None:
        """Let the user remove the layers, or not."""
        for layer in self.layers:
            layer.locked = locked

    def release(self) -> None:
        """Leave the layers to the user as ordinary ones."""
        self._bridge.document.events.objects_changed.disconnect(self._follow_objects)
        for each in self._sets.values():
            each.release()

    def _follow_objects(self, image: str) -> None:
        if image == self.image.id:
            for label_set in self.image.label_sets:
                self.need(label_set)


class ObjectsLayer:
    """A labels layer that shares its array with the document, and reports its strokes.

    The layer of a large image is a pyramid of views of the array, of which napari reads what
    is visible: showing all of it at once takes a minute and gigabytes. napari does not paint
    in pyramids, so objects there are corrected by prompts, not by the brush.

    Parameters
    ----------
    bridge
        Has the document, and reports refused actions.
    view
        The image; its layer gives scale, translation and so on.
    label_set
        What it shows.
    """

    def __init__(self, bridge: LayerBridge, view: ImageView, label_set: str) -> None:
        self._bridge, self.label_set = bridge, label_set
        self.image = bridge.document.image(view.image)
        self._labels = self.image.array(label_set)
        labels, source = self._labels, view.layer
        is_pyramid = max(labels.shape[-2:]) > _LARGEST_FLAT
        self.layer = layer = Labels(
            _pyramid(labels) if is_pyramid else labels,
            multiscale=is_pyramid,
            name=self._title,
            opacity=0.6,
            colormap=_colours(),
            affine=source.affine,
            rotate=source.rotate,
            scale=source.scale,
            shear=source.shear,
            translate=source.translate,
            units=source.units,
            axis_labels=source.axis_labels,
        )
        layer.contour = bridge.contour
        spare_tools(layer)
        self._named = self._title
        self._later = timer(None, 0)
        self._later.timeout.connect(self._draw)
        shown = layer.data[0] if is_pyramid else layer.data
        assert shown is labels, "the document would write into another array"
        self._connections: list[tuple[Any, Callable[..., None]]] = [
            (bridge.document.events.labels_changed, self._refresh),
            (layer.events.mode, bridge.tool_may_differ),
            (layer.events.selected_label, bridge.tool_may_differ),
        ]
        if not is_pyramid:
            self._connections.append((layer.events.paint, self._record))
            self._connections.append((layer.events.data, self._take_over))
        for signal, slot in self._connections:
            signal.connect(slot)
        for key, step in UNDO_KEYS.items():
            action = getattr(bridge.document, step)
            layer.bind_key(key, lambda _, action=action: bridge.attempt(action), overwrite=True)

    @property
    def _title(self) -> str:
        return f"{class_of(self.label_set) or 'objects'} ({self.image.name})"

    def follow_name(self) -> None:
        """Take the image's name, unless the user has named the layer."""
        if self.layer.name == self._named:
            self.layer.name = self._named = self._title

    def release(self) -> None:
        """Leave the layer to the user as an ordinary one."""
        if self._later.isActive():
            self._draw()
        stop_timers(self._later)
        for signal, slot in self._connections:
            signal.disconnect(slot)
        for key in UNDO_KEYS:
            self.layer.bind_key(key, None)
        self.layer.locked = False

    def _record(self, event: Any) -> None:
        action = paint(self.image, [_atom(each) for each in event.value], self.label_set)
        if action is None:
            return
        is_new = self.layer.selected_label not in self.image.records
        try:
            self._bridge.document.do(action)
        except PeftSamError as error:  # a stroke that cannot be saved is not done
            assert action.old is not None, "a stroke knows what it painted over"
            take_back = partial(self._take_back, action.where, action.old)
            take_back()
            QTimer.singleShot(0, take_back)  # napari reports some strokes before it paints them
            self._bridge.events.failed.emit(error)
            return
        if is_new and self.layer.mode == "polygon":  # the next outline is another object
            self.layer.selected_label = self.image.next_label

    def _draw(self) -> None:
        self.layer.refresh(extent=False, highlight=False, thumbnail=False)

    def _take_back(self, where: LabelArray, old: int | LabelArray) -> None:
        np.put(self._labels, where, old)
        self._draw()

    def _take_over(self) -> None:
        """Copy what replaced the layer's array (napari converts types so) into the shared one."""
        given, labels = self.layer.data, self._labels
        if given is not labels:
            action = ImportLabels(self.image.id, np.asarray(given), label_set=self.label_set)
            self._bridge.attempt(lambda: self._bridge.document.do(action))
            self.layer.data = labels

    def _refresh(self, image: str) -> None:
        if image != self.image.id:
            return
        if QThread.currentThread() == self._later.thread():
            self._later.start()  # napari maps all of its colours anew: 50 ms of a large plane
        else:  # a timer starts in its own thread only
            self._draw()


def _colours() -> CyclicLabelColormap:
    """Return bright colours, neighbours in number far apart.

    None is the blue of the mask that is not accepted yet, or the violet of stained tissue.
    """
    hues = (_FIRST_HUE + _HUES * (np.arange(_NUMBER) * _GOLDEN % 1)) % 1
    saturation = np.where(np.arange(_NUMBER) % 2, 0.65, 1.0)
    colours = [(*hsv_to_rgb(*each, 1.0), 1.0) for each in zip(hues, saturation, strict=True)]
    return CyclicLabelColormap(colors=np.array(colours, np.float32))


def _pyramid(labels: LabelArray) -> list[LabelArray]:
    """Return views of the labels at ever lower resolution; nothing is copied."""
    steps = [4**level for level in range(6) if max(labels.shape[-2:]) // 4**level > _SMALLEST]
    return [labels] + [labels[..., ::step, ::step] for step in steps[1:]]


def _atom(atom: Any) -> PaintAtom:
    if hasattr(atom, "slice_key"):
        return PaintAtom.from_region(atom.slice_key, atom.mask, atom.old_values, atom.new_value)
    return PaintAtom(*atom)
