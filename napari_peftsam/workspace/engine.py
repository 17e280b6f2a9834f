"""The live model: embeds and predicts from several threads, swaps adapters safely."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from napari_peftsam.embeddings import (
    BASE_ADAPTER,
    ActivationCache,
    Embedding,
    EmbeddingKey,
    EmbeddingStore,
    Encoded,
    EncodeEvent,
    EncodeRequest,
    Prefixes,
    embedding_key,
    encode,
)
from napari_peftsam.models import SamModel
from napari_peftsam.peft import Adapter, AdapterSwitch, Placement, first_changed_block
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import FloatArray, PixelArray, Prediction, Prompts
from napari_peftsam.workspace._turns import Turns

__all__ = ["IN_MEMORY", "Engine"]

IN_MEMORY = 16
"""Embeddings kept beside the store; 4 MB each for the large models."""

_TOKEN_BYTES = 256 * 1000**2  # of prefixes in memory, beside the store
_RECOMMENDED = ("late-50%", "late-25%")


class _AdapterSwappedError(Exception):
    """Another adapter is live than the one an encoding began with."""


class Engine:
    """One model with its live adapter, its embeddings and its predictor.

    All methods may be called from any thread. Work on the network is done in short
    turns, so that a prompt waits for one block of a running encoding at most, and a swap
    of the adapter never meets a half-finished one.
    """

    def __init__(self, model: SamModel, store: EmbeddingStore | None = None) -> None:
        self.model = model
        self.store = store
        self._predictor = Predictor(model)
        self._turns = Turns()
        self._switch = AdapterSwitch(model)
        # Adapters are not known yet when most images are embedded: the recommended placements are.
        self._kept = tuple(Placement(p).blocks(model.architecture.depth)[0] for p in _RECOMMENDED)
        entries = None if store is None else store.entries
        self._tokens = ActivationCache(_TOKEN_BYTES, entries, write_through=True)
        self._recent: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._recent_lock = threading.Lock()  # held briefly, so that nobody waits for the network

    @property
    def adapter(self) -> str:
        """Content hash of the live adapter, ``"base"`` without one.

        Below full strength, that follows it: ``"<hash>@0.5"``.
        """
        live, strength = self._switch.live, self._switch.strength
        if live is None or strength == 0:
            return BASE_ADAPTER
        return live.digest if strength == 1 else f"{live.digest}@{strength!r}"

    @property
    def strength(self) -> float:
        """Factor on the live adapter's changes; 1 for the base model."""
        return self._switch.strength

    @property
    def encoder_adapter(self) -> str:
        """What addresses embeddings: as `adapter`, or the base's where the encoder is that."""
        live = self._switch.live
        return self.adapter if live is not None and live.changes_embeddings else BASE_ADAPTER

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

    def embedding(self, pixels: PixelArray) -> Embedding | None:
        """Return the embedding of an image plane if it is known, from memory or the store."""
        key = embedding_key(self.model, pixels, self.encoder_adapter)
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
        adapter = self.encoder_adapter
        known = self._recent.get(embedding_key(self.model, pixels, adapter))
        if known is not None:
            yield Encoded(name, known, from_store=True)
            return
        request = EncodeRequest(name, pixels)
        events = encode(
            self.model,
            [request],
            self.store,
            adapter,
            lambda: self._turn(adapter),
            self._prefixes(),
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

    def _prefixes(self) -> Prefixes | None:
        """Return where an encoding with the live adapter may begin, and what it keeps."""
        arch, live = self.model.architecture, self._switch.live
        if not arch.adaptable:
            return None
        if live is None or self.encoder_adapter == BASE_ADAPTER:
            return Prefixes(self._tokens, arch.depth, self._kept)
        reach = first_changed_block(live.config, arch.depth)
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
        embedding: Embedding,
        prompts: Prompts,
        previous: FloatArray | None = None,
        *,
        adapter: str | None = None,
    ) -> Prediction | None:
        """Predict one object's candidates.

        None if the embedding's adapter is live no more, nor the `adapter` whose answer is
        asked for (as the property has it), which may differ in the mask decoder alone.
        """
        with self._turns.urgent():
            if not self._answers(embedding, adapter):
                return None
            return self._predictor.predict(embedding, prompts, previous)

    def predict_many(
        self, embedding: Embedding, prompts: list[Prompts], *, adapter: str | None = None
    ) -> list[Prediction] | None:
        """Predict the best mask of several objects at once; None as in `predict`."""
        with self._turns.urgent():
            if not self._answers(embedding, adapter):
                return None
            return self._predictor.predict_many(embedding, prompts, candidates=1)

    def _answers(self, embedding: Embedding, adapter: str | None) -> bool:
        same = embedding.key.adapter == self.encoder_adapter
        return same and adapter in (None, self.adapter)

    def bare_copy(self) -> SamModel:
        """Return an independent copy of the base model without adapter, e.g. to train."""
        with self._turns.urgent():
            injection = self._switch.injection
            if injection is None:
                return copy.deepcopy(self.model)
            with injection.disabled():
                return copy.deepcopy(self.model)

    def _remember(self, embedding: Embedding) -> None:
        with self._recent_lock:
            self._recent[embedding.key] = embedding
            self._recent.move_to_end(embedding.key)
            while len(self._recent) > IN_MEMORY:
                self._recent.popitem(last=False)
