"""Image encoding as a stream of events that can be watched and stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import torch

from napari_peftsam.embeddings.activations import FrozenActivations
from napari_peftsam.embeddings.store import (
    BASE_ADAPTER,
    Embedding,
    EmbeddingStore,
    embedding_key,
)
from napari_peftsam.errors import CheckpointError, ExportError, ImageError, PeftSamError
from napari_peftsam.models import SamModel, encode_steps, frame_of, to_model_input
from napari_peftsam.models.memory import is_out_of_memory
from napari_peftsam.models.orientations import ORIENTATIONS, turned
from napari_peftsam.normalisation import Limits
from napari_peftsam.types import FloatArray, PixelArray

__all__ = [
    "EncodeEvent",
    "EncodeFailed",
    "EncodeProgress",
    "EncodeRequest",
    "EncodeStarted",
    "Encoded",
    "encode",
    "encode_one",
]

Turn = Callable[[], AbstractContextManager[None]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EncodeRequest:
    """One image plane to embed: ``(H, W)`` or ``(H, W, 3)``, and its name for messages.

    `intensity_range` is the one of the whole image if the plane is a tile of it.
    """

    name: str
    pixels: PixelArray = field(repr=False)
    intensity_range: Limits | None = None


@dataclass(frozen=True)
class EncodeStarted:
    """Image `index` (from 0) of `total` is next."""

    name: str
    index: int
    total: int


@dataclass(frozen=True)
class EncodeProgress:
    """A fraction in (0, 1] of this image is done; sent after every encoder block."""

    name: str
    fraction: float


@dataclass(frozen=True, eq=False)
class Encoded:
    """The embedding of one image, computed or stored, and whether the store keeps it."""

    name: str
    embedding: Embedding
    from_store: bool
    kept: bool = True


@dataclass(frozen=True, eq=False)
class EncodeFailed:
    """One image could not be embedded; the others go on."""

    name: str
    error: PeftSamError


EncodeEvent = EncodeStarted | EncodeProgress | Encoded | EncodeFailed


def encode(
    model: SamModel,
    requests: Iterable[EncodeRequest | Callable[[], EncodeRequest]],
    store: EmbeddingStore | None = None,
    adapter: str = BASE_ADAPTER,
    turn: Turn = nullcontext,
    frozen: FrozenActivations | None = None,
) -> Iterator[EncodeEvent]:
    """Embed images one after the other.

    Close the iterator to stop; this takes effect within one encoder block, and nothing
    is left behind. Grad mode and autocast of the caller are untouched between events.

    Parameters
    ----------
    model
        The model, with `adapter` injected.
    requests
        The images, or functions that load them one by one.
    store
        Where embeddings are looked up and kept. If it cannot be written, a warning is
        logged once and the embeddings are yielded all the same.
    adapter
        Content hash of the injected adapter, ``"base"`` if there is none.
    turn
        Returns a context for one use of the network, e.g. a shared lock; its errors end
        the encoding. Reading, normalising and storing happen outside of it.
    frozen
        Where encodings may begin, see `FrozenActivations`; what is new is put there after the
        image's `Encoded`. Not for encoders that are not adaptable.

    Yields
    ------
    EncodeEvent
        Per image an `EncodeStarted`, then `EncodeProgress` events, then one `Encoded`
        or one `EncodeFailed`.
    """
    encoding = _Encoding(model, store, adapter, turn, frozen)
    pending = tuple(requests)
    for index, each in enumerate(pending):
        try:
            request = each() if callable(each) else each
        except PeftSamError as error:
            yield EncodeFailed(f"{index + 1} of {len(pending)}", error)
            continue
        yield EncodeStarted(request.name, index, len(pending))
        try:
            yield from encoding.events(request)
        except PeftSamError as error:
            yield EncodeFailed(request.name, error)


def encode_one(
    model: SamModel,
    pixels: PixelArray,
    store: EmbeddingStore | None = None,
    adapter: str = BASE_ADAPTER,
) -> Embedding:
    """Embed one image plane; arguments as in `encode`.

    Raises
    ------
    ImageError
        If the image has a wrong shape or type, no finite value, or is constant.
    CheckpointError
        If the model answers with values that are not finite.
    """
    for event in encode(model, [EncodeRequest("image", pixels)], store, adapter):
        if isinstance(event, EncodeFailed):
            raise event.error
        if isinstance(event, Encoded):
            return event.embedding
    raise AssertionError("encode ends every image with Encoded or EncodeFailed")


@dataclass(eq=False)
class _Encoding:
    """The common part of all images of one call of `encode`."""

    model: SamModel
    store: EmbeddingStore | None
    adapter: str
    turn: Turn
    frozen: FrozenActivations | None
    warned: bool = False

    def events(self, request: EncodeRequest) -> Iterator[EncodeEvent]:
        name, pixels = request.name, request.pixels
        if np.ndim(pixels) < 2:
            raise ImageError(f"expected an image plane (H, W) or (H, W, 3), got {np.shape(pixels)}")
        key = embedding_key(self.model, pixels, self.adapter, request.intensity_range)
        stored = None if self.store is None else self.store.get(key)
        if stored is not None:
            yield EncodeProgress(name, 1.0)
            yield Encoded(name, stored, from_store=True)
            return
        picture = cache(partial(to_model_input, pixels, self.model, request.intensity_range))
        entering: dict[tuple[int, int], torch.Tensor] = {}  # what is to be kept
        embedded = []
        for done, turn in enumerate(ORIENTATIONS[: key.orientations]):
            start = (0, None) if self.frozen is None else self.frozen.latest(key, turn)
            for fraction, block, x in self._steps(picture, turn, *start):
                if fraction < 1 and self.frozen is not None and self.frozen.wants(block):
                    entering[turn, block] = x
                yield EncodeProgress(name, (done + fraction) / key.orientations)
            embedded.append(_to_array(x, self.model))
        embedding = Embedding(key, frame_of(pixels, self.model), np.concatenate(embedded))
        yield Encoded(name, embedding, from_store=False, kept=self._keep(embedding))
        for (turn, block), tokens in entering.items():  # only now: nobody waits for the disk
            assert self.frozen is not None
            self.frozen.keep(key, block, tokens, turn)

    def _keep(self, embedding: Embedding) -> bool:
        """Store an embedding; if that fails, warn once."""
        try:
            return self.store is not None and self.store.put(embedding)
        except ExportError as error:
            if not self.warned:
                _log.warning("embeddings are not kept for the next time: %s", error)
            self.warned = True
            return False

    def _steps(
        self,
        picture: Callable[[], torch.Tensor],
        turn: int,
        first: int,
        tokens: torch.Tensor | None,
    ) -> Iterator[tuple[float, int, torch.Tensor]]:
        """Run the encoder from block `first` on; yield the block that a step's result enters."""
        model = self.model
        # The modes are entered for every step anew: a generator that yields inside a
        # `with torch.inference_mode()` would leave its consumer in that mode.
        with torch.inference_mode():
            x = turned(picture(), turn) if tokens is None else tokens.to(model.device)
            steps = encode_steps(model.sam, x, first)
        block = 0 if tokens is None else first + 1
        while True:
            try:
                with self.turn(), torch.inference_mode(), model.autocast():
                    fraction, x = next(steps)
            except StopIteration:
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise PeftSamError(
                    f"not enough memory on {model.device} to embed an image with {model.name}: "
                    "close other programs, or choose a smaller model or the device 'cpu'"
                ) from error
            yield fraction, block, x
            block += 1


def _to_array(features: torch.Tensor, model: SamModel) -> FloatArray:
    array: FloatArray = np.ascontiguousarray(features[0].float().cpu().numpy())
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"the image encoder of {model.name} answers with NaN or infinite values: "
            "its weights or the adapter are damaged, use another one"
        )
    return array
