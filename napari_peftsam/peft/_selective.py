"""Methods that train some of the encoder's own weights and add none."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from napari_peftsam.peft._protocol import PeftMethod
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["SelectiveMethod"]

_BLOCKS = "image_encoder.blocks."


PlacedT = TypeVar("PlacedT", bound=PlacedConfig)


class SelectiveMethod(PeftMethod[PlacedT]):
    """Base of the selective methods; each says which weights of a block it trains."""

    @abstractmethod
    def selects(self, name: str) -> bool:
        """Return whether a parameter is trained; `name` is within its block: ``attn.qkv.bias``."""

    def install(self, surgery: Surgery, config: PlacedT) -> None:
        """Make the chosen weights of the chosen blocks trainable."""
        blocks = {str(block) for block in config.placement.blocks(surgery.depth)}

        def chosen(path: str) -> bool:
            block, _, name = path.removeprefix(_BLOCKS).partition(".")
            return path.startswith(_BLOCKS) and block in blocks and self.selects(name)

        surgery.tune(chosen)
