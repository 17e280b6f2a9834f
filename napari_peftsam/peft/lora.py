"""LoRA on slices of the fused attention projection (Hu et al. 2021).

The update acts on q and v separately, as SAM-specific papers do; a common LoRA on
the fused layer would share A between q, k and v and be another model.
"""

from __future__ import annotations

from typing import Literal

from napari_peftsam.peft._low_rank_method import LowRankConfig, LowRankMethod

__all__ = ["Lora", "LoraConfig"]


class LoraConfig(LowRankConfig):
    """Options of `LoRA`."""

    method: Literal["lora"] = "lora"


class Lora(LowRankMethod[LoraConfig]):
    """Plain LoRA."""

    name = "lora"
    title = "LoRA"
    description = (
        "Learns a small low-rank update of the attention weights in the chosen blocks; "
        "a sound first choice."
    )
    changes = "a low-rank update of q and v (k, MLP on request)"
    use_when = "a sound first choice; read by other software"
    cobot = "cobot-lora"
    config = LoraConfig
