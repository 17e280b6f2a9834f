"""The dock in which objects are annotated by clicks and boxes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_peftsam.document import (
    Accept,
    DeleteObjects,
    Discard,
    ImageId,
    MergeObjects,
    RemoveLastPrompt,
)
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._annotate_display import AnnotateDisplay, ModelAction
from napari_peftsam.widgets._annotate_view import AnnotateView
from napari_peftsam.widgets._answers import Answers
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._keys import KeyBindings
from napari_peftsam.widgets._objects_table import ObjectsTable
from napari_peftsam.widgets._project_menu import ProjectMenu
from napari_peftsam.widgets._reload import Reload
from napari_peftsam.widgets._worker import run
from napari_peftsam.widgets.models import show_models

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

__all__ = ["AnnotateDock"]

_FILES = "SAM checkpoints (*.pth *.pt *.safetensors);;All files (*)"


class AnnotateDock(Dock):
    """Choose an image and a model, click, accept.

    Parameters
    ----------
    napari_viewer
        The viewer whose images are annotated.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        owner = self.viewer_session
        self.document, self.layers = owner.document, owner.layers
        self.view = AnnotateView(self, ObjectsTable(self.document))
        self.layers.open_prompts()
        self.answers = Answers(owner, self.layers)
        self.reload = Reload(owner, self.layers, self.answers)
        self.display = AnnotateDisplay(self.view, owner, self.answers)
        self.project = ProjectMenu(self.view.project, owner)
        self._keys = KeyBindings()
        self._connect_view()
        self._bind_keys()
        self.layers.events.prompt_layers_changed.connect(self._bind_keys)
        # Later, because this may be one of many layers that are being removed.
        self._choose_later = QTimer()
        self._choose_later.setSingleShot(True)
        self._choose_later.timeout.connect(self._choose_image)
        self.layers.events.images_changed.connect(self._choose_soon)
        self._choose_image()

    def release(self) -> None:
        """Give keys and prompt layers back; images, objects and history stay."""
        self._choose_later.stop()
        self.layers.events.images_changed.disconnect(self._choose_soon)
        self.layers.events.prompt_layers_changed.disconnect(self._bind_keys)
        self._keys.release()
        self.display.release()
        self.project.release()
        self.reload.release()
        self.answers.release()
        if not self.viewer_session.is_closed:
            self.layers.close_prompts()

    # --- connections ----------------------------------------------------------------

    def _connect_view(self) -> None:
        view, actions = self.view, self._actions()
        view.image.activated.connect(self._image_chosen)
        view.model.activated.connect(self._model_chosen)
        view.adapter.activated.connect(self._adapter_chosen)
        view.cancel.clicked.connect(self._cancel_or_resume)
        view.table.object_clicked.connect(self.layers.go_to)
        selection = view.table.selectionModel()
        assert selection is not None
        selection.selectionChanged.connect(self.display.show_buttons)
        view.table.objects.modelReset.connect(self.display.show_buttons)
        view.merge.clicked.connect(self._merge)
        view.delete.clicked.connect(self._delete)
        buttons = {
            "point": view.point,
            "box": view.box,
            "sign": view.sign,
            "previous_candidate": view.previous,
            "next_candidate": view.next,
            "accept": view.accept,
            "accept_all": view.accept_all,
            "discard": view.discard,
            "undo": view.undo,
            "redo": view.redo,
        }
        for action, button in buttons.items():
            button.clicked.connect(_ignore_checked(actions[action]))

    def _actions(self) -> dict[str, Callable[[], object]]:
        layers, document = self.layers, self.document
        actions: dict[str, Callable[[], object]] = {
            "point": lambda: layers.show_tool("" if layers.tool == "point" else "point"),
            "box": lambda: layers.show_tool("" if layers.tool == "box" else "box"),
            "sign": lambda: layers.set_sign(not layers.positive),
            "next_candidate": lambda: document.cycle(1),
            "previous_candidate": lambda: document.cycle(-1),
            "accept": self._accept,
            "accept_all": self._accept_all,
            "discard": lambda: document.do(Discard()),
            "remove_last": self._remove_last,
            "undo": document.undo,
            "redo": document.redo,
        }
        return {name: partial(self._tried, action) for name, action in actions.items()}

    def _bind_keys(self) -> None:
        self._keys.release()
        prompts = self.layers.prompt_layers
        own = () if prompts is None else prompts.layers
        self._keys.bind(self.viewer_session.viewer, own, self._actions())

    # --- what the user does ---------------------------------------------------------

    def _choose_soon(self) -> None:
        self._choose_later.start()

    def _choose_image(self) -> None:
        """Take the active image layer, else the topmost in sight, if none is chosen."""
        images = self.layers.image_layers
        if self.layers.image is None and images:
            active = self.viewer_session.viewer.layers.selection.active
            visible = [layer for layer in images if layer.visible]
            self._select_image(active if active in visible else [*images, *visible][-1])
        self.layers.raise_prompts()

    def _select_image(self, layer: Any) -> None:
        try:
            self.layers.select_image(layer)
        except PeftSamError as error:
            self.layers.events.failed.emit(error)

    def _image_chosen(self, index: int) -> None:
        self._select_image(self.layers.image_layers[index])

    def _model_chosen(self, index: int) -> None:
        owner = self.viewer_session
        source = self.view.model.itemData(index)
        if source is ModelAction.MORE:
            show_models(owner.viewer)
            source = ""
        elif source is ModelAction.BROWSE:
            source, _ = QFileDialog.getOpenFileName(self, "Choose a SAM checkpoint", "", _FILES)
        if source and source != owner.source:  # again would only end what is under way
            owner.load_model(source)
        self.display.show_sources()

    def _adapter_chosen(self, index: int) -> None:
        workspace = self.viewer_session.workspace
        if workspace is not None:
            name = self.view.adapter.itemData(index)
            run(lambda: workspace.activate(name), group=self.viewer_session.workers)

    def _cancel_or_resume(self) -> None:
        if self.answers.status.kind == "embedding":
            self.answers.cancel()
        else:
            self.answers.resume()

    def _accept(self) -> None:
        current = self.document.current
        if current is None or current.mask is None:
            self.display.show_hint("There is no mask to accept yet")
            return
        self.view.table.select(self.document.do(Accept()))

    def _accept_all(self) -> None:
        self.answers.accept_all(self.display.show_current)

    def _remove_last(self) -> None:
        layer = self.layers.prompt_layers
        points = None if layer is None else layer.points
        if points is not None and points.selected_data:
            points.remove_selected()
        else:
            self.document.do(RemoveLastPrompt())

    def _merge(self) -> None:
        labels = self.view.table.selected_labels()
        image = self._image()
        self._tried(
            lambda: self.view.table.select(self.document.do(MergeObjects(image, tuple(labels))))
        )

    def _delete(self) -> None:
        labels = self.view.table.selected_labels()
        self._tried(lambda: self.document.do(DeleteObjects(self._image(), tuple(labels))))

    def _image(self) -> ImageId:
        image = self.layers.image_id
        assert image is not None, "the table shows its objects"
        return image

    def _tried(self, action: Callable[[], object]) -> None:
        try:
            action()
        except PeftSamError as error:
            self.layers.events.failed.emit(error)


def _ignore_checked(action: Callable[[], object]) -> Callable[[bool], None]:
    def clicked(_: bool) -> None:
        action()

    return clicked
