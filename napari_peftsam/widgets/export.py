"""The dock that writes objects and their provenance for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.notifications import show_info
from qtpy.QtCore import QSize

from napari_peftsam.errors import ConfigurationError, ExportError
from napari_peftsam.export import FORMATS, ExportContext, export_labels, export_target
from napari_peftsam.projects import check_not_a_source, file_name
from napari_peftsam.widgets._dialogs import ask_save
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._parts import (
    DOCK_WIDTH,
    MARGINS,
    combo_box,
    form_layout,
    push_button,
    stacked,
    text_label,
)
from napari_peftsam.widgets._runner import notify

if TYPE_CHECKING:
    import napari

__all__ = ["ExportDock"]

_EMPTY = "There are no objects yet: annotate an image first."


class ExportDock(Dock):
    """Choose an image and a format, and write its objects.

    Parameters
    ----------
    napari_viewer
        The viewer whose objects are written.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        self.ask_save = ask_save
        self.image = combo_box("Whose objects to write")
        self.format = combo_box("The kind of file; all of them keep the objects' provenance")
        for name, known in FORMATS.items():
            self.format.addItem(known.title, name)
        self.export = push_button("Export…")
        self.status = text_label()
        self._is_writing = False
        self._lay_out()
        self.export.clicked.connect(self.export_file)
        owner, events = self.viewer_session, self.viewer_session.document.events
        self.listen(
            (events.opened, self._forget_images),
            (events.objects_changed, self._show_images),
            (events.image_removed, self._show_images),
            (events.image_renamed, self._show_images),
            (owner.projects.events.loaded, self._show_images),
        )
        self._show_images()

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size no wider than a dock should be."""
        return QSize(DOCK_WIDTH, super().sizeHint().height())

    def _lay_out(self) -> None:
        rows = form_layout(("Objects of", self.image), ("Format", self.format))
        layout = stacked(rows, self.export, self.status, inside=self)
        layout.setContentsMargins(*MARGINS)
        layout.addStretch(1)

    def export_file(self) -> None:
        """Ask for a file name and write the chosen image's objects; returns at once."""
        document, chosen_id = self.viewer_session.document, self.image.currentData()
        if chosen_id is None or self._is_writing:
            return
        chosen = FORMATS[self.format.currentData()]
        suffix = chosen.suffixes[0]
        suggestion = f"{Path(document.image(chosen_id).name).stem}-objects{suffix}"
        filters = f"{chosen.title} (*{suffix})"
        try:
            path = self.ask_save(
                self, "Export objects", suggestion, filters,
                lambda typed: export_target(typed, chosen.name),
            )  # fmt: skip
            if path is None:
                return
            check_not_a_source(document, path, document.store.path)
        except (ConfigurationError, ExportError) as error:  # the ending of another format
            self._failed(error)
            return
        image = document.image(chosen_id)
        labels = image.labels.copy()  # the user goes on annotating while the file is written
        pixels, metadata = image.pixels, self.viewer_session.layers.metadata_of(image.id)
        records = tuple(record.to_dict() for record in document.records(image.id))

        def write() -> Path:
            plain = None if pixels is None else np.asarray(pixels)
            context = ExportContext.of(
                metadata, image_name=file_name(image), pixels=plain, records=records
            )
            return export_labels(labels, path, chosen.name, context)

        self._is_writing = True
        self._show_status("Writing…")
        workers = self.viewer_session.workers
        workers.run(write, on_result=self._written, on_error=self._failed)

    def _written(self, path: Path) -> None:
        self._is_writing = False
        self._show_status(f"Wrote {path}")
        show_info(f"Wrote {path}")

    def _failed(self, error: Exception) -> None:
        self._is_writing = False
        self._show_status("Nothing was written.")
        notify(error)

    def _show_images(self) -> None:
        document, before = self.viewer_session.document, self.image.currentData()
        self.image.clear()
        for image in document.images.values():
            if image.records:
                self.image.addItem(f"{image.name} ({len(image.records)})", image.id)
        if before is not None:
            self.image.setCurrentIndex(max(0, self.image.findData(before)))
        self._show_status(self.status.text() if self.image.count() else "")

    def _forget_images(self) -> None:
        """Offer none of another project's images while those of this one are read."""
        self.image.clear()
        self._show_status("")

    def _show_status(self, text: str) -> None:
        has_objects = self.image.count() > 0
        text = text if text != _EMPTY else ""
        self.status.setText(text if has_objects or text else _EMPTY)
        self.export.setEnabled(has_objects and not self._is_writing)
        self.export.setToolTip("Choose a file and write it" if has_objects else _EMPTY)
