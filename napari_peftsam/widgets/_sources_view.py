"""The image, the model and the adapter that an annotation works with, in the annotate dock."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_peftsam.widgets._keys import KEYS
from napari_peftsam.widgets._parts import beside, combo_box, fill_combo, tool_button
from napari_peftsam.widgets.layers.view import PATH

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_peftsam.widgets.session import ViewerSession

__all__ = ["ModelAction", "SourcesView"]


class ModelAction(Enum):
    """Entries of the list of models that are no models."""

    MORE = "More models…"
    BROWSE = "Browse checkpoint…"


class SourcesView:
    """The lists of images, models and adapters, by name; they change nothing."""

    def __init__(self, owner: ViewerSession) -> None:
        self._owner, self._document, self._layers = owner, owner.document, owner.layers
        self.image, self.model, self.adapter = combo_box(), combo_box(), combo_box()
        self.image_status, self.model_status = QLabel(), QLabel()
        self.image_number = QLabel("Image")
        self.previous_image = tool_button("◂", f"Previous image ({KEYS['previous_image'].shown})")
        self.next_image = tool_button("▸", f"Next image ({KEYS['next_image'].shown})")
        self.cancel = tool_button("✕", "Stop embedding this image")

    def grid(self) -> QGridLayout:
        """Return the rows."""
        grid = QGridLayout()
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        status = QWidget()
        status.setLayout(beside(self.image_status, self.cancel, stretch=-1))
        image = QWidget()
        image.setLayout(beside(self.previous_image, self.image, self.next_image, stretch=1))
        rows = (
            (self.image_number, image, status),
            (QLabel("Model"), self.model, self.model_status),
            (QLabel("Adapter"), self.adapter, None),
        )
        for row, (name, combo, extra) in enumerate(rows):
            grid.addWidget(name, row, 0)
            grid.addWidget(combo, row, 1, 1, 1 if extra else 2)
            if extra is not None:
                grid.addWidget(extra, row, 2)
        return grid

    def show(self) -> None:
        """Show which images, models and adapters there are, and which are chosen."""
        self.show_images()
        self._show_models()
        self._show_adapters()

    def show_images(self) -> None:
        """Show the images with their numbers of objects, and which one is annotated."""
        images, shown = self._layers.image_layers, self._layers.image
        chosen = images.index(shown) if shown in images else -1
        names = [(f"{layer.name}{self._objects_of(layer)}", None) for layer in images]
        fill_combo(self.image, names, chosen)
        is_queue = chosen >= 0 and len(images) > 1
        self.image_number.setText(f"{chosen + 1} / {len(images)}" if is_queue else "Image")
        for button, at in ((self.previous_image, 0), (self.next_image, len(images) - 1)):
            button.setEnabled(is_queue and chosen != at)
        self.image.setToolTip("" if shown is None else str(shown.metadata.get(PATH, shown.name)))

    def _objects_of(self, layer: Layer) -> str:
        """Return the number of objects of an image, empty without any."""
        shown = self._layers.image_of(layer)
        image = None if shown is None else self._document.images.get(shown)  # gone by undo?
        return f" · {len(image.records)}" if image is not None and image.records else ""

    def _show_adapters(self) -> None:
        workspace = self._owner.workspace
        entries = workspace.adapters.entries if workspace is not None else ()
        live = workspace.live.name if workspace is not None else ""
        names = [entry.name for entry in entries]
        strength = 1.0 if workspace is None else workspace.live.strength
        index = names.index(live) if live in names else -1
        titles = []
        for name, entry in zip(names, entries, strict=True):
            weakened = f"{strength:.0%}" if name == live and strength < 1 else ""
            method = entry.method if entry.method != name else ""
            titles.append(" · ".join(filter(None, (name, weakened, method))))
        fill_combo(self.adapter, list(zip(titles, names, strict=True)), index)
        self.adapter.setEnabled(len(names) > 1)

    def _show_models(self) -> None:
        owner, status = self._owner, self.model_status
        live = owner.source
        items: list[tuple[str, object]] = [(m.name, m.name) for m in owner.models if m.available]
        if live and live not in [data for _, data in items]:
            items.append((Path(live).name, live))
        sources = [data for _, data in items]
        actions = [(action.value, action) for action in ModelAction]
        fill_combo(self.model, [*items, *actions], sources.index(live) if live in sources else -1)
        self.model.setEnabled(owner.workspace is not None)
        text = "◌ loading" if owner.loading else "⚠" if owner.error else owner.device.upper()
        status.setText(text)
        status.setToolTip(f"Loading {owner.loading}" if owner.loading else owner.error)
