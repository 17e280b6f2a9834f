"""The live model: embeds and predicts from several threads, swaps adapters safely."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from napari_peftsam.app._turns import Turns
from napari_peftsam.embeddings import (
    BASE_ADAPTER,
    ActivationCache,
    Embedding,
    EmbeddingKey,
    EmbeddingStore,
    EmbedEvent,
    Encoded,
    EncodeEvent,
    EncodeFailed,
    EncodeRequest,
    EncodeStarted,
    Prefixes,
    Tile,
    TiledEmbedding,
    TiledImage,
    TileRequests,
    TilesReady,
    embedding_key,
    encode,
    is_large,
    tiled_image,
)
from napari_peftsam.errors import ImageError
from napari_peftsam.models import SamModel
from napari_peftsam.peft import Adapter, AdapterSwitch, Placement, first_changed_block
from napari_peftsam.planes import is_same, read_plane
from napari_peftsam.segmentation import Predictor, WantedTile, predict_in_tiles
from napari_peftsam.types import Earlier, Plane, Prediction, Prompts, Window

__all__ = ["IN_MEMORY", "Engine", "Predicted"]

IN_MEMORY = 16
"""Embeddings kept beside the store; 4 MB each for the large models."""

_TOKEN_BYTES = 256 * 1000**2  # of prefixes in memory, beside the store
_RECOMMENDED = ("late-50%", "late-25%")
_MOST_VISIBLE = 9  # tiles embedded before anybody asks; a view of more is an overview
_TILED_IN_MEMORY = 8  # large images whose intensity limits are remembered


class _AdapterSwappedError(Exception):
    """Another adapter is live than the one an encoding began with."""


@dataclass(frozen=True, eq=False)
class _Live:
    """What is live, in one piece: whoever needs several of these takes them from one moment.

    Attributes
    ----------
    adapter, strength
        As the switch has them.
    """

    adapter: Adapter | None
    strength: float

    @property
    def name(self) -> str:
        """See `Engine.adapter`."""
        if self.adapter is None or self.strength == 0:
            return BASE_ADAPTER
        digest = self.adapter.digest
        return digest if self.strength == 1 else f"{digest}@{self.strength!r}"

    @property
    def encoder(self) -> str:
        """See `Engine.encoder_adapter`."""
        changes = self.adapter is not None and self.adapter.changes_embeddings
        return self.name if changes else BASE_ADAPTER


@dataclass(frozen=True, eq=False)
class Predicted:
    """The answer to prompts in a large image; None as in `Engine.predict`."""

    prediction: Prediction | None


class Engine:
    """One model with its live adapter, its embeddings and its predictor.

    All methods may be called from any thread. Work on the network is done in short
    turns, so that a prompt waits for one block of a running encoding at most, and a swap
    of the adapter never meets a half-finished one.

    Attributes
    ----------
    model
        The network.
    store
        Where embeddings are kept beside the latest ones, which are in memory.
    keeps_prefixes
        Whether what the first blocks computed of images, not of tiles, is kept, too, and
        used: the next adapter's embedding is then faster, and the same.
    """

    def __init__(self, model: SamModel, store: EmbeddingStore | None = None) -> None:
        self.model = model
        self.store = store
        self.keeps_prefixes = True
        self._predictor = Predictor(model)
        self._turns = Turns()
        self._switch = AdapterSwitch(model)  # used in turns only, others read `_live`
        self._live = _Live(None, 1.0)
        # Adapters are not known yet when most images are embedded: the recommended placements are.
        self._kept = tuple(Placement(p).blocks(model.architecture.depth)[0] for p in _RECOMMENDED)
        entries = None if store is None else store.entries
        self._tokens = ActivationCache(_TOKEN_BYTES, entries, write_through=True)
        self._recent: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._tiled: deque[TiledImage] = deque(maxlen=_TILED_IN_MEMORY)
        self._recent_lock = threading.Lock()  # held briefly, so that nobody waits for the network

    @property
    def adapter(self) -> str:
        """Content hash of the live adapter, ``"base"`` without one.

        Below full strength, that follows it: ``"<hash>@0.5"``.
        """
        return self._live.name

    @property
    def strength(self) -> float:
        """Factor on the live adapter's changes; 1 for the base model."""
        return self._live.strength

    @property
    def encoder_adapter(self) -> str:
        """What addresses embeddings: as `adapter`, or the base's where the encoder is that."""
        return self._live.encoder

    def use(self, adapter: Adapter | None, strength: float = 1.0) -> None:
        """Make an adapter live (None: the bare base model).

        If it does not fit, the one that was live stays so. Encodings under way end
        without a result if the encoder is another now.

        Parameters
        ----------
        adapter
            Made for this model.
        strength
            Factor on its changes, see `napari_peftsam.peft.AdapterSwitch.use`.

        Raises
        ------
        AdapterMismatchError
            If the adapter belongs to another base or is damaged.
        ConfigurationError
            If it cannot be weakened.
        """
        with self._turns.urgent():
            self._switch.use(adapter, strength)
            self._live = _Live(self._switch.live, self._switch.strength)

    def embedding(self, plane: Plane, name: str = "image") -> Embedding | TiledEmbedding | None:
        """Return the embedding of an image plane if it is known, from memory or the store.

        A plane that is worked on in tiles (see `napari_peftsam.embeddings.is_large`) always
        has one: its tiles are embedded when they are needed.
        """
        if is_large(plane.shape, self.model):
            return self.tiled(plane, name).embedding(self.model, self.encoder_adapter)
        key = embedding_key(self.model, read_plane(plane, name), self.encoder_adapter)
        found = self._recall(key)
        if found is None and self.store is not None:
            found = self.store.get(key)
            if found is not None:
                self._remember(found)
        return found

    def tiled(self, plane: Plane, name: str = "image") -> TiledImage:
        """Return a large plane in tiles; one that was asked for lately is recognised.

        Its intensity limits are found once, until `forget`.
        """
        with self._recent_lock:
            for known in self._tiled:
                if is_same(known.plane, plane):
                    return known
            image = tiled_image(name, plane, self.model)
            self._tiled.append(image)
        return image

    def forget(self, name: str) -> None:
        """Let go of the large planes called `name`: the image is gone or has other pixels."""
        with self._recent_lock:
            kept = [image for image in self._tiled if image.name != name]
            self._tiled = deque(kept, maxlen=_TILED_IN_MEMORY)

    def embed(self, name: str, plane: Plane, visible: Window | None = None) -> Iterator[EmbedEvent]:
        """Embed one image plane, see `napari_peftsam.embeddings.encode`.

        A large one is ready for prompts at once (`TilesReady`); the tiles in the window
        `visible` are embedded then, unless there are many. Ends early, without `Encoded`,
        when the adapter is swapped before the last step.
        """
        live = self._live
        if not is_large(plane.shape, self.model):
            try:
                request = EncodeRequest(name, read_plane(plane, name))
            except ImageError as error:
                yield EncodeFailed(name, error)
                return
            yield from self._embed([request], live, self._prefixes(live))
            return
        image = self.tiled(plane, name)
        yield TilesReady(name, image.embedding(self.model, live.encoder))
        count = 0 if visible is None else len(image.grid.tiles_in(visible))
        if 0 < count <= _MOST_VISIBLE:  # from the middle of the view outwards
            yield from self._embed(TileRequests(image, image.grid.ordered(visible)[:count]), live)

    def embed_tiles(
        self, image: TiledImage, tiles: Sequence[Tile] | None = None
    ) -> Iterator[EncodeEvent]:
        """Embed tiles of a large image into the store, one after the other.

        What is stored already is passed over, so an interrupted run goes on where it was.

        Parameters
        ----------
        tiles
            Which, in this order; default: all. See `napari_peftsam.embeddings.TileGrid`.
        """
        yield from self._embed(TileRequests(image, tiles), self._live)

    def _embed(
        self, requests: Sequence[EncodeRequest], live: _Live, prefixes: Prefixes | None = None
    ) -> Iterator[EncodeEvent]:
        """Embed with what was live at one moment, as long as it is.

        Of tiles no prefixes are kept: they take several times an embedding's space, and a
        reload passes tiles over.
        """
        adapter = live.encoder
        if len(requests) == 1:
            try:
                requests = [request] = list(requests)  # a tile is read once
            except ImageError as error:
                yield EncodeFailed("", error)
                return
            key = embedding_key(self.model, request.pixels, adapter, request.limits)
            known = self._recall(key)
            if known is not None:
                yield Encoded(request.name, known, from_store=True)
                return
        events = encode(
            self.model, requests, self.store, adapter, lambda: self._turn(adapter), prefixes
        )
        try:
            for event in events:
                if isinstance(event, Encoded):
                    self._remember(event.embedding)
                yield event
        except _AdapterSwappedError:
            return
        finally:
            events.close()  # type: ignore[attr-defined]  # encode is a generator

    def _prefixes(self, live: _Live) -> Prefixes | None:
        """Return where an encoding with the live adapter may begin, and what it keeps."""
        arch = self.model.architecture
        if not self.keeps_prefixes or not arch.adaptable:
            return None
        if live.adapter is None or live.encoder == BASE_ADAPTER:
            return Prefixes(self._tokens, arch.depth, self._kept)
        reach = first_changed_block(live.adapter.config, arch.depth)
        return Prefixes(self._tokens, reach, (*self._kept, reach))

    @contextmanager
    def _turn(self, adapter: str) -> Iterator[None]:
        """Hold the network for one step with this adapter."""
        with self._turns.patient():
            if self.encoder_adapter != adapter:
                raise _AdapterSwappedError
            yield

    def predict(
        self,
        embedding: Embedding | TiledEmbedding,
        prompts: Prompts,
        previous: Earlier | None = None,
        *,
        adapter: str | None = None,
    ) -> Prediction | None:
        """Predict one object's candidates; slow where tiles must be embedded first.

        None if the embedding's adapter is live no more, nor the `adapter` whose answer is
        asked for (as the property has it), which may differ in the mask decoder alone.
        """
        if isinstance(embedding, TiledEmbedding):
            for event in self.predict_tiles(embedding, prompts, previous, adapter=adapter):
                if isinstance(event, Predicted):
                    return event.prediction
        assert isinstance(embedding, Embedding)
        with self._turns.urgent():
            if not self._answers(embedding, adapter):
                return None
            logits = None if previous is None else previous.logits
            return self._predictor.predict(embedding, prompts, logits)

    def predict_tiles(
        self,
        embedding: TiledEmbedding,
        prompts: Prompts,
        previous: Earlier | None = None,
        *,
        adapter: str | None = None,
    ) -> Iterator[EncodeEvent | Predicted]:
        """Predict one object of a large image, embedding the tiles it needs on the way.

        See `napari_peftsam.segmentation.predict_in_tiles`. Closeable; the last event is
        `Predicted`. An `EncodeStarted` says which tile of how many known so far is next.

        Raises
        ------
        PromptError, ImageError, CheckpointError
            If the prompts, a tile or the model cannot be used.
        """
        work = predict_in_tiles(self._predictor, embedding.image.grid, prompts, previous)
        found: Embedding | None = None
        while True:
            with self._turns.urgent():  # nothing is yielded within
                live = self._live
                wanted = self._next_tile(work, found) if self._answers(embedding, adapter) else None
            if isinstance(wanted, Prediction):
                yield Predicted(wanted)
                return
            if wanted is None:
                break
            found = None
            for event in self._embed(TileRequests(embedding.image, [wanted.tile]), live):
                if isinstance(event, EncodeFailed):
                    raise event.error
                if isinstance(event, EncodeStarted):
                    yield EncodeStarted(event.name, wanted.index, wanted.total)
                    continue
                found = event.embedding if isinstance(event, Encoded) else None
                yield event
            if found is None:  # the adapter was swapped
                break
        yield Predicted(None)

    @staticmethod
    def _next_tile(
        work: Generator[WantedTile, Embedding, Prediction], found: Embedding | None
    ) -> WantedTile | Prediction:
        try:
            return next(work) if found is None else work.send(found)
        except StopIteration as done:
            prediction: Prediction = done.value
            return prediction

    def predict_many(
        self,
        embedding: Embedding | TiledEmbedding,
        prompts: list[Prompts],
        *,
        adapter: str | None = None,
    ) -> list[Prediction] | None:
        """Predict the best mask of several objects at once; None as in `predict`."""
        if isinstance(embedding, TiledEmbedding):
            each = [self.predict(embedding, one, adapter=adapter) for one in prompts]
            answers = [one for one in each if one is not None]
            return answers if len(answers) == len(prompts) else None
        with self._turns.urgent():
            if not self._answers(embedding, adapter):
                return None
            return self._predictor.predict_many(embedding, prompts, candidates=1)

    def _answers(self, embedding: Embedding | TiledEmbedding, adapter: str | None) -> bool:
        live = self._live
        return embedding.key.adapter == live.encoder and adapter in (None, live.name)

    def bare_copy(self) -> SamModel:
        """Return an independent copy of the base model without adapter, e.g. to train."""
        with self._turns.urgent():
            injection = self._switch.injection
            if injection is None:
                return copy.deepcopy(self.model)
            with injection.disabled():
                return copy.deepcopy(self.model)

    def _recall(self, key: EmbeddingKey) -> Embedding | None:
        with self._recent_lock:
            found = self._recent.get(key)
            if found is not None:
                self._recent.move_to_end(key)
        return found

    def _remember(self, embedding: Embedding) -> None:
        with self._recent_lock:
            self._recent[embedding.key] = embedding
            self._recent.move_to_end(embedding.key)
            while len(self._recent) > IN_MEMORY:
                self._recent.popitem(last=False)
