"""The dock in which objects are annotated by clicks and boxes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qtpy.QtCore import QTimer
from qtpy.QtGui import QKeySequence, QShortcut
from qtpy.QtWidgets import QFileDialog

from napari_peftsam.app.advice import plane_text
from napari_peftsam.app.ahead import Reload
from napari_peftsam.app.prompting import PromptController
from napari_peftsam.document import (
    Accept,
    Discard,
    ImageId,
    MarkComplete,
    RemoveLastPrompt,
)
from napari_peftsam.widgets._annotate_view import AnnotateView
from napari_peftsam.widgets._correcting import Corrections
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._parts import timer
from napari_peftsam.widgets._project_menu import ProjectMenu
from napari_peftsam.widgets._review import Reviewing
from napari_peftsam.widgets._runner import notify
from napari_peftsam.widgets._sources_view import ModelAction
from napari_peftsam.widgets.keys import KEYS, KeyBindings, keys_changed
from napari_peftsam.widgets.layers.objects import UNDO_KEYS
from napari_peftsam.widgets.panels import panel_dock, show_keys, show_layer_docks, show_panel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import napari
    from napari.layers import Image
    from qtpy.QtGui import QDragEnterEvent, QDropEvent

    from napari_peftsam.document import Overlap
    from napari_peftsam.document.tables import Step
    from napari_peftsam.widgets.finetune import FinetuneDock

_SETTLE = 120  # ms to wait after a change of plane: scrolling embeds where it ends
_QUIET = 400  # ms without anything the user waits for
_OUTLINED = 200  # selected objects with an outline
_LOOK = 400  # ms to wait after the view moved: panning embeds where it ends
_FILES = "SAM checkpoints (*.pth *.pt *.safetensors);;All files (*)"


class AnnotateDock(Dock):
    """Choose an image and a model, click, accept."""

    is_tab = False

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        owner = self.viewer_session
        self.document, self.layers = owner.document, owner.layers
        self.project = ProjectMenu(owner)
        self.layers.tools.open()
        self.setAcceptDrops(True)
        self.prompting = PromptController(owner, self.layers, owner.workers)
        self.reload = Reload(owner, self.layers, self.prompting, owner.workers)
        self.view = AnnotateView(self, self.prompting, self.project)
        self.corrections = Corrections(owner, self.view.correct, self.prompting)
        self.reviewing = Reviewing(owner, self.view.review)
        self._keys, self._draws_polygon = KeyBindings(), False
        self._settle, self._look = timer(None, _SETTLE), timer(None, _LOOK)
        self._idle = timer(None, _QUIET)
        self._choose_later = timer(None, 0)  # it may be one of many layers that are being removed
        for clock, slot in (
            (self._settle, self.prompting.follow),
            (self._look, self.prompting.look_around),
            (self._idle, self.reload.begin),
            (self._idle, self.layers.tools.prepare),
            (self._choose_later, self._choose_image),
        ):
            clock.timeout.connect(slot)
        self._connect_view()
        self._bind_keys()
        heard = self.reviewing.connections(self.view.show_hint, self.view.show_news)
        proposal = self.reviewing.review.events.changed, self.view.show_proposal
        self.listen(*self._outside(), *heard, proposal)
        self._reload_later()
        self._choose_image()
        self.prompting.follow()

    def _outside(self) -> tuple[tuple[Any, Callable[..., object]], ...]:
        owner, layers, prompting = self.viewer_session.events, self.layers.events, self.prompting
        news = self.viewer_session.projects.events
        return (
            (owner.model_changed, prompting.start_over),
            (owner.adapters_changed, prompting.start_over),
            (owner.status_changed, prompting.follow),
            (layers.image_changed, prompting.follow),
            (layers.image_changed, self.project.files.hint),
            (layers.plane_changed, self._settle_soon),
            (layers.view_moved, self._look_soon),
            (layers.images_changed, self._choose_soon),
            (layers.own_layers_changed, self._bind_keys),
            (layers.image_changed, self._bind_keys),
            (keys_changed, self._bind_keys),
            (layers.tool_changed, self._tool_changed),
            (layers.plane_changed, self.corrections.note_plane),
            (layers.plane_changed, self.view.show_buttons),
            (prompting.events.awaited_changed, self._tell_awaited),
            (prompting.events.idled, self._look_soon),
            (prompting.events.hint, self.view.show_hint),
            (prompting.events.queue_predicted, self._show_outlines),
            (prompting.events.preview_changed, self._show_outlines),
            (layers.hovered, prompting.hover),
            (self.document.events.prompts_changed, self._show_outlines),
            (self.document.events.objects_changed, self._show_outlines),
            (layers.plane_changed, self._show_outlines),
            (layers.plane_changed, self.layers.tools.show_background),
            (layers.own_layers_changed, self.layers.tools.show_background),
            (self.document.events.background_changed, self.layers.tools.show_background),
            (self.document.events.labels_changed, self.layers.tools.show_background),
            (self.document.events.labels_painted, self.layers.tools.show_background),
            (layers.object_picked, self._picked),
            (prompting.events.refused, self._refused),
            (prompting.events.failed, notify),
            (news.changed, self.project.show_project),
            (news.saved, self.project.show_project),
            (news.undecided, self.project.files.decide),
            (news.pieces_found, self.project.files.decide_pieces),
            (prompting.events.awaited_changed, self._reload_later),
            (owner.adapters_changed, self._reload_later),
            (owner.model_changed, self._reload_later),
            (layers.plane_changed, self._reload_later),
            (layers.images_changed, self._reload_later),
            (self.document.events.prompts_changed, self._reload_later),
        )

    def release(self) -> None:
        """Give keys and prompt layers back; images, objects and history stay."""
        for clock in (self._settle, self._look, self._idle, self._choose_later):
            clock.stop()
        self._keys.release()
        self.view.release()
        self.reviewing.release()
        self.reload.stop()
        self.prompting.release()
        if self.viewer_session.is_closed:
            return
        self.viewer_session.events.awaited_changed.emit(False)
        self.layers.tools.close()

    def dragEnterEvent(self, event: QDragEnterEvent | None) -> None:  # noqa: N802  # Qt's name
        """Accept files."""
        data = None if event is None else event.mimeData()
        if event is not None and data is not None and data.hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent | None) -> None:  # noqa: N802  # Qt's name
        """Open or import the files."""
        data = None if event is None else event.mimeData()
        if event is not None and data is not None:
            event.acceptProposedAction()
            paths = [Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile()]
            # Later: whoever drags the files waits for an answer until then.
            QTimer.singleShot(0, partial(self.project.files.dropped, paths))

    # --- connections ----------------------------------------------------------------

    def _connect_view(self) -> None:
        view, actions = self.view, self._actions()
        view.images.chosen.connect(self._image_chosen)
        view.images.complete.clicked.connect(self._mark_complete)
        view.model.activated.connect(self._model_chosen)
        view.adapter.activated.connect(self._adapter_chosen)
        view.images.cancel.clicked.connect(self._cancel_or_resume)
        view.clean.toggled.connect(self.prompting.clean_masks)
        view.preview.clicked.connect(self._want_preview)
        view.table.object_clicked.connect(self.layers.go_to)
        selection = view.table.selectionModel()
        assert selection is not None
        selection.selectionChanged.connect(self.view.show_buttons)
        selection.selectionChanged.connect(self._show_outlines)
        selection.selectionChanged.connect(self.corrections.follow_selection)
        view.table.objects.modelReset.connect(self._show_outlines)
        view.table.objects.modelReset.connect(self.view.show_buttons)
        view.correct.delete.clicked.connect(partial(self.layers.attempt, self.corrections.delete))
        view.training.train.clicked.connect(self._toggle_training)
        view.training.curve.clicked.connect(partial(show_panel, self, "Finetune"))
        view.layers.toggled.connect(self.show_layer_list)
        view.keys.clicked.connect(partial(show_keys, self))
        # napari's own bindings do not know this key.
        QShortcut(QKeySequence("?"), self).activated.connect(partial(show_keys, self))
        for title, opener in view.panels.items():
            opener.clicked.connect(partial(show_panel, self, title))
        for mode, brush in view.correct.brushes.items():
            brush.clicked.connect(partial(self.corrections.choose_brush, mode))
        for name, action in actions.items():
            parts = (part for part in (view, view.images, view.correct) if hasattr(part, name))
            button = getattr(next(parts, None), name, None)
            if button is not None and name != "complete":  # others have keys only
                button.clicked.connect(lambda _, action=action: action())

    def _actions(self) -> dict[str, Callable[[], object]]:
        tools, document = self.layers.tools, self.document
        actions: dict[str, Callable[[], object]] = {
            "point": lambda: tools.choose("point"),
            "box": lambda: tools.choose("box"),
            "lasso": lambda: tools.choose("lasso"),
            "scribble": lambda: tools.choose("scribble"),
            "sign": tools.flip_sign,
            "previous_image": lambda: self._go(-1),
            "next_image": lambda: self._go(1),
            "complete": self._complete_and_go_on,
            "next_candidate": lambda: self._cycle(1),
            "previous_candidate": lambda: self._cycle(-1),
            "accept": self._accept,
            "accept_all": self._accept_all,
            "replace": lambda: self._accept("replace"),
            "cut_out": lambda: self._accept("overwrite"),
            "discard": lambda: document.do(Discard()),
            "discard_all": lambda: document.do(Discard(everything=True)),
            "remove_last": self._remove_last,
            "undo": lambda: self._step("Undid", document.store.last_step(), document.undo),
            "redo": lambda: self._step("Redid", document.store.next_step(), document.redo),
        }
        actions |= self.corrections.actions() | self.reviewing.keys()
        tried = {name: partial(self.layers.attempt, action) for name, action in actions.items()}
        training = {
            "finetune": self._toggle_training,
            "before": self._compare,
        }
        return {
            **tried,
            **training,
            "hide": tools.hide_while_held,
            "contours": self.layers.flip_contours,
        }

    def _bind_keys(self) -> None:
        self._keys.release()
        prompts, actions = self.layers.tools.layers, self._actions()
        own = () if prompts is None else prompts.layers
        self._keys.bind((self.viewer_session.viewer, *own), actions)
        napari = {name for name, key in KEYS.items() if key.binding in UNDO_KEYS}
        answers = {n: actions[n] for n in {"accept", "discard"} | napari if n in actions}
        for objects in self.layers.object_layers:
            if objects.mode != "polygon":  # whose keys they are there
                self._keys.bind((objects,), answers)

    def _toggle_training(self) -> None:
        cast("FinetuneDock", panel_dock(self, "Finetune")).toggle()

    def _compare(self) -> Iterator[None]:
        dock = cast("FinetuneDock", panel_dock(self, "Finetune"))
        if not dock.training.after:
            self.view.show_hint("There is nothing to compare before the first training")
        yield from dock.compare_while_held()

    # --- what the user does ---------------------------------------------------------

    def show_layer_list(self, shown: bool) -> None:
        """Show napari's docks with the layers and their settings, or fold them."""
        self.view.layers.setChecked(shown)
        show_layer_docks(self, shown)

    def _tool_changed(self) -> None:
        """Take Enter and Escape from the layer of objects, but while a polygon is drawn there."""
        is_drawn = any(each.mode == "polygon" for each in self.layers.object_layers)
        if is_drawn != self._draws_polygon:
            self._draws_polygon = is_drawn
            self._bind_keys()

    def _want_preview(self, wanted: bool) -> None:
        self.prompting.preview.wanted = wanted
        if not wanted:
            self.prompting.preview.stop()

    def _choose_soon(self) -> None:
        self._choose_later.start()

    def _settle_soon(self) -> None:
        self._settle.start()

    def _look_soon(self) -> None:
        self._look.start()

    def _reload_later(self) -> None:
        """Let the user go first; embed again after a moment of quiet."""
        self.reload.stop()
        self._idle.start()

    def _show_outlines(self) -> None:
        selected = self.view.table.selected_labels()[:_OUTLINED]
        self.layers.tools.show_outlines(
            self.prompting.following, selected, self.prompting.preview.shown
        )

    def _picked(self, label: int, add: bool) -> None:
        self.view.table.select(label, add=add)

    def _tell_awaited(self, awaited: bool) -> None:
        # Not the `emit` itself: psygnal calls one that it is connected to with "1", as a test.
        self.viewer_session.events.awaited_changed.emit(awaited)

    def _refused(self, error: Exception) -> None:
        self.layers.events.failed.emit(error)

    def _choose_image(self) -> None:
        """Take the active image layer, else the topmost in sight, if none is chosen."""
        images = self.layers.image_layers
        if self.layers.image is None and images:
            active = self.viewer_session.viewer.layers.selection.active
            visible = [layer for layer in images if layer.visible]
            self._select_image(active if active in visible else [*images, *visible][-1])
        self.layers.tools.raise_layers()

    def _select_image(self, layer: Image) -> None:
        self.layers.attempt(lambda: self.layers.select_image(layer))

    def _go(self, step: int) -> None:
        """Annotate the next image, or another one."""
        images = self.layers.image_layers
        if self.layers.image in images:
            at = images.index(self.layers.image) + step
            if 0 <= at < len(images):
                self.layers.select_image(images[at])

    def _mark_complete(self, complete: bool) -> None:
        action = MarkComplete(self._image(), is_complete=complete)
        self.layers.attempt(lambda: self.document.do(action))
        self.view.images.show()

    def _complete_and_go_on(self) -> None:
        """Mark the image complete and annotate the next one that is not."""
        if self.layers.image is not None:
            self.document.do(MarkComplete(self._image()))
            following = self.view.images.unfinished()
            if following is None:
                self.view.show_hint("All images are done")
            else:
                self._image_chosen(following)

    def _image_chosen(self, index: int) -> None:
        self._select_image(self.layers.image_layers[index])

    def _model_chosen(self, index: int) -> None:
        owner = self.viewer_session
        source = self.view.model.itemData(index)
        if source is ModelAction.MORE:
            show_panel(self, "Models")
            source = ""
        elif source is ModelAction.BROWSE:
            source, _ = QFileDialog.getOpenFileName(self, "Choose a SAM checkpoint", "", _FILES)
        if source and source != owner.source:  # again would only end what is under way
            owner.load_model(source)
        self.view.sources.show()

    def _adapter_chosen(self, index: int) -> None:
        workspace = self.viewer_session.workspace
        if workspace is not None:
            name = self.view.adapter.itemData(index)
            self.viewer_session.workers.run(lambda: workspace.activate(name))

    def _cancel_or_resume(self) -> None:
        if self.prompting.state.can_be_cancelled:
            self.prompting.cancel()
        else:
            self.prompting.resume()

    def _accept(self, overlap: Overlap = "keep") -> None:
        current, review = self.document.current, self.reviewing.review
        if current is None and (review.current or self.reviewing.is_at_tile):
            self.reviewing.accept()
        elif current is not None and current.plane != self.layers.plane:
            plane = current.plane
            where = plane_text(self.document.image(plane.image).name, plane.index)
            self.view.show_hint(f"The prompts are in {where}: show that plane to accept them")
        elif current is None or current.mask is None:
            self.view.show_hint("There is no mask to accept yet")
        else:
            self.view.table.select(self.document.do(Accept(overlap)))

    def _accept_all(self) -> None:
        if self.document.current is None and self.reviewing.review.visible:
            self.reviewing.review.accept_above()
        else:
            self.prompting.accept_all()

    def _step(self, verb: str, step: Step | None, move: Callable[[], str | None]) -> None:
        """Undo or redo a step, and show where that was."""
        label = move()
        image = None if step is None or step.image is None else ImageId(step.image)
        if image is None or image == self.layers.image_id or image not in self.document.images:
            return
        layer = self.layers.layer_of(image)
        if layer is not None:
            self.layers.select_image(layer)
        self.view.show_hint(f"{verb} in {self.document.image(image).name}: {label}")

    def _cycle(self, step: int) -> None:
        current = self.document.current
        if current is None or current.candidates is None:
            self.view.show_hint("There is no candidate yet: click on an object first")
        self.document.cycle(step)

    def _remove_last(self) -> None:
        layer = self.layers.tools.layers
        points = None if layer is None else layer.points
        if points is not None and points.selected_data:
            points.remove_selected()
        elif self.document.current is None:
            self.corrections.delete()
        else:
            self.document.do(RemoveLastPrompt())

    def _image(self) -> ImageId:
        image = self.layers.image_id
        assert image is not None, "the table shows its objects"
        return image
