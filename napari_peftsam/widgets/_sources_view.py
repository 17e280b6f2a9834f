"""The model and the adapter that an annotation works with, in the annotate dock."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_peftsam.widgets._parts import NARROW, combo_box, fill_combo

if TYPE_CHECKING:
    from napari_peftsam.widgets.session import ViewerSession


class ModelAction(Enum):
    """Entries of the list of models that are no models."""

    MORE = "More models…"
    BROWSE = "Browse checkpoint…"


class SourcesView:
    """The lists of models and adapters, by name; they change nothing."""

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = owner
        self.model, self.adapter = combo_box(), combo_box()
        for combo in (self.model, self.adapter):
            combo.setMinimumWidth(NARROW)
        self.model_status = QLabel()

    def grid(self, models: QWidget, adapters: QWidget) -> QGridLayout:
        """Return the rows, with a button each at their ends."""
        grid = QGridLayout()
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(4)
        grid.setColumnStretch(1, 1)
        rows = (
            (QLabel("Model"), self.model, self.model_status, models),
            (QLabel("Adapter"), self.adapter, None, adapters),
        )
        for row, (name, combo, extra, button) in enumerate(rows):
            grid.addWidget(name, row, 0)
            grid.addWidget(combo, row, 1, 1, 1 if extra else 2)
            if extra is not None:
                grid.addWidget(extra, row, 2)
            grid.addWidget(button, row, 3)
        return grid

    def show(self) -> None:
        """Show which models and adapters there are, and which are chosen."""
        self._show_models()
        self._show_adapters()

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
        text = "◌" if owner.loading else "⚠" if owner.error else owner.device.upper()
        status.setText(text)
        status.setToolTip(f"Loading {owner.loading}" if owner.loading else owner.error)
