"""The dock that writes objects and their provenance for other programs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.utils.notifications import show_info
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QSizePolicy, QToolButton

from napari_peftsam.app.export_all import ExportReport, export_all, images_to_export
from napari_peftsam.app.export_context import context_of
from napari_peftsam.app.runner import Slot
from napari_peftsam.errors import ConfigurationError, ExportError, count_text
from napari_peftsam.export import FORMATS, export_labels, export_target
from napari_peftsam.projects import check_not_a_source
from napari_peftsam.widgets._dialogs import ask_folder, ask_save
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._parts import (
    DOCK_WIDTH,
    MARGINS,
    add_entry,
    add_menu,
    beside,
    combo_box,
    form_layout,
    push_button,
    stacked,
    text_label,
)
from napari_peftsam.widgets._runner import notify

if TYPE_CHECKING:
    import napari

    from napari_peftsam.document import ImageId

_EMPTY = "There are no objects yet: annotate an image first."


class ExportDock(Dock):
    """Choose an image and a format, and write its objects."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        self.ask_save, self.ask_folder = ask_save, ask_folder
        self.image = combo_box("Whose objects to write")
        self.format = combo_box("The kind of file; all of them keep the objects' provenance")
        for name, known in FORMATS.items():
            self.format.addItem(known.title, name)
        self.also = _format_menu()
        self.export = push_button("Export…")
        self.export_all = push_button("Export all…", "Write all images into one folder")
        self.stop = push_button("Stop", "Keep what is written; the next export goes on there")
        self.stop.hide()
        self.status = text_label()
        self._is_writing = False
        self._all = Slot(self.viewer_session.workers)
        self._lay_out()
        self.export.clicked.connect(self.export_file)
        self.export_all.clicked.connect(self.export_images)
        self.stop.clicked.connect(self._stop)
        owner, events = self.viewer_session, self.viewer_session.document.events
        self.listen(
            (events.opened, self._forget_images),
            (events.objects_changed, self._show_images),
            (events.image_removed, self._show_images),
            (events.image_renamed, self._show_images),
            (owner.projects.events.loaded, self._show_images),
            (owner.layers.events.image_changed, self._follow),
        )
        self._show_images()

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size no wider than a dock should be."""
        return QSize(DOCK_WIDTH, super().sizeHint().height())

    def _lay_out(self) -> None:
        several = beside(self.format, self.also, stretch=0)
        rows = form_layout(("Objects of", self.image), ("Format", several))
        buttons = beside(self.export, self.export_all, self.stop)
        layout = stacked(rows, buttons, self.status, inside=self)
        layout.setContentsMargins(*MARGINS)
        layout.addStretch(1)
        # The dock above it keeps the rest of the window's height.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)

    def export_file(self) -> None:
        """Ask for a file name and write the chosen image's objects; returns at once."""
        document, chosen_id = self.viewer_session.document, self.image.currentData()
        if chosen_id is None or self._is_writing:
            return
        chosen = FORMATS[self.format.currentData()]
        suffix = chosen.suffixes[0]
        name = f"{Path(document.image(chosen_id).name).stem}-objects{suffix}"
        suggestion = str((self._folder(chosen_id) or Path()) / name)
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
        context = context_of(image, metadata, classes=document.categories)

        def write() -> Path:
            plain = None if pixels is None else np.asarray(pixels)
            return export_labels(labels, path, chosen.name, replace(context, pixels=plain))

        self._is_writing = True
        self._show_status("Writing…")
        workers = self.viewer_session.workers
        workers.run(write, on_result=self._written, on_error=self._failed)

    def export_images(self) -> None:
        """Ask for a folder and write the objects of all images; returns at once."""
        if self._is_writing:
            return
        begin = self._folder(self.image.currentData())
        folder = self.ask_folder(self, "Export all images to", begin)
        if folder is None:
            return
        document, layers = self.viewer_session.document, self.viewer_session.layers
        images = images_to_export(document, layers.metadata_of)
        self._is_writing = True
        self.stop.show()
        self._show_status("Writing…")
        self._all.start(
            export_all(document, images, folder, self.formats),
            on_event=lambda event: self._show_status(f"Writing {event.done} of {event.total}…"),
            on_done=partial(self._all_written, folder),
            on_error=self._failed,
        )

    @property
    def formats(self) -> list[str]:
        """The formats of an export of all images."""
        menu = self.also.menu()
        assert menu is not None
        checked = [each.data() for each in menu.actions() if each.isChecked()]
        return list(dict.fromkeys([self.format.currentData(), *checked]))

    def _folder(self, image: ImageId) -> Path | None:
        """Return the folder of an image's file, None if it is not known."""
        path = self.viewer_session.file_of(image)
        return None if path is None else path.parent

    def _stop(self) -> None:
        self._all.stop()
        self._is_writing = False
        self.stop.hide()
        self._show_status("Stopped. What was written stays; export again to go on.")

    def _all_written(self, folder: Path, report: ExportReport) -> None:
        self.stop.hide()
        kept = f", {report.kept} were there" if report.kept else ""
        files = count_text(len(report.written), "file")
        self._is_writing = False
        self._show_status("\n".join([f"Wrote {files} to {folder}{kept}", *report.notes]))
        show_info(f"Wrote {files} to {folder}{kept}")

    def _written(self, path: Path) -> None:
        self._is_writing = False
        self._show_status(f"Wrote {path}")
        show_info(f"Wrote {path}")

    def _failed(self, error: Exception) -> None:
        self._is_writing = False
        self.stop.hide()
        self._show_status("Nothing was written.")
        notify(error)

    def _show_images(self) -> None:
        document, before = self.viewer_session.document, self.image.currentData()
        self.image.clear()
        for image in document.images.values():
            if image.records:
                self.image.addItem(f"{image.name} ({len(image.records)})", image.id)
        if before is None:
            self._follow()
        else:
            self.image.setCurrentIndex(max(0, self.image.findData(before)))
        self._show_status(self.status.text() if self.image.count() else "")

    def _follow(self) -> None:
        """Offer the image that is annotated, if it has objects."""
        index = self.image.findData(self.viewer_session.layers.image_id)
        if index >= 0:
            self.image.setCurrentIndex(index)

    def _forget_images(self) -> None:
        """Offer none of another project's images while those of this one are read."""
        self.image.clear()
        self._show_status("")

    def _show_status(self, text: str) -> None:
        has_objects = self.image.count() > 0
        text = text if text != _EMPTY else ""
        self.status.setText(text if has_objects or text else _EMPTY)
        self.export.setEnabled(has_objects and not self._is_writing)
        self.export_all.setEnabled(self.export.isEnabled())
        self.export.setToolTip("Choose a file and write it" if has_objects else _EMPTY)


def _format_menu() -> QToolButton:
    """Return a button with a menu of formats to check."""
    button = QToolButton()
    button.setText("also ▾")
    button.setToolTip("Further formats of Export all…")
    menu = add_menu(button)
    for name, known in FORMATS.items():
        action = add_entry(menu, known.title)
        action.setCheckable(True)
        action.setData(name)
    return button
