"""One document and one workspace per viewer.

Importing the workspace imports torch, which takes seconds. It is therefore done in a
thread after the first dock has opened; the document itself is there at once, so that
nothing the user does meanwhile is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from napari.utils.notifications import show_info, show_warning
from psygnal import Signal, SignalGroup
from qtpy.QtCore import QObject
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]

from napari_peftsam.app.importing import ImportController
from napari_peftsam.app.project_controller import ProjectController
from napari_peftsam.document import Document, ImageId, ImageSource, find_source
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.heap import keep_freed_memory, spare_collections
from napari_peftsam.widgets._parts import stop_timers, timer
from napari_peftsam.widgets._runner import ThreadRunner, Worker, notify
from napari_peftsam.widgets._settings import plugin_settings, use_preferred_model_folder
from napari_peftsam.widgets.layers import LayerBridge
from napari_peftsam.widgets.layers.view import METADATA, PATH, file_layer

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.files import ImageFile
    from napari_peftsam.models import ModelEntry

_IDLE = 2000  # ms without an action: time to tidy the project file


class SessionState(SignalGroup):
    """Signals of a `ViewerSession`; always emitted in the GUI thread."""

    ready = Signal()
    """The workspace is there; its model may still be loading."""
    status_changed = Signal()
    """`ViewerSession.loading` or `ViewerSession.error` changed."""
    model_changed = Signal()
    """Another model is live."""
    adapters_changed = Signal()
    """The list of adapters changed, or another one is live."""
    awaited_changed = Signal(bool)
    """The user waits for an embedding or a mask, or does so no more."""
    closed = Signal()
    """The viewer is closing: stop what is under way."""


class _Relay(QObject):
    """Brings signals of the workspace and the document into the GUI thread."""

    model_changed = QtSignal()
    adapters_changed = QtSignal()
    saved = QtSignal()  # adapters are saved in other threads


def _emitting(signal: Any) -> Callable[[], None]:
    """Return a function that emits a Qt signal: psygnal cannot refer to its `emit` itself."""

    def emit() -> None:
        signal.emit()

    return emit


@dataclass(frozen=True)
class FoundModels:
    """Models and GPU memory, known once torch is imported; see `ViewerSession`."""

    models: tuple[ModelEntry, ...]
    gpu_memory: int | None


def find_models() -> FoundModels:
    """Import what needs torch, and ask the GPU, which takes time, too."""
    import napari_peftsam.app.workspace  # noqa: F401  # what every model needs, and torch
    from napari_peftsam.models import REGISTRY, available_models, device_memory

    use_preferred_model_folder()
    try:
        models = available_models()
    except ConfigurationError as error:  # in the user's own entries: the others are there
        notify(error)
        models = tuple(REGISTRY.values())
    try:
        memory = device_memory(plugin_settings().device)
    except ConfigurationError:  # not there, which loading a model will tell
        memory = None
    return FoundModels(models, memory)


class ViewerSession:
    """State that the docks of one viewer share.

    Attributes
    ----------
    document
        Images, prompts and objects; GUI thread only.
    events
        See `SessionState`.
    projects, imports
        Save the document and open other projects; read images and labels.
    workers
        Runs all threads of this viewer's docks; stopped when it closes.
    workspace
        None while torch is being imported.
    loading
        Name of the model being loaded, empty if there is none.
    error
        Why the last model could not be loaded, empty if it could.
    models, gpu_memory
        The registry's models, and the bytes of memory of the GPU that models run on (None
        without one), once `events.ready` was sent.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        keep_freed_memory()  # before there are workers: see there about arenas
        self._viewer = ref(viewer)
        self.document = Document()
        self.events = SessionState()
        self.workers = ThreadRunner()
        self.loading = ""
        self.error = ""
        self.models: tuple[ModelEntry, ...] = ()
        self.gpu_memory: int | None = None
        self.is_closed = False
        self.projects = ProjectController(self, self.workers)
        self.imports = ImportController(self, self.projects)
        self._layers: LayerBridge | None = None
        self.workspace: Workspace | None = None
        self._opening: Worker | None = None
        self._loader: Worker | None = None
        self._source = ""
        self._relay = _Relay()
        self._soon, self._idle = timer(self._relay, 0), timer(self._relay, _IDLE)
        autosave, news = self.projects.autosave, self.projects.events
        for signal, slot in (
            (self._relay.model_changed, self.events.model_changed.emit),
            (self._relay.adapters_changed, self.events.adapters_changed.emit),
            (self._relay.saved, autosave.note_saved),
            (self._soon.timeout, autosave.keep_next),
            (self._idle.timeout, autosave.tidy),
            (news.informed, show_info),
            (news.warned, show_warning),
            (news.failed, notify),
        ):
            signal.connect(slot)
        for signal, slot in (
            (self.document.events.saved, _emitting(self._relay.saved)),
            (news.pixels_wanted, self._soon.start),
            (news.saved, self._idle.start),
        ):
            signal.connect(slot, max_args=0)

    @property
    def viewer(self) -> napari.Viewer:
        """The viewer; `RuntimeError` once it is gone."""
        viewer = self._viewer()
        if viewer is None:
            raise RuntimeError("the viewer was closed")
        return viewer

    @property
    def layers(self) -> LayerBridge:
        """The bridge between the viewer's layers and the session."""
        if self._layers is None:
            self._layers = layers = LayerBridge(self.viewer, self.document)
            layers.events.failed.connect(self.projects.report)
            layers.events.image_wanted.connect(self.projects.load)
            self.projects.events.refused.connect(self._show_refusal)
        return self._layers

    def _show_refusal(self, text: str) -> None:
        self.layers.events.hint.emit(text)

    @property
    def source(self) -> str:
        """Registry name or checkpoint path of the live model, empty without one."""
        return self._source if self.has_model else ""

    @property
    def device(self) -> str:
        """Device of the live model, empty without one."""
        if self.workspace is None or not self.workspace.has_model:
            return ""
        return str(self.workspace.engine.model.device).split(":")[0]

    @property
    def has_model(self) -> bool:
        """True while there is a model to answer prompts."""
        return self.workspace is not None and self.workspace.has_model

    def when_ready(self, callback: Callable[[], object]) -> None:
        """Call `callback` once the workspace is there, now if it is."""
        if self.workspace is not None:
            callback()
        else:
            self.events.ready.connect(callback, max_args=0)

    def open(self, source: str | Path | None = None) -> None:
        """Begin to import the workspace and to load a model, once; returns at once.

        Parameters
        ----------
        source
            The model to load: registry name or checkpoint path; None takes the first
            of the registry that is on this computer.
        """
        if self._opening is not None or self.workspace is not None:
            return

        def opened(found: FoundModels) -> None:
            self._connect(found)
            self.load_model(self.document.live.model or source or self._first_model())

        def failed(error: Exception) -> None:
            self._opening = None
            self._set_status(error=f"torch cannot be imported: {error}")
            notify(error)

        self.projects.start()
        self._set_status(loading="libraries")
        self._opening = self.workers.run(find_models, on_result=opened, on_error=failed)

    def require(self) -> Workspace:
        """Return the workspace, importing it now if need be; slow the first time."""
        if self.workspace is None:
            self._connect(find_models())
        assert self.workspace is not None
        return self.workspace

    def load_model(self, source: str | Path) -> None:
        """Load a model in a thread; the one that is live answers until then."""
        if not source:
            self._set_status(error="no model on this computer: browse for a SAM checkpoint")
            return
        workspace, settings = self.require(), plugin_settings()
        use_preferred_model_folder()
        if self._loader is not None:
            self._loader.cancel()

        def failed(error: Exception) -> None:
            self._set_status(error=str(error))
            notify(error)
            first = self._first_model()
            if not workspace.has_model and first not in ("", str(source)):
                self.load_model(first)  # that of a project may be gone

        def loaded() -> None:
            self._source = workspace.source
            self._set_status()

        self._set_status(loading=Path(source).name)
        self._loader = self.workers.run(
            lambda: workspace.load_model(source, settings.device, settings.precision),
            on_result=lambda _: loaded(),
            on_error=failed,
        )

    def restore_model(self) -> None:
        """Load the model that a project was used with last, and the project's adapters."""
        model = self.document.live.model or self._source
        if self.workspace is not None and model:  # else `open` will
            self.load_model(model)

    def show_image(self, image: ImageId, *, first: bool) -> None:
        """Show an image whose pixels were read; annotate it if it is the first."""
        layers, pending = self.layers, self.document.pending.plane
        layers.show(image, visible=first)
        if first or layers.image is None:
            layers.select_image(layers.layer_of(image))
            if pending is not None and pending.image == image:
                layers.show_plane(pending)

    def show_file(self, path: Path, file: ImageFile, *, first: bool) -> None:
        """Show an image file; annotate it if it is the first."""
        layer, layers = file_layer(path, file), self.layers
        layer.visible = first
        if first or not layers.tools.is_open:
            self.viewer.add_layer(layer)
        if first:
            layers.select_image(layer)
        elif layers.tools.is_open:
            layers.attempt(lambda: layers.adopt(layer))

    def replace_image(self, image: ImageId, file: ImageFile, source: ImageSource) -> None:
        """Show other channels of an image's file under its objects."""
        about = {"rgb": file.rgb, "metadata": file.metadata}
        self.document.replace_pixels(image, file.pixels, source, **about)
        layers, old = self.layers, self.layers.layer_of(image)
        if old is not None and old.rgb == file.rgb and not old.multiscale:
            old.metadata[METADATA] = file.metadata
            old.data = file.pixels  # which the document has already
            old.reset_contrast_limits()
        elif old is not None:
            layers.show_anew(image)

    def file_of(self, image: ImageId) -> Path | None:
        """Return the file that an image was read from, if there is one."""
        layer = self.layers.layer_of(image)
        path = None if layer is None else layer.metadata.get(PATH) or layer.source.path
        if path:
            return Path(path)
        return find_source(self.document.image(image).info.source, self.document.store.path).path

    def window_closes(self) -> None:
        """Take note that the viewer's window is closing: what happens now is not the user's."""
        if self._layers is not None:
            self._layers.viewer_closes()

    def close(self, timeout: float = 5.0) -> None:
        """Stop everything that is under way and save all; stopping takes `timeout` at most."""
        if self.is_closed:
            return
        self.is_closed = True
        self.window_closes()
        self.events.closed.emit()
        self.workers.close(timeout)
        self.projects.autosave.finish()
        stop_timers(self._soon, self._idle)

    def _connect(self, found: FoundModels) -> None:
        """Make the workspace; its module is imported by now."""
        if self.workspace is not None or self.is_closed:
            return
        from napari_peftsam.app.workspace import Workspace
        from napari_peftsam.embeddings import EmbeddingStore

        spare_collections(collect=False)  # torch is there by now
        settings = plugin_settings()
        space = round(settings.embedding_space * 1e9)
        workspace = Workspace(self.document, EmbeddingStore(settings.embedding_folder, space))
        workspace.events.model_changed.connect(_emitting(self._relay.model_changed))
        workspace.events.adapters_changed.connect(_emitting(self._relay.adapters_changed))
        self.workspace = workspace
        self.models, self.gpu_memory = found.models, found.gpu_memory
        self.events.ready.emit()

    def _first_model(self) -> str:
        """Return the first model that is on this computer, empty without one."""
        return next((model.name for model in self.models if model.available), "")

    def _set_status(self, loading: str = "", error: str = "") -> None:
        self.loading, self.error = loading, error
        self.events.status_changed.emit()


_sessions: WeakKeyDictionary[Any, ViewerSession] = WeakKeyDictionary()


def session_of(viewer: napari.Viewer) -> ViewerSession:
    """Return what the docks of this viewer share, making it at the first call.

    napari hands each dock a new proxy of the viewer, hence the look behind it.
    """
    key = getattr(viewer, "__wrapped__", viewer)
    if key not in _sessions:
        _sessions[key] = ViewerSession(key)
    return _sessions[key]
