"""Methods that train some of the network's own weights and add none.

Bias tuning is BitFit (Ben Zaken et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from napari_peftsam.peft.placement import Placement, PlacementField
from napari_peftsam.peft.protocol import MethodConfig, ParameterHint, PeftMethod, PlacedConfig
from napari_peftsam.peft.surgery import Surgery

__all__ = [
    "SELECTIVE_METHODS",
    "FrozenEncoderConfig",
    "LateFinetuningConfig",
]

_BLOCKS = "image_encoder.blocks."


class _AttentionTuningConfig(PlacedConfig):
    """Options of attention tuning."""

    method: Literal["attention-tuning"] = "attention-tuning"


class _BiasTuningConfig(PlacedConfig):
    """Options of bias tuning."""

    method: Literal["bias-tuning"] = "bias-tuning"


class _LayerNormTuningConfig(PlacedConfig):
    """Options of LayerNorm tuning."""

    method: Literal["layernorm-tuning"] = "layernorm-tuning"


class LateFinetuningConfig(PlacedConfig):
    """Options of late finetuning."""

    method: Literal["late-finetuning"] = "late-finetuning"
    placement: PlacementField = Field(
        default=Placement("late-50%"),
        title="Placement",
        description="Blocks of the encoder to train as a whole, as in the other methods.",
    )


class FrozenEncoderConfig(MethodConfig):
    """Options of the method that leaves the encoder as it is, so that embeddings stay valid."""

    method: Literal["frozen-encoder"] = "frozen-encoder"


class _FullFinetuningConfig(MethodConfig):
    """Options of full finetuning."""

    method: Literal["full-finetuning"] = "full-finetuning"


@dataclass(eq=False)
class _Selective(PeftMethod[MethodConfig]):
    """Training of the encoder's own weights; fields as in `PeftMethod`.

    `selects` takes the name of a weight within its block, e.g. ``attn.qkv.bias``; None selects
    nothing. `everything` also selects what is outside the blocks. `decay` is whether weight decay
    may act: it would pull biases and norms of the encoder to 0.
    """

    name: str
    title: str
    description: str
    changes: str
    use_when: str
    config: type[MethodConfig]
    selects: Callable[[str], bool] | None = None
    everything: bool = False
    decay: bool = True
    adapts_encoder: bool = True
    low_rank: bool = False

    def install(self, surgery: Surgery, config: MethodConfig) -> None:
        """Make the selected weights trainable."""
        if self.everything:
            surgery.tune(lambda path: path.startswith("image_encoder."))
        selects = self.selects
        if selects is None or not isinstance(config, PlacedConfig):
            return
        blocks = {str(block) for block in config.placement.blocks(surgery.depth)}

        def chosen(path: str) -> bool:
            block, _, name = path.removeprefix(_BLOCKS).partition(".")
            return path.startswith(_BLOCKS) and block in blocks and selects(name)

        surgery.tune(chosen)

    def hint(self, parameter: str, config: MethodConfig) -> ParameterHint:
        """Exempt weights of the encoder from decay where it would harm."""
        if not self.decay and parameter.startswith("encoder."):
            return ParameterHint("encoder", decay=False)
        return ParameterHint()

    def first_changed_block(self, config: MethodConfig, depth: int) -> int:
        """Return -1 if everything is trained, else the first chosen block."""
        return -1 if self.everything else super().first_changed_block(config, depth)


SELECTIVE_METHODS = (
    _Selective(
        "attention-tuning",
        "Attention tuning",
        "Trains the attention layers of the chosen blocks themselves; large files, no added "
        "layers.",
        "every weight of the attention",
        "enough data; placed late",
        _AttentionTuningConfig,
        selects=lambda name: name.startswith("attn."),
    ),
    _Selective(
        "bias-tuning",
        "Bias tuning",
        "Trains the biases of the chosen blocks only; very small, and often enough for another "
        "contrast.",
        "every bias",
        "very small files, another contrast",
        _BiasTuningConfig,
        selects=lambda name: name.endswith(".bias"),
        decay=False,
    ),
    _Selective(
        "layernorm-tuning",
        "LayerNorm tuning",
        "Trains the layer norms of the chosen blocks only; the smallest change of the encoder.",
        "both layer norms",
        "the smallest change of the encoder",
        _LayerNormTuningConfig,
        selects=lambda name: name.startswith(("norm1.", "norm2.")),
        decay=False,
    ),
    _Selective(
        "late-finetuning",
        "Late finetuning",
        "Trains whole blocks, the last half by default; large files, much to learn with.",
        "every weight of the chosen blocks",
        "enough data and disk",
        LateFinetuningConfig,
        selects=lambda _: True,
    ),
    _Selective(
        "frozen-encoder",
        "Frozen encoder",
        "Trains the mask decoder only; lightest, and embeddings stay valid.",
        "nothing; mask decoder and prompt encoder only",
        "little memory, or no GPU",
        FrozenEncoderConfig,
        adapts_encoder=False,
        low_rank=True,
    ),
    _Selective(
        "full-finetuning",
        "Full finetuning",
        "Trains everything; needs the most memory, data and disk, and forgets the most.",
        "every weight of the encoder",
        "much data, memory and disk",
        _FullFinetuningConfig,
        everything=True,
    ),
)
