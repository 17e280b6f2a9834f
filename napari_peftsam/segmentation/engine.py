"""The live model: embedding, prediction and adapter swaps from several threads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from napari_peftsam.document import ModelVersion
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
    FrozenActivations,
    PlaneEmbedding,
    PlaneReady,
    Tile,
    TiledImage,
    embedding_key,
    encode,
    tiled_image,
)
from napari_peftsam.errors import ImageError
from napari_peftsam.lru import Recent
from napari_peftsam.models import SamModel
from napari_peftsam.peft import Adapter, AdapterSwitch, Placement, dense_head_of
from napari_peftsam.planes import plane_identity
from napari_peftsam.segmentation.automatic import TileProposals, propose_in_tiles
from napari_peftsam.segmentation.crops import Crop
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.segmentation.region_labels import logits_in_pixels
from napari_peftsam.segmentation.tiled import WantedTile, predict_in_tiles, predict_many_in_tiles
from napari_peftsam.segmentation.turns import Turns
from napari_peftsam.types import (
    BoolArray,
    FloatArray,
    MaskPrompt,
    Plane,
    Prediction,
    Prompts,
    Window,
)

IN_MEMORY = 16
"""Embeddings kept beside the store; 4 MB each for the large models."""

_TOKEN_BYTES = 256 * 1000**2  # of frozen-block activations in memory, beside the store
_RECOMMENDED = ("late-50%", "late-25%")
_MOST_VISIBLE = 9  # tiles embedded before anybody asks; a view of more is an overview
_TILED_IN_MEMORY = 8  # large images whose intensity range is remembered

R = TypeVar("R")
Event = TypeVar("Event")


class _AdapterSwappedError(Exception):
    """The live adapter changed after an encoding began."""


@dataclass(frozen=True, eq=False)
class LiveAdapter:
    """The adapter that answers prompts at one moment; by default the bare base model.

    Attributes
    ----------
    name
        The name it is listed under.
    adapter
        None for the base model.
    strength
        Factor on its changes, from 0 to 1; 1 for the base model.
    """

    name: str = BASE_ADAPTER
    adapter: Adapter | None = None
    strength: float = 1.0

    @property
    def label(self) -> str:
        """The name, and a strength below 1: ``v1@0.5``."""
        return self.name if self.strength == 1 else f"{self.name}@{self.strength:g}"

    @property
    def decoder(self) -> str:
        """Content hash (``"base"`` without an adapter), and a strength below 1: ``@0.5``."""
        if self.adapter is None or self.strength == 0:
            return BASE_ADAPTER
        digest = self.adapter.digest
        return digest if self.strength == 1 else f"{digest}@{self.strength!r}"

    @property
    def encoder(self) -> str:
        """Address of embeddings: `decoder`, or the base's if the encoder is unchanged."""
        changes = self.adapter is not None and self.adapter.changes_embeddings
        return self.decoder if changes else BASE_ADAPTER


class Engine:
    """One model with its live adapter, its embeddings and its predictor.

    All methods may be called from any thread. Work on the network is done in short
    turns, so that a prompt waits for one block of a running encoding at most, and a swap
    of the adapter never meets a half-finished one.

    Attributes
    ----------
    model
        The network.
    live
        The adapter that answers prompts now; `use` changes it.
    store
        Where embeddings are kept beside the latest ones, which are in memory.
    keeps_activations
        True to keep and use frozen-block activations of planes in one tile: the next
        adapter's embedding is then faster, and the same.
    """

    def __init__(self, model: SamModel, store: EmbeddingStore | None = None) -> None:
        self.model = model
        self.store = store
        self.keeps_activations = True
        self._predictor = Predictor(model)
        self._turns = Turns()
        self._switch = AdapterSwitch(model)  # used in turns only, others read `live`
        self.live = LiveAdapter()
        # Adapters are not known yet when most images are embedded: the recommended placements are.
        self._kept = tuple(Placement(p).blocks(model.architecture.depth)[0] for p in _RECOMMENDED)
        self._tokens = ActivationCache(_TOKEN_BYTES, store, write_through=True)
        self._recent: Recent[EmbeddingKey, Embedding] = Recent(IN_MEMORY)
        self._tiled: Recent[Hashable, TiledImage] = Recent(_TILED_IN_MEMORY)

    # --- the live adapter ------------------------------------------------------------

    def version(self, embedding: PlaneEmbedding) -> ModelVersion:
        """Return the model version that answers prompts on this embedding now."""
        key, live = embedding.key, self.live
        return ModelVersion(self.model.name, live.label, key.model, key, live.decoder)

    def use(self, adapter: Adapter | None, strength: float = 1.0, name: str = "") -> None:
        """Make an adapter live (None: the base model), see `napari_peftsam.peft.AdapterSwitch.use`.

        If it does not fit, the live one stays. Encodings under way end without a result if
        the encoder is another now. `name` is the one it is listed under.
        """
        with self._turns.urgent():
            self._switch.use(adapter, strength)
            live = LiveAdapter() if adapter is None else LiveAdapter(name, adapter, strength)
            self.live = live

    def bare_copy(self) -> SamModel:
        """Return an independent copy of the base model without adapter, e.g. to train."""
        with self._turns.urgent():
            injection = self._switch.injection
            if injection is None:
                return copy.deepcopy(self.model)
            with injection.disabled():
                return copy.deepcopy(self.model)

    # --- embedding -------------------------------------------------------------------

    def tiled(self, plane: Plane, name: str = "image") -> TiledImage:
        """Return a plane on its grid of tiles.

        Of several tiles, the common intensity range is found once, until `forget`. A single
        one is read anew each time, as its pixels may have changed.
        """
        identity = plane_identity(plane)
        image = self._tiled.get(identity)
        if image is None:
            image = tiled_image(name, plane, self.model)
            if len(image.grid) > 1:
                self._tiled.put(identity, image)
        return image

    def forget(self, name: str) -> None:
        """Drop the planes called `name`: their image was removed or its pixels changed."""
        self._tiled.discard(lambda image: image.name == name)

    def embedding(self, plane: Plane, name: str = "image") -> PlaneEmbedding | None:
        """Return the embedding of an image plane; None if its only tile is not embedded yet.

        Several are embedded when they are needed.
        """
        image = self.tiled(plane, name)
        key = image.key(self.model, self.live.encoder)
        if len(image.grid) > 1:
            return PlaneEmbedding(key, image)
        found = self._recent.get(key)
        if found is None and self.store is not None:
            found = self.store.get(key)
            if found is not None:
                self._recent.put(key, found)
        return None if found is None else PlaneEmbedding(key, image, found)

    def embed(self, name: str, plane: Plane, visible: Window | None = None) -> Iterator[EmbedEvent]:
        """Embed one image plane, see `napari_peftsam.embeddings.encode`.

        `PlaneReady` comes when the plane can be prompted: with the `Encoded` of a single
        tile; of several at once, and the tiles in the window `visible` are embedded then,
        unless there are many. Ends early when the adapter is swapped before the last step.
        """
        image, live = self.tiled(plane, name), self.live
        if len(image.grid) > 1:
            yield PlaneReady(name, PlaneEmbedding(image.key(self.model, live.encoder), image))
            count = 0 if visible is None else len(image.grid.tiles_in(visible))
            if 0 < count <= _MOST_VISIBLE:  # from the middle of the view outwards
                yield from self.embed_tiles(image, image.grid.ordered(visible)[:count], live)
            return
        for event in self.embed_tiles(image, image.grid.ordered(), live):
            if isinstance(event, Encoded):
                whole = event.embedding
                yield PlaneReady(name, PlaneEmbedding(whole.key, image, whole))
            yield event

    def embed_tiles(
        self, image: TiledImage, tiles: Sequence[Tile], live: LiveAdapter | None = None
    ) -> Iterator[EncodeEvent]:
        """Embed tiles of an image under an adapter (default: the live one), in their order.

        Stored ones are not computed again, so an interrupted run goes on where it was. Ends
        early once another adapter is live.
        """
        live = live or self.live
        adapter = live.encoder
        requests: Sequence[EncodeRequest | Callable[[], EncodeRequest]] = image.requests(tiles)
        if len(tiles) == 1:
            try:
                requests = [request := image.request(tiles[0])]  # a tile is read once
            except ImageError as error:
                yield EncodeFailed(image.name, error)
                return
            key = embedding_key(self.model, request.pixels, adapter, request.intensity_range)
            known = self._recent.get(key)
            if known is not None:
                yield Encoded(request.name, known, from_store=True)
                return
        # One of several tiles takes less time than its activations take space.
        frozen = self._frozen(live) if len(image.grid) == 1 else None
        events = encode(
            self.model, requests, self.store, adapter, lambda: self._turn(adapter), frozen
        )
        try:
            for event in events:
                if isinstance(event, Encoded):
                    self._recent.put(event.embedding.key, event.embedding)
                yield event
        except _AdapterSwappedError:
            return
        finally:
            events.close()  # type: ignore[attr-defined]  # encode is a generator

    def _frozen(self, live: LiveAdapter) -> FrozenActivations | None:
        """Return where an encoding with the live adapter may begin, and what it keeps."""
        arch = self.model.architecture
        if not self.keeps_activations or not arch.adaptable:
            return None
        if live.adapter is None or live.encoder == BASE_ADAPTER:
            return FrozenActivations(self._tokens, arch.depth, self._kept)
        reach = live.adapter.config.first_changed_block(arch.depth)
        return FrozenActivations(self._tokens, reach, (*self._kept, reach))

    @contextmanager
    def _turn(self, adapter: str) -> Iterator[None]:
        """Hold the network for one step with this adapter."""
        with self._turns.patient():
            if self.live.encoder != adapter:
                raise _AdapterSwappedError
            yield

    # --- predicting ------------------------------------------------------------------

    def predict_steps(
        self,
        embedding: PlaneEmbedding,
        prompts: Prompts,
        mask_prompt: MaskPrompt | None = None,
        *,
        adapter: str | None = None,
    ) -> Generator[EncodeEvent, None, Prediction | None]:
        """Predict one object's candidates, embedding the tiles it needs on the way.

        See `napari_peftsam.segmentation.predict_in_tiles`. Closeable. Events
        concern the tiles; `EncodeStarted` holds the number of tiles known so far. Returns
        None if the adapter of the embedding, or `adapter`, is no longer live.

        Parameters
        ----------
        adapter
            Live adapter that must answer (as `LiveAdapter.decoder`), which may differ from the
            embedding's in the mask decoder alone; default: any.

        Raises
        ------
        PromptError, ImageError, CheckpointError
            If the prompts, a tile or the model cannot be used.
        """
        work = predict_in_tiles(self._predictor, embedding.image.grid, prompts, mask_prompt)
        return (yield from self._answer(embedding, work, adapter))

    def predict_many_steps(
        self,
        embedding: PlaneEmbedding,
        prompts: Sequence[Prompts],
        *,
        adapter: str | None = None,
        crop: Crop | None = None,
    ) -> Generator[EncodeEvent, None, list[Prediction] | None]:
        """Predict the best mask of several objects; see `predict_steps`.

        With `crop`, look at the surroundings of each object only, in a plane of one tile.
        """
        work = predict_many_in_tiles(self._predictor, embedding.image.grid, prompts, crop)
        return (yield from self._answer(embedding, work, adapter))

    def _answer(
        self,
        embedding: PlaneEmbedding,
        work: Generator[WantedTile | Event, Any, R],
        adapter: str | None,
    ) -> Generator[EncodeEvent | Event, None, R | None]:
        """Give `work` the tiles that it wants; return None once another adapter is live.

        What else it yields is passed on, between turns.
        """
        found: Embedding | None = None
        while True:
            with self._turns.urgent():  # nothing is yielded within
                live = self.live
                if embedding.key.adapter != live.encoder or adapter not in {None, live.decoder}:
                    return None
                try:
                    wanted = next(work) if found is None else work.send(found)
                except StopIteration as done:
                    result: R = done.value
                    return result
            if not isinstance(wanted, WantedTile):
                yield wanted
                found = None
                continue
            found = embedding.whole or (yield from self._tile(embedding.image, wanted, live))
            if found is None:  # the adapter was swapped
                return None

    def _tile(
        self, image: TiledImage, wanted: WantedTile, live: LiveAdapter
    ) -> Generator[EncodeEvent, None, Embedding | None]:
        """Embed a tile, or find it."""
        found: Embedding | None = None
        for event in self.embed_tiles(image, [wanted.tile], live):
            if isinstance(event, EncodeFailed):
                raise event.error
            if isinstance(event, EncodeStarted):
                yield EncodeStarted(event.name, wanted.index, wanted.total)
                continue
            found = event.embedding if isinstance(event, Encoded) else None
            yield event
        return found

    def predict(
        self,
        embedding: PlaneEmbedding,
        prompts: Prompts,
        mask_prompt: MaskPrompt | None = None,
        *,
        adapter: str | None = None,
    ) -> Prediction | None:
        """Run `predict_steps` to its end; slow if tiles must be embedded first."""
        steps = self.predict_steps(embedding, prompts, mask_prompt, adapter=adapter)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return cast("Prediction | None", done.value)

    def propose_steps(
        self,
        embedding: PlaneEmbedding,
        taken: Callable[[Window], BoolArray] | None = None,
        fast: bool = False,
        part: Window | None = None,
    ) -> Generator[EncodeEvent | TileProposals, None, int | None]:
        """Propose all objects of a plane, embedding its tiles on the way.

        See `napari_peftsam.segmentation.automatic.propose_in_tiles`; None if the adapter of the
        embedding is no longer live.
        """
        head = dense_head_of(self.model, self.live.adapter)
        work = propose_in_tiles(self._predictor, embedding.image, head, taken, fast, part)
        return (yield from self._answer(embedding, work, None))

    def best_logits(
        self, embedding: PlaneEmbedding, prompts: Sequence[Prompts]
    ) -> Iterator[tuple[FloatArray, Window]]:
        """Yield the best candidate of each object; the adapter must not be swapped meanwhile.

        Its logits ``(h, w)`` in pixels, of the window in which any is above 0.
        """
        if embedding.whole is not None:
            with self._turns.urgent():
                parts = list(self._predictor.best_parts(embedding.whole, prompts))
            yield from parts
            return
        for one in prompts:
            prediction = self.predict(embedding, one)
            assert prediction is not None, "nobody swaps adapters meanwhile"
            yield logits_in_pixels(prediction.mask_prompt(0), embedding.image.grid.stride)
