"""What frozen blocks make of an image, kept so that a reload need not begin at the beginning."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from napari_peftsam.embeddings._embedding import EmbeddingKey
from napari_peftsam.embeddings.activations import ActivationCache

__all__ = ["Prefixes"]


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Tokens of images on their way through the blocks that no adapter has changed.

    The base model and all adapters that begin later share them.

    Attributes
    ----------
    cache
        Where they are kept, bit for bit: what follows from them is what follows in a full
        encoding.
    reach
        Up to here, the model's blocks are the base's: block `reach` is the first whose
        output an adapter changes, the number of blocks without an adapter.
    blocks
        The tokens that enter these blocks are worth keeping; 0 is never.
    """

    cache: ActivationCache = field(repr=False)
    reach: int
    blocks: tuple[int, ...]

    def latest(self, key: EmbeddingKey) -> tuple[int, Tensor | None]:
        """Return the last block that an image's encoding may begin at, and what enters it.

        Block 0 and None if nothing is kept of the image.
        """
        for block in sorted(self.blocks, reverse=True):
            tokens = self.cache.get(_address(key, block)) if 0 < block <= self.reach else None
            if tokens is not None:
                return block, tokens.permute(0, 2, 3, 1)
        return 0, None

    def wants(self, block: int) -> bool:
        """Whether the tokens that enter a block are to be kept."""
        return 0 < block <= self.reach and block in self.blocks

    def keep(self, key: EmbeddingKey, block: int, tokens: Tensor) -> None:
        """Keep the tokens ``(1, h, w, width)`` of an image that enter a block."""
        address = _address(key, block)
        if address not in self.cache:
            # Channels first, as the convolution that made the tokens left them in memory:
            # in another layout the next layers would add up in another order.
            self.cache.put(address, tokens.permute(0, 3, 1, 2))


def _address(key: EmbeddingKey, block: int) -> str:
    # Everything an embedding depends on but the adapter; no adapter has such a name.
    return replace(key, adapter=f"exact tokens entering block {block}").digest
