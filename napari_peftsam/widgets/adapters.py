"""The dock with the base model, the trained versions and the loaded adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QGridLayout,
    QLabel,
    QRadioButton,
    QSlider,
    QWidget,
)

from napari_peftsam.app.advice import (
    describe_adapter,
    explain_adapter,
    explain_merging,
    explain_strength,
    iou_text,
)
from napari_peftsam.widgets._dialogs import ask_open, ask_save, with_ending
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._parts import (
    DOCK_WIDTH,
    MARGINS,
    beside,
    push_button,
    scrolled,
    stacked,
    text_label,
    timer,
)
from napari_peftsam.widgets._runner import notify
from napari_peftsam.widgets._training import training_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

    from napari_peftsam.app.adapters import AdapterEntry

_ADAPTERS = "Adapters (*.safetensors)"
_CHECKPOINTS = "SAM checkpoints (*.pth)"
_FULL = 100  # of the slider
_SETTLE_MS = 250  # a new strength is used when the slider rests: the image is embedded again
_EMPTY = "Finetune to get the first adapter, or load one."


class AdaptersDock(Dock):
    """See which adapter answers prompts, choose another, save and load them."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        self.ask_open, self.ask_save = ask_open, ask_save
        self.training = training_of(self.viewer_session)
        self.rows = QGridLayout()
        self.hint = text_label(_EMPTY)
        self.save = push_button("Save…", "Write the live adapter to one small file")
        self.load = push_button("Load…", "Read an adapter of this model from a file and use it")
        self.merge = push_button("Merged SAM…")
        self.strength = QSlider(Qt.Orientation.Horizontal)
        self.strength.setRange(0, _FULL)
        self.strength.setValue(_FULL)
        self.strength_text = QLabel()
        self._settle = timer(self, _SETTLE_MS)
        self._weakened = ""  # the adapter whose strength was changed last
        self._group = QButtonGroup(self)
        self._buttons: dict[str, QRadioButton] = {}
        self._ious: list[QLabel] = []
        self._lay_out()
        self._group.idClicked.connect(self._chosen)
        self.strength.valueChanged.connect(self._strength_moved)
        self._settle.timeout.connect(self._weaken)
        self.save.clicked.connect(self.save_live)
        self.load.clicked.connect(self.load_file)
        self.merge.clicked.connect(self.save_merged)
        self.listen(
            (self.viewer_session.events.adapters_changed, self._show_entries),
            (self.viewer_session.events.model_changed, self._show_entries),
            (self.training.signals.changed, self._show_entries),
        )
        self._show_entries()

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return a size with room for some adapters."""
        return QSize(DOCK_WIDTH, 190)

    def button(self, name: str) -> QRadioButton:
        """Return the radio button of an adapter."""
        return self._buttons[name]

    def _lay_out(self) -> None:
        table = QWidget()
        table.setLayout(self.rows)
        self.rows.setContentsMargins(0, 0, 0, 0)
        self.rows.setHorizontalSpacing(10)
        self.rows.setVerticalSpacing(3)
        self.rows.setColumnStretch(2, 1)
        self.strength_text.setMinimumWidth(
            self.strength_text.fontMetrics().horizontalAdvance("100 %")
        )
        listed = QWidget()
        stacked(table, self.hint, inside=listed).addStretch(1)
        weaken = beside(QLabel("Strength"), self.strength, self.strength_text, stretch=1)
        buttons = beside(self.save, self.load, self.merge)
        layout = stacked(scrolled(listed), weaken, buttons, inside=self)
        layout.setContentsMargins(*MARGINS)

    def release(self) -> None:
        """Let go of the viewer."""
        if not self.viewer_session.is_closed:  # else Qt has destroyed the dock's parts by now
            self._settle.stop()

    # --- what the user does ------------------------------------------------------------

    def save_live(self) -> None:
        """Ask for a file name and write the live adapter."""
        workspace = self.viewer_session.workspace
        if workspace is None:
            return
        name, ending = workspace.live.name, ".safetensors"
        path = self.ask_save(
            self, f"Save {name}", f"{name}{ending}", _ADAPTERS, with_ending(ending)
        )
        if path is not None:
            full = " (at full strength)" if workspace.live.strength < 1 else ""
            message = f"Saved {name}{full} to {path}"
            self._work(lambda: workspace.adapters[name].save(path), message)

    def load_file(self) -> None:
        """Ask for an adapter file, add it to the list and use it."""
        workspace = self.viewer_session.workspace
        path = self.ask_open(self, "Load an adapter", _ADAPTERS) if workspace else None
        if workspace is not None and path is not None:
            self._work(lambda: workspace.load_adapter(path), f"Loaded {path}")

    def save_merged(self) -> None:
        """Ask for a file name and write a checkpoint with the live adapter merged in."""
        workspace = self.viewer_session.workspace
        if workspace is None:
            return
        live = workspace.live
        name, percent = live.name, round(_FULL * live.strength)
        weakened, suffix = ("", "") if percent == _FULL else (f" at {percent} %", f"-{percent}")
        title, suggestion = f"Save a checkpoint with {name}{weakened}", f"sam-{name}{suffix}.pth"
        path = self.ask_save(self, title, suggestion, _CHECKPOINTS, with_ending(".pth", ".pt"))
        if path is not None:
            from napari_peftsam.app.exchange import export_model

            message = f"Saved {path}, with {name}{weakened}"
            copied = workspace.engine.bare_copy
            self._work(lambda: export_model(copied(), live.adapter, path, live.strength), message)

    def _chosen(self, index: int) -> None:
        workspace = self.viewer_session.workspace
        if workspace is None:
            return
        name = list(self._buttons)[index]
        self._show_entries()  # the dot follows when the adapter is live
        if name != workspace.live.name:
            self._work(lambda: workspace.activate(name))

    def _strength_moved(self, value: int) -> None:
        workspace = self.viewer_session.workspace
        self._weakened = "" if workspace is None else workspace.live.name
        self.strength_text.setText(f"{value} %")
        self._settle.start()

    def _weaken(self) -> None:
        """Use the adapter whose slider was moved at that strength, if it still is the live one."""
        workspace, name = self.viewer_session.workspace, self._weakened
        strength = self.strength.value() / _FULL
        if workspace is None or name != workspace.live.name:
            self._show_strength()
            return
        if strength == workspace.live.strength:
            return
        self._work(lambda: workspace.activate(name, strength))

    def _show_strength(self) -> None:
        workspace = self.viewer_session.workspace
        live = None if workspace is None else workspace.live
        can = live is not None and live.adapter is not None and live.adapter.scalable
        self.strength.setEnabled(can)
        value = _FULL if live is None else round(_FULL * live.strength)
        if not self.strength.isSliderDown() and not self._settle.isActive():
            with QSignalBlocker(self.strength):
                self.strength.setValue(value)
            self.strength_text.setText(f"{value} %" if can else "")
        self.strength.setToolTip(explain_strength(live))

    def _work(self, action: Callable[[], object], message: str = "") -> None:
        def failed(error: Exception) -> None:
            notify(error)
            self._show_entries()

        self.viewer_session.workers.run(
            action,
            on_result=lambda _: show_info(message) if message else None,
            on_error=failed,
        )

    # --- what there is -----------------------------------------------------------------

    def _show_entries(self) -> None:
        workspace = self.viewer_session.workspace
        entries = () if workspace is None else workspace.adapters.entries
        live = "" if workspace is None else workspace.live.name
        if [entry.name for entry in entries] != list(self._buttons):
            self._rebuild(entries)
        for row, entry in enumerate(entries):
            text, tip = iou_text(entry, self.training.measured.get(entry.name))
            self._ious[row].setText(text)
            self._ious[row].setToolTip(tip)
            self._buttons[entry.name].setChecked(entry.name == live)
        self._show_strength()
        has_model = self.viewer_session.has_model
        self.hint.setVisible(len(entries) < 2)
        self.save.setEnabled(has_model and live != "base")
        self.load.setEnabled(has_model)
        now = None if workspace is None else workspace.live
        self.merge.setEnabled(
            has_model and now is not None and (now.adapter is None or now.adapter.mergeable)
        )
        self.merge.setToolTip(explain_merging(now))

    def _rebuild(self, entries: tuple[AdapterEntry, ...]) -> None:
        while (item := self.rows.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()  # at once; Qt deletes it when it finds the time
                widget.deleteLater()
        self._buttons.clear()
        self._ious.clear()
        for row, entry in enumerate(entries):
            button = QRadioButton(entry.name)
            button.setToolTip(explain_adapter(entry))
            self._group.addButton(button, row)
            self._buttons[entry.name] = button
            self._ious.append(QLabel())
            parts = (button, self._ious[-1], QLabel(describe_adapter(entry)))
            parts[-1].setToolTip(button.toolTip())
            for column, part in enumerate(parts):
                self.rows.addWidget(part, row, column)
