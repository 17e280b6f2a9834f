"""Shows the state of document, layers and model in the annotate dock; changes none of it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_peftsam.app.advice import Situation, next_step
from napari_peftsam.widgets._annotate_view import AnnotateView, fill_combo
from napari_peftsam.widgets._downloads import downloads
from napari_peftsam.widgets._keys import KEYS

if TYPE_CHECKING:
    from napari_peftsam.app.prompting import PromptController
    from napari_peftsam.widgets.session import ViewerSession

__all__ = ["AnnotateDisplay", "ModelAction"]

_HINT_TIME = 4000  # ms
_READY = "● ready"
_MARKS = {
    "none": "",
    "loading": "◌",
    "ready": _READY,
    "predicting": _READY,
    "accepting": _READY,
    "stopped": "◌ stopped",
    "failed": "⚠",
}


class ModelAction(Enum):
    """Entries of the list of models that are no models."""

    MORE = "More models…"
    BROWSE = "Browse checkpoint…"


class AnnotateDisplay:
    """Keeps the widgets of an `AnnotateView` up to date."""

    def __init__(
        self, view: AnnotateView, owner: ViewerSession, prompting: PromptController
    ) -> None:
        self.view = view
        self._owner = owner
        self._prompting = prompting
        self._document, self._layers = owner.document, owner.layers
        self._hint = ""
        self._hint_timer = QTimer()
        self._hint_timer.setSingleShot(True)
        self._hint_timer.setInterval(_HINT_TIME)
        self._hint_timer.timeout.connect(self._forget_hint)
        for signal, slot in self._connections():
            signal.connect(slot)
        self.show_all()

    def release(self) -> None:
        """Listen no more."""
        self._hint_timer.stop()
        for signal, slot in self._connections():
            signal.disconnect(slot)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        owner, document, layers = self._owner.events, self._document.events, self._layers.events
        return (
            (owner.ready, self.show_sources),
            (owner.status_changed, self.show_sources),
            (owner.model_changed, self.show_sources),
            (downloads().arrived, self.show_sources),
            (owner.adapters_changed, self.show_sources),
            (layers.images_changed, self.show_sources),
            (layers.image_changed, self.show_all),
            (layers.tool_changed, self.show_tool),
            (layers.hint, self.show_hint),
            (document.prompts_changed, self.show_current),
            (document.candidates_changed, self.show_current),
            (document.choice_changed, self.show_current),
            (document.image_removed, self.show_current),
            (document.opened, self.show_all),
            (document.history_changed, self.show_history),
            (document.objects_changed, self.show_objects),
            (self._prompting.events.state_changed, self.show_status),
        )

    def show_all(self) -> None:
        """Show everything anew."""
        self.show_sources()
        self.show_status()
        self.show_tool()
        self.show_current()
        self.show_history()
        self.show_objects()

    def show_sources(self) -> None:
        """Show which images, models and adapters there are, and which are chosen."""
        images, view = self._layers.image_layers, self.view
        chosen = images.index(self._layers.image) if self._layers.image in images else -1
        fill_combo(view.image, [(layer.name, None) for layer in images], chosen)
        self._show_models()
        self._show_adapters()

    def _show_adapters(self) -> None:
        workspace, box = self._owner.workspace, self.view.adapter
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
        fill_combo(box, list(zip(titles, names, strict=True)), index)
        box.setEnabled(len(names) > 1)

    def _show_models(self) -> None:
        owner, view = self._owner, self.view
        live = owner.source
        items: list[tuple[str, object]] = [(m.name, m.name) for m in owner.models if m.available]
        if live and live not in [data for _, data in items]:
            items.append((Path(live).name, live))
        sources = [data for _, data in items]
        actions = [(action.value, action) for action in ModelAction]
        fill_combo(view.model, [*items, *actions], sources.index(live) if live in sources else -1)
        view.model.setEnabled(owner.workspace is not None)
        if owner.loading:
            view.model_status.setText("◌ loading")
            view.model_status.setToolTip(f"Loading {owner.loading}")
        else:
            view.model_status.setText("⚠" if owner.error else owner.device.upper())
            view.model_status.setToolTip(owner.error)

    def show_status(self) -> None:
        """Show how far the embedding is."""
        state, view = self._prompting.state, self.view
        is_mark = state.kind in _MARKS and not state.tiles
        view.image_status.setText(_MARKS[state.kind] if is_mark else f"◌ {state.progress}")
        view.image_status.setToolTip(state.reason or "Embedding of the shown plane")
        can_cancel = state.can_be_cancelled
        view.cancel.setVisible(can_cancel or state.kind in ("stopped", "failed"))
        view.cancel.setText("✕" if can_cancel else "↻")
        view.cancel.setToolTip("Stop embedding" if can_cancel else "Embed now")
        self.show_next_step()

    def show_tool(self) -> None:
        """Show the active tool and the sign of the next points."""
        view, layers = self.view, self._layers
        view.point.setChecked(layers.tool == "point")
        view.box.setChecked(layers.tool == "box")
        sign = "+ add" if layers.positive else "\N{MINUS SIGN} remove"
        view.sign.setText(f"{sign}  {KEYS['sign'].shown}")
        for button in (view.point, view.box, view.sign):
            button.setEnabled(layers.image is not None)
        self.show_next_step()

    def show_current(self) -> None:
        """Show the candidates of the object being made."""
        view, current = self.view, self._document.current
        candidates = None if current is None else current.candidates
        number = 0 if candidates is None else len(candidates)
        choice = 0 if current is None else current.choice
        view.candidate.setText(f"{choice + 1} of {number}" if number else "none")
        score = None if current is None else current.score
        view.score.setText("" if score is None else f"score {score:.2f}")
        for button in (view.previous, view.next):
            button.setEnabled(number > 1)
        view.accept.setEnabled(number > 0)
        view.discard.setEnabled(current is not None)
        queued = len(self._document.queue)
        view.accept_all.setVisible(queued > 1)
        view.accept_all.setText(f"✓✓ Accept all {queued}  {KEYS['accept_all'].shown}")
        self.show_next_step()

    def show_history(self) -> None:
        """Show whether there is something to undo and to redo, and what."""
        document = self._document
        for button, verb, label in (
            (self.view.undo, "undo", document.undo_label),
            (self.view.redo, "redo", document.redo_label),
        ):
            button.setEnabled(label is not None)
            key = KEYS[verb].shown
            button.setToolTip(f"{verb.title()} {label} ({key})" if label else f"Nothing to {verb}")

    def show_objects(self, image: str | None = None) -> None:
        """Show the objects of the chosen image."""
        shown = self._layers.image_id
        if image is None or image == shown:
            self.view.table.objects.show_image(shown)
            self.view.count.setText(f"Objects  {self.view.table.objects.rowCount()}")
            self.show_buttons()
            self.show_next_step()

    def show_buttons(self) -> None:
        """Show what can be done to the selected objects."""
        selected = len(self.view.table.selected_labels())
        self.view.merge.setEnabled(selected > 1)
        self.view.delete.setEnabled(selected > 0)

    def show_hint(self, hint: str) -> None:
        """Show for some seconds why something was not done."""
        self._hint = hint
        self._hint_timer.start()
        self.show_next_step()

    def show_next_step(self) -> None:
        """Show the hint if there is one, else what to do next."""
        current = self._document.current
        mask = None if current is None else current.mask
        state = self._prompting.state
        situation = Situation(
            state.kind,
            state.reason,
            state.progress,
            has_image=self._layers.image is not None,
            prompts=len(self._document.queue),
            has_mask=mask is not None,
            is_empty=mask is not None and not mask.any(),
            tool=self._layers.tool,
            objects=self.view.table.objects.rowCount(),
            painting=self._layers.painting,
            point_key=KEYS["point"].shown,
        )
        text = f"⚠ {self._hint}" if self._hint else next_step(situation)
        if text != self.view.next_step.text():
            self.view.next_step.setText(text)

    def _forget_hint(self) -> None:
        self._hint = ""
        self.show_next_step()
