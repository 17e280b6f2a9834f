"""The dock with the models there are: what each is for, downloading, choosing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._downloads import downloads_of
from napari_peftsam.widgets._model_row import ModelRow, RowState, separator
from napari_peftsam.widgets._parts import (
    DOCK_WIDTH,
    combo_box,
    form_layout,
    scrolled,
    text_label,
)
from napari_peftsam.widgets._settings import plugin_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

    from napari_peftsam.models import ImageKind, Recommendation

__all__ = ["ModelsDock", "show_models"]

_LOADING = "◌ Loading libraries …"


class ModelsDock(Dock):
    """See which models there are, get one that is not on this computer, and use it.

    Parameters
    ----------
    napari_viewer
        The viewer whose images are annotated.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        owner = self.viewer_session
        self.downloads = downloads_of(owner)
        self.kind = combo_box("What your images are; guessed where it shows in the active image")
        self.advice = text_label(_LOADING)
        self.place = text_label()
        self._rows: dict[str, ModelRow] = {}
        self._list = QVBoxLayout()
        self._kind_chosen = False
        self._recommended = ""
        self._lay_out()
        self.kind.activated.connect(self._choose_kind)
        for signal, slot in self._connections():
            signal.connect(slot)
        owner.when_ready(self._fill)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        owner = self.viewer_session
        return (
            (owner.events.model_changed, self._show_rows),
            (owner.events.models_changed, self._show_rows),
            (owner.events.status_changed, self._show_rows),
            (owner.layers.events.image_changed, self._guess_kind),
            (self.downloads.signals.changed, self._show_row),
        )

    def release(self) -> None:
        """Let go of the viewer; downloads go on."""
        self.viewer_session.events.ready.disconnect(self._fill, missing_ok=True)
        for signal, slot in self._connections():
            signal.disconnect(slot)

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size with room for some models."""
        return QSize(DOCK_WIDTH, 260)

    def row(self, name: str) -> ModelRow:
        """Return the row of a model."""
        return self._rows[name]

    def _lay_out(self) -> None:
        inner = QWidget()
        scrolling = QVBoxLayout(inner)
        scrolling.setContentsMargins(0, 0, 6, 0)
        scrolling.setSpacing(5)
        self._list.setSpacing(0)
        scrolling.addWidget(self.advice)
        scrolling.addLayout(self._list)
        scrolling.addWidget(self.place)
        scrolling.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.setSpacing(5)
        layout.addLayout(form_layout(("Images", self.kind)))
        layout.addWidget(scrolled(inner), 1)

    # --- what there is -----------------------------------------------------------------

    def _fill(self) -> None:
        from napari_peftsam.models import IMAGE_KINDS

        for kind, title in IMAGE_KINDS.items():
            self.kind.addItem(title, kind)
        for entry in self.viewer_session.models:
            row = self._rows[entry.name] = ModelRow(entry)
            row.action.clicked.connect(lambda _, name=entry.name: self._act(name))
            row.stop.clicked.connect(lambda _, name=entry.name: self.downloads.stop(name))
            self._list.addWidget(separator())
            self._list.addWidget(row)
        folder = str(plugin_settings().model_folder)
        self.place.setText("Downloads are kept in the model folder of napari's preferences.")
        self.place.setToolTip(folder)
        self._guess_kind()

    def _guess_kind(self) -> None:
        layer = self.viewer_session.layers.image
        if self._rows and layer is not None and not self._kind_chosen:
            from napari_peftsam.models import guess_image_kind

            # Only what is in memory: reading could take long.
            pixels = layer.data if isinstance(layer.data, np.ndarray) else None
            flat = pixels is not None and pixels.ndim == (3 if layer.rgb else 2)
            kind = guess_image_kind(pixels, layer.rgb) if pixels is not None and flat else None
            if kind is not None:
                self.kind.setCurrentIndex(self.kind.findData(kind))
        self._show_rows()

    def _choose_kind(self) -> None:
        self._kind_chosen = True
        self._show_rows()

    def _show_rows(self) -> None:
        if not self._rows:
            return
        advice = self._recommendation()
        self._recommended = "" if advice is None else advice.name
        self.advice.setText("" if advice is None else f"★ <b>{advice.name}</b>: {advice.reason}.")
        for name in self._rows:
            self._show_row(name)

    def _show_row(self, name: str) -> None:
        owner, downloads = self.viewer_session, self.downloads
        if name not in self._rows:
            return
        self._rows[name].show_state(
            RowState(
                live=owner.source == name,
                loading=owner.loading == name,
                recommended=name == self._recommended,
                downloading=name in downloads.progress,
                progress=downloads.progress.get(name),
                failure=downloads.failures.get(name, ""),
            )
        )

    def _recommendation(self) -> Recommendation | None:
        from napari_peftsam.models import recommend

        kind: ImageKind = self.kind.currentData()
        try:
            return recommend(kind, plugin_settings().device)
        except PeftSamError:  # the chosen device is not there, which loading a model tells
            return None

    # --- what the user does ------------------------------------------------------------

    def _act(self, name: str) -> None:
        entry = self._rows[name].entry
        if entry.available:
            self.viewer_session.load_model(name)
        else:
            self.downloads.start(entry)


def show_models(viewer: napari.Viewer) -> None:
    """Bring the list of models to the front, opening it if need be."""
    docks = viewer.window.dock_widgets.values()
    dock = next((dock for dock in docks if isinstance(dock, ModelsDock)), None)
    if dock is None:
        holder = viewer.window.add_dock_widget(
            ModelsDock(viewer), name="Models", area="right", tabify=True
        )
    else:
        holder = dock.parentWidget()
    holder.show()
    holder.raise_()
