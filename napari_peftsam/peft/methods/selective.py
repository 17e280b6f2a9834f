"""Methods that train some of the network's own weights and add none.

Bias tuning is BitFit (Ben Zaken et al. 2022).
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from napari_peftsam.peft.placement import Placement, PlacementField
from napari_peftsam.peft.protocol import MethodConfig, PlacedConfig
from napari_peftsam.peft.surgery import Surgery

__all__ = ["FrozenEncoderConfig"]

# Decay would pull biases and norms of the encoder to 0.
_ENCODER_UNDECAYED = (r"^encoder\.", "encoder")


class _SelectiveConfig(PlacedConfig):
    """Options of the methods that train weights of the chosen blocks themselves.

    `weights` is a regular expression of their names within a block, e.g. ``attn.qkv.bias``.
    """

    weights: ClassVar[str]

    def install(self, surgery: Surgery) -> None:
        """Make the selected weights trainable."""
        blocks = "|".join(map(str, self.placement.blocks(surgery.depth)))
        pattern = re.compile(rf"image_encoder\.blocks\.({blocks})\.{self.weights}")
        surgery.tune(lambda path: pattern.fullmatch(path) is not None)


class _AttentionTuningConfig(_SelectiveConfig):
    """Training of the attention layers."""

    title = "Attention tuning"
    description = (
        "Trains the attention layers of the chosen blocks themselves; large files, no added layers."
    )
    changes = "every weight of the attention"
    use_when = "enough data; placed late"
    weights = r"attn\..*"

    method: Literal["attention-tuning"] = "attention-tuning"


class _BiasTuningConfig(_SelectiveConfig):
    """Training of the biases."""

    title = "Bias tuning"
    description = (
        "Trains the biases of the chosen blocks only; very small, and often enough for another "
        "contrast."
    )
    changes = "every bias"
    use_when = "very small files, another contrast"
    weights = r".*\.bias"
    undecayed = _ENCODER_UNDECAYED

    method: Literal["bias-tuning"] = "bias-tuning"


class _LayerNormTuningConfig(_SelectiveConfig):
    """Training of the layer norms."""

    title = "LayerNorm tuning"
    description = (
        "Trains the layer norms of the chosen blocks only; the smallest change of the encoder."
    )
    changes = "both layer norms"
    use_when = "the smallest change of the encoder"
    weights = r"norm[12]\..*"
    undecayed = _ENCODER_UNDECAYED

    method: Literal["layernorm-tuning"] = "layernorm-tuning"


class LateFinetuningConfig(_SelectiveConfig):
    """Training of whole blocks."""

    title = "Late finetuning"
    description = "Trains whole blocks, the last half by default; large files, much to learn with."
    changes = "every weight of the chosen blocks"
    use_when = "enough data and disk"
    weights = ".*"

    method: Literal["late-finetuning"] = "late-finetuning"
    placement: PlacementField = Field(
        default=Placement("late-50%"),
        title="Placement",
        description="Blocks of the encoder to train as a whole, as in the other methods.",
    )


class FrozenEncoderConfig(MethodConfig):
    """Training that leaves the encoder as it is, so that embeddings stay valid."""

    title = "Frozen encoder"
    description = "Trains the mask decoder only; lightest, and embeddings stay valid."
    changes = "nothing; mask decoder and prompt encoder only"
    use_when = "little memory, or no GPU"
    adapts_encoder = False
    low_rank = True

    method: Literal["frozen-encoder"] = "frozen-encoder"


class _FullFinetuningConfig(MethodConfig):
    """Training of everything."""

    title = "Full finetuning"
    description = "Trains everything; needs the most memory, data and disk, and forgets the most."
    changes = "every weight of the encoder"
    use_when = "much data, memory and disk"

    method: Literal["full-finetuning"] = "full-finetuning"

    def install(self, surgery: Surgery) -> None:
        """Make the whole encoder trainable."""
        surgery.tune(lambda path: path.startswith("image_encoder."))

    def first_changed_block(self, depth: int) -> int:
        """Return -1, since the patch embedding is trained, too."""
        return -1


SELECTIVE_METHODS: tuple[type[MethodConfig], ...] = (
    _AttentionTuningConfig,
    _BiasTuningConfig,
    _LayerNormTuningConfig,
    LateFinetuningConfig,
    FrozenEncoderConfig,
    _FullFinetuningConfig,
)
