"""A document with a model: everything a dock or a command does, without Qt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
from psygnal import Signal, SignalGroup

from napari_peftsam.app._annotated import annotated_planes
from napari_peftsam.app._embedded import EmbeddedPlanes
from napari_peftsam.app._stored import save_live, store_adapter, store_run, stored_adapters
from napari_peftsam.app.adapters import AdapterEntry, AdapterTimeline
from napari_peftsam.app.exchange import export_model
from napari_peftsam.app.finetuning import TrainingJob
from napari_peftsam.document import (
    Accept,
    Document,
    ImageId,
    ModelVersion,
    Overlap,
    PlaneKey,
)
from napari_peftsam.embeddings import (
    EmbeddingStore,
    EmbedEvent,
    EncodeFailed,
    PlaneEmbedding,
)
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.export import ExportContext, export_labels, export_target
from napari_peftsam.models import SamModel, build, pick_device
from napari_peftsam.peft import (
    Adapter,
    load_adapter,
    save_adapter,
)
from napari_peftsam.projects import check_not_a_source
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.training import (
    Incumbent,
    TrainEvent,
    TrainingConfig,
    TrainingReport,
    finetune,
)
from napari_peftsam.types import Earlier, Prediction, Prompts, Window

__all__ = ["Workspace", "WorkspaceEvents"]


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
        self.adapters = AdapterTimeline()
        self._timelines: dict[str, AdapterTimeline] = {}  # by weights: no model loses its own
        self._store = EmbeddingStore(store) if isinstance(store, Path) else store
        self._engine: Engine | None = None
        self._planes = EmbeddedPlanes()
        for signal in (self.document.events.image_removed, self.document.events.pixels_changed):
            signal.connect(self._forget)
        self.document.events.closing.connect(self._project_closes)
        self.document.events.opened.connect(self._project_opened)
        self._source = ""
        # What is live and what the list says is live change together, from any thread.
        self._lock = threading.RLock()
        self._loads = 0
        self._project = object()  # another one for every project that is opened

    def _forget(self, image: str) -> None:
        """Let go of what is known of an image that is gone or has other pixels."""
        self._planes.forget(image)
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
            self._timelines.clear()
            self.adapters = AdapterTimeline()
            if self._engine is None:
                return
            self._engine.use(None)
            if not self.document.live.model:  # a new project: the model stays
                self._timelines[self._engine.model.weights_hash] = self.adapters
                save_live(self.document, self.adapters, self._source)
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
        """Whether a model is loaded."""
        return self._engine is not None

    def load_model(
        self, source: str | Path = "builtin", device: str = "auto", precision: str = "auto"
    ) -> SamModel:
        """Load a model by registry name or checkpoint path and make it live; slow.

        Weights that were loaded before come with the adapters they had.

        The model that was live stays so if this fails, or if another one was asked for
        meanwhile.

        Raises
        ------
        ConfigurationError, CheckpointError
            See `napari_peftsam.models.build`.
        """
        with self._lock:
            self._loads += 1
            load = self._loads
        model = build(source, pick_device(device), precision=precision)
        with self._lock:
            if load != self._loads:
                return model
            engine = Engine(model, self._store)
            adapters = self._timelines.get(model.weights_hash)
            if adapters is None:
                adapters = stored_adapters(self.document, model.weights_hash, str(source))
            engine.use(adapters.live.adapter, adapters.strength)
            self._engine, self._source, self.adapters = engine, str(source), adapters
            self._timelines[model.weights_hash] = adapters
            save_live(self.document, adapters, str(source))
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
        entry = self.adapters[name]
        return self._go_live(entry.adapter, lambda: entry, strength)

    def _go_live(
        self,
        adapter: Adapter | None,
        list_it: Callable[[], AdapterEntry],
        strength: float = 1.0,
    ) -> AdapterEntry:
        """Swap the adapter in and then list it, for it may be refused."""
        with self._lock:
            self.engine.use(adapter, strength)
            entry = self.adapters.set_live(list_it().name, strength)
            try:
                store_adapter(self.document, self.engine.model.weights_hash, entry)
                save_live(self.document, self.adapters, self._source)
            finally:  # one that cannot be saved is live all the same, and can be exported
                self.events.adapters_changed.emit()
        return entry

    def load_adapter(self, path: Path) -> AdapterEntry:
        """Read an adapter file, add it to the list and make it live.

        Raises
        ------
        InputFileError, AdapterMismatchError
            If the file is missing or damaged, or belongs to another base; nothing changes.
        """
        adapter = load_adapter(path)
        return self._go_live(adapter, lambda: self.adapters.add_file(path, adapter))

    def save_adapter(self, name: str, path: Path) -> Path:
        """Write an adapter of the list to one self-describing file."""
        entry = self.adapters[name]
        if entry.adapter is None:
            raise ConfigurationError("the base model has no adapter to save: finetune it first")
        save_adapter(entry.adapter, path)
        return path

    def export_model(self, name: str, path: Path) -> Path:
        """Write a plain SAM checkpoint with an adapter of the list merged in; slow.

        The live adapter is merged in at the strength it has.
        """
        with self._lock:
            strength = self.adapters.strength if name == self.adapters.live.name else 1.0
            adapter, model = self.adapters[name].adapter, self.engine.bare_copy()
        return export_model(model, adapter, path, strength)

    # --- prompting -------------------------------------------------------------------

    def embedding(self, plane: PlaneKey) -> PlaneEmbedding | None:
        """Return the embedding of a plane under the live adapter if it is known.

        That of a large plane always is, see `Engine.embedding`.
        """
        return self.engine.embedding(self.document.pixels(plane), plane.image)

    def embed(self, plane: PlaneKey, visible: Window | None = None) -> Iterator[EmbedEvent]:
        """Embed a plane under the live adapter; slow, closeable between encoder blocks.

        Of a large plane, the tiles in the window `visible`, see `Engine.embed`. The document
        is read now, the rest happens while iterating, in any thread.
        """
        return self._planes.embed(self.engine, plane, self.document.image(plane.image), visible)

    def reload(self, near: PlaneKey) -> Iterator[EmbedEvent]:
        """Embed what was embedded before the live adapter went live; planes near `near` first.

        As `embed`; what was embedded is known since the workspace was made.
        """
        return self._planes.reload(self.engine, self.document.images, near)

    def predict(
        self,
        embedding: PlaneEmbedding,
        prompts: Prompts,
        previous: Earlier | None = None,
    ) -> Prediction | None:
        """Return the candidates of one object; None if another adapter is live by now."""
        return self.engine.predict(embedding, prompts, previous)

    def prompt(self) -> Prediction:
        """Answer the pending prompts at once, embedding first if need be; slow.

        What scripts and the command line use; docks do the same in steps.
        """
        current = self.document.current
        if current is None:
            raise ConfigurationError("there is no prompt: add a point or a box first")
        embedding = self._embedded(current.plane)
        version = self.model_version(embedding)
        previous = current.previous_for(version)
        prediction = self.predict(embedding, current.prompts, previous)
        assert prediction is not None  # nothing swaps adapters meanwhile in one thread
        self.document.set_candidates(prediction, current.revision, version)
        return prediction

    def model_version(self, embedding: PlaneEmbedding) -> ModelVersion:
        """Return what answers prompts on this embedding at present, for the record."""
        key, engine = embedding.key, self.engine
        weakened = "" if engine.strength == 1 else f"@{engine.strength:g}"
        name = f"{self.adapters.live.name}{weakened}"
        return ModelVersion(engine.model.name, name, key.model, key, engine.adapter)

    def _embedded(self, plane: PlaneKey) -> PlaneEmbedding:
        known = self.embedding(plane)
        if known is not None:
            return known
        for event in self.embed(plane):
            if isinstance(event, EncodeFailed):
                raise event.error
        embedding = self.embedding(plane)
        assert embedding is not None
        return embedding

    def accept(self, overlap: Overlap = "keep") -> int:
        """Accept the shown candidate with model and adapter on record; return its label."""
        label: int = self.document.do(Accept(overlap))
        return label

    # --- finetuning ------------------------------------------------------------------

    def prepare_training(self, config: TrainingConfig) -> Callable[[], TrainingJob]:
        """Take note of all objects as they are now, for a finetuning run.

        The run goes on from the live adapter if that has the same method and options;
        either way it is judged against the live one.

        Returns
        -------
        callable
            Gives everything that the run needs, picklable, for another process. It reads
            images, so it is slow; call it in any thread.
        """
        live, strength = self.adapters.live.adapter, self.adapters.strength
        source, model = self._source, self.engine.model
        annotated = tuple(annotated_planes(self.document, self.engine))
        return lambda: TrainingJob(
            source=source,
            device=str(model.device),
            planes=tuple(part for plane in annotated for part in plane.read()),
            config=config,
            start=live if live is not None and live.config == config.method else None,
            incumbent=None if live is None else Incumbent(live, strength),
            precision=model.precision,
        )

    def train(
        self, job: TrainingJob, stop: Callable[[], bool] = lambda: False
    ) -> Generator[TrainEvent, None, TrainingReport]:
        """Train in this process, on a copy of the model; slow.

        The live model goes on answering. Hand the report to `promote`.
        """
        return finetune(
            self.engine.bare_copy(), job.planes, job.config,
            start=job.start, incumbent=job.incumbent, stop=stop,
        )  # fmt: skip

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
        """Make a trained adapter live if it beats the one that was live before the training.

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
                entry = self._go_live(adapter, lambda: self.adapters.add_version(adapter, iou))
            store_run(self.document, report, entry, curve)
        return entry

    # --- export ----------------------------------------------------------------------

    def export_labels(self, image: ImageId, path: Path, format_name: str | None = None) -> Path:
        """Write the labels of an image with their provenance, see `napari_peftsam.export`.

        A file that an image of the document comes from is never replaced (`ExportError`).
        """
        target = path if format_name is None else export_target(path, format_name)
        check_not_a_source(self.document, target, self.document.store.path)
        annotated = self.document.image(image)
        records = tuple(record.to_dict() for record in self.document.records(image))
        pixels = None if annotated.pixels is None else np.asarray(annotated.pixels)
        context = ExportContext(image_name=annotated.name, pixels=pixels, records=records)
        return export_labels(annotated.labels, path, format_name, context)
