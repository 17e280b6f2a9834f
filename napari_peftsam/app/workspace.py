"""A document with a model: the one place that says what is live. No Qt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from psygnal import Signal, SignalGroup

from napari_peftsam.app.adapters import (
    AdapterEntry,
    AdapterList,
    save_live,
    store_adapter,
    store_run,
    stored_adapters,
)
from napari_peftsam.app.annotated import annotated_planes
from napari_peftsam.app.finetuning import TrainingJob
from napari_peftsam.app.suggesting import project_scorer
from napari_peftsam.document import Document, DocumentImage, PlaneKey
from napari_peftsam.embeddings import (
    EmbeddingStore,
    EmbedEvent,
    Encoded,
    EncodeFailed,
    tile_grid,
)
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import SamModel, build, pick_device
from napari_peftsam.peft import load_adapter
from napari_peftsam.segmentation.automatic import ProposalScorer
from napari_peftsam.segmentation.engine import IN_MEMORY, Engine, LiveAdapter
from napari_peftsam.training import Incumbent, TrainingConfig, TrainingReport
from napari_peftsam.types import ModelReference, Window


class WorkspaceEvents(SignalGroup):
    """Signals of a `Workspace`, emitted in the thread that caused them."""

    model_changed = Signal()
    """Another model was loaded; its adapters are gone from the list."""
    adapters_changed = Signal()
    """The list of adapters changed, or another one is live."""


class Workspace:
    """Images, objects, the live model and its adapters.

    Slow methods say so; run those outside the GUI thread. `document` belongs to the
    thread that made the workspace, the rest may be called from any.

    Parameters
    ----------
    document
        What is annotated; default: an empty document in memory.
    store
        Where embeddings are kept; None keeps the latest ones in memory only.
    """

    def __init__(
        self, document: Document | None = None, store: EmbeddingStore | Path | None = None
    ) -> None:
        self.document = document or Document()
        self.events = WorkspaceEvents()
        self.adapters = AdapterList()
        # Adapters of all weights that were loaded, and which was live: no model loses its own.
        self._known: dict[str, tuple[AdapterList, LiveAdapter]] = {}
        self._store = EmbeddingStore(store) if isinstance(store, Path) else store
        self._engine: Engine | None = None
        self._embedded: dict[PlaneKey, tuple[str, str]] = {}  # by which model and adapter last
        self._embedded_lock = threading.Lock()  # the document may hold its own when it calls
        for signal in (self.document.events.image_removed, self.document.events.pixels_changed):
            signal.connect(self._forget)
        self.document.events.closing.connect(self._project_closes)
        self.document.events.opened.connect(self._project_opened)
        self.source = ""
        # The engine, its live adapter and the list change together, from any thread.
        self._lock = threading.RLock()
        self._loads = 0
        self._project = object()  # another one for every project that is opened

    def _forget(self, image: str) -> None:
        """Let go of what is known of an image that is gone or has other pixels."""
        with self._embedded_lock:
            for plane in [plane for plane in self._embedded if plane.image == image]:
                del self._embedded[plane]
        if self._engine is not None:
            self._engine.forget(image)

    def _project_closes(self) -> None:
        """Let go of the images, and of models that were asked for until now."""
        with self._lock:
            self._loads += 1
            self._project = object()
        for image in self.document.images:
            self._forget(image)

    def _project_opened(self) -> None:
        """Let go of the adapters of another project; `load_model` brings those of this one."""
        with self._lock:
            self._known.clear()
            self.adapters = AdapterList()
            if self._engine is None:
                return
            self._engine.use(None)
            if not self.document.live.model:  # a new project: the model stays
                self._known[self._engine.model.weights_hash] = self.adapters, self.live
                save_live(self.document, self.live, self.source)
        self.events.adapters_changed.emit()

    # --- model and adapters ----------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """The live model; `ConfigurationError` while none is loaded."""
        if self._engine is None:
            raise ConfigurationError("no model is loaded: choose a model first")
        return self._engine

    @property
    def has_model(self) -> bool:
        """True while a model is loaded."""
        return self._engine is not None

    @property
    def live(self) -> LiveAdapter:
        """The adapter that answers prompts now."""
        return LiveAdapter() if self._engine is None else self._engine.live

    def load_model(
        self, source: str | Path = "builtin", device: str = "auto", precision: str = "auto"
    ) -> SamModel:
        """Load a model by registry name or checkpoint path and make it live; slow.

        Weights that were loaded before come with the adapters they had.

        The model that was live stays so if this fails, or if another one was asked for
        meanwhile. See `napari_peftsam.models.build`.
        """
        with self._lock:
            self._loads += 1
            load = self._loads
        model = build(source, pick_device(device), precision=precision)
        if "@" not in model.name:  # at its own frame it is the model without one
            source = ModelReference.parse(source).source
        with self._lock:
            if load != self._loads:
                return model
            before = "" if self._engine is None else self._engine.model.weights_hash
            if before in self._known:
                self._known[before] = self.adapters, self.live
            engine, weights = Engine(model, self._store), model.weights_hash
            adapters, live = self._known.get(weights) or stored_adapters(
                self.document, weights, str(source)
            )
            engine.use(live.adapter, live.strength, live.name)
            self._engine, self.source, self.adapters = engine, str(source), adapters
            self._known[weights] = adapters, live
            save_live(self.document, live, str(source))
        self.events.model_changed.emit()
        self.events.adapters_changed.emit()
        return model

    def activate(self, name: str, strength: float = 1.0) -> AdapterEntry:
        """Make an adapter of the list live; labels, prompts and history stay as they are.

        Parameters
        ----------
        name
            Of an entry of `adapters`.
        strength
            Factor on the adapter's changes, from 0 (the base model) to 1.

        Raises
        ------
        ConfigurationError
            If there is no such adapter, or its method cannot be weakened.
        """
        return self._go_live(lambda adapters: adapters[name], strength)

    def load_adapter(self, path: Path) -> AdapterEntry:
        """Read an adapter file, add it to the list and make it live.

        Raises
        ------
        InputFileError, AdapterMismatchError
            If the file is missing or damaged, or belongs to another base; nothing changes.
        """
        adapter = load_adapter(path)
        measured = adapter.metrics.get("val_iou")
        iou = None if measured is None else float(measured)
        return self._go_live(lambda adapters: adapters.add(path.stem, adapter, iou, True))

    def _go_live(
        self, list_it: Callable[[AdapterList], AdapterEntry], strength: float = 1.0
    ) -> AdapterEntry:
        """Make a listed adapter live; if it is refused, the list stays as it was."""
        with self._lock:
            adapters = self.adapters.copy()
            entry = list_it(adapters)
            self.engine.use(entry.adapter, strength, entry.name)
            self.adapters = adapters
            try:
                store_adapter(self.document, self.engine.model.weights_hash, entry)
                save_live(self.document, self.live, self.source)
            finally:  # one that cannot be saved is live all the same, and can be exported
                self.events.adapters_changed.emit()
        return entry

    # --- embedding -------------------------------------------------------------------

    def embed(
        self, plane: PlaneKey, visible: Window | None = None
    ) -> Generator[EmbedEvent, None, None]:
        """Embed a plane under the live adapter; slow, closeable between encoder blocks.

        Of a large plane, the tiles in the window `visible`, see `Engine.embed`. The document
        is read now, the rest happens while iterating, in any thread.
        """
        return self._embed(self.engine, [(plane, self.document.image(plane.image))], visible)

    def reload(
        self, near: PlaneKey, ahead: Sequence[PlaneKey] = ()
    ) -> Generator[EmbedEvent, None, None]:
        """Embed the planes `ahead`, and what this model embedded under another adapter.

        Of these, planes of the image of `near` come first, by their distance from it, then those
        of other images, by their distance from the same place there. Planes of several tiles wait
        for prompts. A plane that cannot be embedded any more is forgotten. As `embed`, otherwise.
        """
        engine, images = self.engine, self.document.images
        model, adapter = engine.model.weights_hash, engine.live.encoder
        with self._embedded_lock:
            found = {p: by for p, (m, by) in self._embedded.items() if m == model}
        nearest = sorted(found, key=lambda plane: _distance(plane, near))
        wanted = list(dict.fromkeys((*ahead, *nearest)))
        if engine.store is None:  # its memory holds no more, beside the shown plane
            wanted = wanted[: IN_MEMORY - 1]
        outdated = [p for p in wanted if found.get(p) != adapter and p.image in images]
        planes = [(p, images[p.image]) for p in outdated if images[p.image].pixels is not None]
        at_once = [p for p in planes if len(tile_grid(p[1].plane_shape, engine.model)) == 1]
        return self._embed(engine, at_once)

    def _embed(
        self,
        engine: Engine,
        planes: Sequence[tuple[PlaneKey, DocumentImage]],
        visible: Window | None = None,
    ) -> Generator[EmbedEvent, None, None]:
        for plane, image in planes:
            for event in engine.embed(plane.image, image.plane_pixels(plane), visible):
                if isinstance(event, Encoded):
                    key = event.embedding.key
                    with self._embedded_lock:
                        self._embedded[plane] = key.model, key.adapter
                elif isinstance(event, EncodeFailed):
                    with self._embedded_lock:
                        self._embedded.pop(plane, None)
                yield event

    # --- finetuning ------------------------------------------------------------------

    def prepare_training(self, config: TrainingConfig) -> Callable[[], TrainingJob]:
        """Take note of all objects and judgements as they are now, for a finetuning run.

        The run goes on from the live adapter if that has the same method and options;
        either way it is judged against the live one.

        Returns
        -------
        callable
            Gives everything that the run needs, picklable, for another process. It copies
            labels and reads images, so it is slow; call it in any thread.
        """
        live, source, model = self.live, self.source, self.engine.model
        before = live.adapter
        read = annotated_planes(self.document, self.engine)
        start = before if before is not None and before.config == config.method else None
        scorer = project_scorer(self.document, ProposalScorer.of(before))
        return lambda: TrainingJob(
            source=source,
            device=str(model.device),
            planes=tuple(read()),
            config=config,
            start=start,
            incumbent=None if before is None else Incumbent(before, live.strength),
            precision=model.precision,
            judged=(scorer.features, scorer.ious),
        )

    @property
    def channels(self) -> str:
        """The channels that the live adapter was trained with, empty if they are not known."""
        adapter = None if self._engine is None else self.live.adapter
        return "" if adapter is None else adapter.channels

    @property
    def basis(self) -> tuple[Engine | None, object]:
        """The live model and a token of the open project, which a training starts from."""
        with self._lock:
            return self._engine, self._project

    def promote(
        self,
        report: TrainingReport,
        curve: Sequence[tuple[int, float, float]] = (),
        basis: tuple[Engine | None, object] | None = None,
    ) -> AdapterEntry | None:
        """Make a trained adapter live if the verdict is that it beats the one that was live.

        Keep the run in the document, with its `curve`: step, loss and held-out IoU.

        Parameters
        ----------
        basis
            The `basis` at the start of the training. Nothing happens if another model or
            project has taken its place.

        Returns
        -------
        AdapterEntry or None
            The new entry; None if the old adapter stays.
        """
        adapter, entry = report.adapter, None
        with self._lock:  # a project that closes waits until all is stored in it
            if basis is not None and basis != self.basis:
                return None
            if report.improved:
                iou = report.iou_after
                entry = self._go_live(lambda adapters: adapters.add_version(adapter, iou))
            store_run(self.document, report, "" if entry is None else entry.name, curve)
        return entry


def _distance(plane: PlaneKey, near: PlaneKey) -> tuple[bool, int]:
    steps = sum(abs(a - b) for a, b in zip(plane.index, near.index, strict=False))
    return plane.image != near.image, steps
