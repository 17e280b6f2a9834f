"""The dock with the models there are: what each is for, downloading, choosing."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtWidgets import QFrame, QLabel, QProgressBar, QToolTip, QVBoxLayout, QWidget

from napari_peftsam.app.advice import download_text
from napari_peftsam.folders import model_folder
from napari_peftsam.types import SAM_FRAMES, ModelReference
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._downloads import downloads
from napari_peftsam.widgets._parts import (
    DOCK_WIDTH,
    MARGINS,
    beside,
    combo_box,
    fill_combo,
    form_layout,
    push_button,
    scrolled,
    stacked,
    text_label,
)

if TYPE_CHECKING:
    import napari

    from napari_peftsam.models import DownloadProgress, ModelEntry
    from napari_peftsam.types import PixelArray

_PARTS = 1000
_CITE = "cite"
_FRAME_TIP = (
    "Side of the square that images are scaled to for Segment Anything; the built-in model has its "
    "own"
)
_LOADING = "◌ Loading libraries …"


class ModelsDock(Dock):
    """See which models there are, get one that is not on this computer, and use it."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        owner = self.viewer_session
        self.downloads = downloads()
        self.kind = combo_box("What your images are; guessed where it shows in the active image")
        self.frame = combo_box(_FRAME_TIP)
        self.advice = text_label(_LOADING)
        self.frame_advice = text_label()
        self.place = text_label()
        self._rows: dict[str, _ModelRow] = {}
        self._list = QVBoxLayout()
        self._kind_chosen = False
        self._recommended = ""
        self._followed = ""  # the source whose frame the choice has followed
        self._lay_out()
        self.kind.activated.connect(self._choose_kind)
        self.frame.activated.connect(self._choose_frame)
        self.listen(
            (owner.events.model_changed, self._follow_frame),
            (owner.events.status_changed, self._follow_frame),
            (owner.layers.events.image_changed, self._guess_kind),
            (self.downloads.arrived, self._show_row),
            (self.downloads.changed, self._show_row),
        )
        owner.when_ready(self._fill)

    def release(self) -> None:
        """Let go of the viewer; downloads go on."""
        self.viewer_session.events.ready.disconnect(self._fill, missing_ok=True)

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size with room for some models."""
        return QSize(DOCK_WIDTH, 260)

    def row(self, name: str) -> _ModelRow:
        """Return the row of a model."""
        return self._rows[name]

    def _lay_out(self) -> None:
        inner = QWidget()
        self._list.setSpacing(0)
        listed = stacked(
            self.advice, self.frame_advice, self._list, self.place, inside=inner, spacing=5
        )
        listed.setContentsMargins(0, 0, 6, 0)
        listed.addStretch(1)
        images = form_layout(("Images", self.kind), ("Frame", self.frame))
        layout = stacked(images, scrolled(inner), inside=self, spacing=5)
        layout.setContentsMargins(*MARGINS)

    # --- what there is -----------------------------------------------------------------

    def _fill(self) -> None:
        from napari_peftsam.models import IMAGE_KINDS

        for kind, title in IMAGE_KINDS.items():
            self.kind.addItem(title, kind)
        for entry in self.viewer_session.models:
            row = self._rows[entry.name] = _ModelRow(entry)
            row.action.clicked.connect(lambda _, name=entry.name: self._act(name))
            row.stop.clicked.connect(lambda _, name=entry.name: self.downloads.stop(name))
            self._list.addWidget(_separator())
            self._list.addWidget(row)
        self._guess_kind()
        self._follow_frame()

    def _guess_kind(self) -> None:
        if self._rows and not self._kind_chosen:
            from napari_peftsam.models import guess_image_kind

            pixels, rgb = self._plane_in_memory()
            kind = None if pixels is None else guess_image_kind(pixels, rgb)
            if kind is not None:
                self.kind.setCurrentIndex(self.kind.findData(kind))
        self._show_rows()

    def _plane_in_memory(self) -> tuple[PixelArray | None, bool]:
        """Return the shown plane, None if there is none or it would have to be read."""
        layers, document = self.viewer_session.layers, self.viewer_session.document
        if layers.plane is None or layers.image is None:
            return None, False
        assert layers.image_id is not None, "there is an image"
        pixels = document.image(layers.image_id).pixels
        if not isinstance(pixels, np.ndarray) or isinstance(pixels, np.memmap):
            return None, False
        return pixels[layers.plane.index], bool(layers.image.rgb)

    def _choose_kind(self) -> None:
        self._kind_chosen = True
        self._show_rows()

    def _show_rows(self) -> None:
        if not self._rows:
            return
        from napari_peftsam.models import recommend, recommend_frame

        kind, memory = self.kind.currentData(), self.viewer_session.gpu_memory
        self._recommended, reason = recommend(kind, memory)
        self.advice.setText(f"★ <b>{self._recommended}</b>: {reason}.")
        layers, shape = self.viewer_session.layers, None
        if layers.image_id is not None:
            shape = self.viewer_session.document.image(layers.image_id).plane_shape
        frame, why = (None, "") if shape is None else recommend_frame(shape, memory)
        self._fill_frames(frame, why)
        self.place.setText(f"Downloads are kept in {model_folder()}, see napari's preferences.")
        for name in self._rows:
            self._show_row(name)

    def _fill_frames(self, recommended: int | None, why: str) -> None:
        items: list[tuple[str, object]] = [
            (f"{'★ ' * (size == recommended)}{size} pixels", size) for size in SAM_FRAMES
        ]
        fill_combo(self.frame, items, max(0, self.frame.currentIndex()))
        self.frame_advice.setVisible(recommended is not None)
        self.frame_advice.setText(f"★ <b>frame {recommended}</b> for Segment Anything: {why}.")
        self.frame.setToolTip(f"{_FRAME_TIP}.\n★ {why}" if why else _FRAME_TIP)

    def _follow_frame(self) -> None:
        """Show the frame of a model that has come into use, if it has a choice."""
        owner, workspace = self.viewer_session, self.viewer_session.workspace
        # While one is loading, what was chosen for it stays.
        is_settled = bool(self._rows) and not owner.loading
        if is_settled and workspace is not None and workspace.source != self._followed:
            self._followed = workspace.source
            model = workspace.engine.model
            if model.image_size in model.architecture.frames:
                self.frame.setCurrentIndex(self.frame.findData(model.image_size))
        self._show_rows()

    def _choose_frame(self) -> None:
        owner, size = self.viewer_session, self.frame.currentData()
        if owner.workspace is not None and owner.has_model:
            model, source = owner.workspace.engine.model, owner.workspace.source
            if size in model.architecture.frames and size != model.image_size:
                owner.load_model(self._at_frame(ModelReference.parse(source).source))
        self._show_rows()

    def _reference(self, name: str) -> str:
        """Return a model of the list with the chosen frame, if it has a choice."""
        from napari_peftsam.models import ARCHITECTURES

        known = ARCHITECTURES.get(self._rows[name].entry.architecture)
        if known is not None and self.frame.currentData() not in known.frames:
            return name
        return self._at_frame(name)

    def _at_frame(self, source: str) -> str:
        size = self.frame.currentData()
        return str(ModelReference(source, None if size == SAM_FRAMES[0] else size))

    def _show_row(self, name: str) -> None:
        owner, downloads = self.viewer_session, self.downloads
        if name not in self._rows:
            return
        entry, progress = self._rows[name].entry, downloads.progress.get(name)
        is_downloading = name in downloads.progress
        states = {
            download_text(progress): is_downloading,
            "◌ stopping": downloads.is_stopping(name),
            "◌ loading": owner.loading == self._reference(name),
            "● in use": owner.source == self._reference(name),
            "⚠ missing": not entry.available and not entry.url,
        }
        self._rows[name].show_state(
            next((text for text, is_so in states.items() if is_so), ""),
            is_begun=bool(entry.url and entry.xxh128) and entry.unfinished().is_file(),
            is_recommended=name == self._recommended,
            is_downloading=is_downloading,
            progress=progress,
            failure=downloads.failures.get(name, ""),
        )

    # --- what the user does ------------------------------------------------------------

    def _act(self, name: str) -> None:
        entry = self._rows[name].entry
        if entry.available:
            self.viewer_session.load_model(self._reference(name))
        else:
            self.downloads.start(entry)


class _ModelRow(QFrame):
    """Name, size, purpose, licence, citation, and the button for the next step."""

    def __init__(self, entry: ModelEntry) -> None:
        super().__init__()
        self.entry = entry
        self.title = QLabel()
        self.title.setTextFormat(Qt.TextFormat.RichText)
        self.title.setToolTip(entry.title)
        self.megabytes = QLabel(f"{entry.megabytes:,} MB" if entry.megabytes else "")
        self.purpose = text_label(
            entry.purpose or (entry.title if entry.title != entry.name else "")
        )
        self.terms = QLabel(_terms(entry))
        self.terms.setTextFormat(Qt.TextFormat.RichText)
        self.terms.setToolTip(entry.citation)
        self.terms.linkActivated.connect(self._link)
        self.state = QLabel()
        self.action = push_button()
        self.stop = push_button("✕", "Stop; what has come is kept")
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.failure = text_label()
        self._lay_out()

    def _lay_out(self) -> None:
        self.stop.setFixedWidth(30)
        top = beside(self.title, self.megabytes, stretch=0, spacing=6)
        bottom = beside(self.terms, self.state, self.action, self.stop, stretch=0, spacing=6)
        parts = (top, self.purpose, bottom, self.progress, self.failure)
        layout = stacked(*parts, inside=self, spacing=3)
        layout.setContentsMargins(0, 4, 0, 6)

    def show_state(  # what a row shows
        self,
        text: str,
        *,
        is_begun: bool,
        is_recommended: bool,
        is_downloading: bool,
        progress: DownloadProgress | None,
        failure: str,
    ) -> None:
        """Show what can be done with the model now.

        Parameters
        ----------
        text
            What is being done with it; empty if there is something to do.
        is_begun, is_recommended
            Whether a part of its checkpoint is here, and whether it is the one to start with.
        is_downloading, progress
            Whether it is coming, and how much is here; None until the server has answered.
        failure
            Why it could not be downloaded; empty otherwise.
        """
        entry = self.entry
        star = "★ " if is_recommended else ""
        self.title.setText(f"<b>{star}{escape(entry.name)}</b>")
        self.state.setText(text)
        self.state.setToolTip("" if entry.available or entry.url else entry.absence())
        self.action.setVisible(not text)
        if entry.available:
            self.action.setText("Use")
            self.action.setToolTip(f"Answer prompts with {entry.title}")
        else:
            self.action.setText("Resume" if is_begun else "Download")
            self.action.setToolTip(f"From {entry.url}")
        self.stop.setVisible(is_downloading)
        self.progress.setVisible(is_downloading)
        self.failure.setVisible(bool(failure))
        self.failure.setText(f"⚠ {failure}")
        is_measured = progress is not None and bool(progress.total)
        self.progress.setRange(0, _PARTS if is_measured else 0)  # else busy
        if is_measured and progress is not None:
            self.progress.setValue(round(_PARTS * progress.fraction))

    def _link(self, target: str) -> None:
        clipboard = QGuiApplication.clipboard()
        if target == _CITE and clipboard is not None:
            clipboard.setText(self.entry.citation)
            below = self.terms.mapToGlobal(self.terms.rect().bottomLeft())
            QToolTip.showText(below, "Copied", self.terms)


def _terms(entry: ModelEntry) -> str:
    cite = f'<a href="{_CITE}" style="color: gray">cite</a>' if entry.citation else ""
    return " · ".join(part for part in (escape(entry.license), cite) if part)


def _separator() -> QWidget:
    """Return a line between two rows."""
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    return line
