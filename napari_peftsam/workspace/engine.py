"""The live model: embeds and predicts from several threads, swaps adapters safely."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from napari_peftsam.embeddings import (
    BASE_ADAPTER,
    Embedding,
    EmbeddingKey,
    EmbeddingStore,
    Encoded,
    EncodeEvent,
    EncodeRequest,
    embedding_key,
    encode,
)
from napari_peftsam.models import SamModel
from napari_peftsam.peft import Adapter, Injection, apply_adapter
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import FloatArray, PixelArray, Prediction, Prompts

__all__ = ["Engine"]

_IN_MEMORY = 16  # embeddings kept beside the store; 4 MB each for the large models


class _AdapterSwappedError(Exception):
    """Another adapter is live than the one an encoding began with."""


class Engine:
    """One model with its live adapter, its embeddings and its predictor.

    All methods may be called from any thread. Work on the network is done in short
    turns under one lock, so that a prompt waits for one block of a running encoding at
    most, and a swap of the adapter never meets a half-finished one.
    """

    def __init__(self, model: SamModel, store: EmbeddingStore | None = None) -> None:
        self.model = model
        self.store = store
        self._predictor = Predictor(model)
        self._lock = threading.RLock()
        self._injection: Injection | None = None
        self._live: Adapter | None = None
        self._recent: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._recent_lock = threading.Lock()  # held briefly, so that nobody waits for the network

    @property
    def adapter(self) -> str:
        """Content hash of the live adapter, ``"base"`` without one."""
        return BASE_ADAPTER if self._live is None else self._live.digest

    def use(self, adapter: Adapter | None) -> None:
        """Make an adapter live (None: the bare base model).

        If it does not fit, the one that was live stays so. Encodings under way end
        without a result.

        Raises
        ------
        AdapterMismatchError
            If the adapter belongs to another base or is damaged.
        """
        with self._lock:
            before = self._live
            self._swap(None)
            try:
                self._swap(adapter)
            except BaseException:
                self._swap(before)
                raise

    def _swap(self, adapter: Adapter | None) -> None:
        if self._injection is not None:
            self._injection.remove()
            self._injection = None
        if adapter is not None:
            self._injection = apply_adapter(self.model, adapter)
        self._live = adapter

    def embedding(self, pixels: PixelArray) -> Embedding | None:
        """Return the embedding of an image plane if it is known, from memory or the store."""
        key = embedding_key(self.model, pixels, self.adapter)
        found = self._recent.get(key)
        if found is None and self.store is not None:
            found = self.store.get(key)
            if found is not None:
                self._remember(found)
        return found

    def embed(self, name: str, pixels: PixelArray) -> Iterator[EncodeEvent]:
        """Embed one image plane, see `napari_peftsam.embeddings.encode`.

        Ends early, without `Encoded`, when the adapter is swapped before the last step.
        """
        adapter = self.adapter
        known = self._recent.get(embedding_key(self.model, pixels, adapter))
        if known is not None:
            yield Encoded(name, known, from_store=True)
            return
        request = EncodeRequest(name, pixels)
        events = encode(self.model, [request], self.store, adapter, lambda: self._turn(adapter))
        try:
            for event in events:
                if isinstance(event, Encoded):
                    self._remember(event.embedding)
                yield event
        except _AdapterSwappedError:
            return
        finally:
            events.close()  # type: ignore[attr-defined]  # encode is a generator

    @contextmanager
    def _turn(self, adapter: str) -> Iterator[None]:
        """Hold the network for one step with this adapter."""
        with self._lock:
            if self.adapter != adapter:
                raise _AdapterSwappedError
            yield

    def predict(
        self, embedding: Embedding, prompts: Prompts, previous: FloatArray | None = None
    ) -> Prediction | None:
        """Predict one object's candidates; None if the embedding's adapter is live no more."""
        with self._lock:
            if embedding.key.adapter != self.adapter:
                return None
            return self._predictor.predict(embedding, prompts, previous)

    def predict_many(self, embedding: Embedding, prompts: list[Prompts]) -> list[Prediction] | None:
        """Predict the best mask of several objects at once; None as in `predict`."""
        with self._lock:
            if embedding.key.adapter != self.adapter:
                return None
            return self._predictor.predict_many(embedding, prompts, candidates=1)

    def bare_copy(self) -> SamModel:
        """Return an independent copy of the base model without adapter, e.g. to train."""
        with self._lock:
            if self._injection is None:
                return copy.deepcopy(self.model)
            with self._injection.disabled():
                duplicate = copy.deepcopy(self.model)
        return duplicate

    def _remember(self, embedding: Embedding) -> None:
        with self._recent_lock:
            self._recent[embedding.key] = embedding
            self._recent.move_to_end(embedding.key)
            while len(self._recent) > _IN_MEMORY:
                self._recent.popitem(last=False)
