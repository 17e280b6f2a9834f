"""Methods that train some of the encoder's own weights and add none."""

from __future__ import annotations

from napari_peftsam.peft._protocol import ParameterHint
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import PlacedConfig

__all__ = ["SelectiveMethod"]

_BLOCKS = "image_encoder.blocks."


class SelectiveMethod:
    """Base of the selective methods; each says which weights of a block it trains."""

    mergeable = True
    adapts_encoder = True

    def selects(self, name: str) -> bool:
        """Return whether a parameter is trained; `name` is within its block: ``attn.qkv.bias``."""
        raise NotImplementedError

    def install(self, surgery: Surgery, config: PlacedConfig) -> None:
        """Make the chosen weights of the chosen blocks trainable."""
        blocks = {str(block) for block in config.placement.blocks(surgery.depth)}

        def chosen(path: str) -> bool:
            block, _, name = path.removeprefix(_BLOCKS).partition(".")
            return path.startswith(_BLOCKS) and block in blocks and self.selects(name)

        surgery.tune(chosen)

    def hint(self, parameter: str, config: PlacedConfig) -> ParameterHint:
        """All parameters are ordinary."""
        return ParameterHint()

    def first_changed_block(self, config: PlacedConfig, depth: int) -> int:
        """Return the first chosen block."""
        return config.placement.blocks(depth)[0]
