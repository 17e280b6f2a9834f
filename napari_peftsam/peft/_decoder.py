"""What is trained beside the image encoder: mask decoder and prompt encoder, in any method."""

from __future__ import annotations

from torch import nn

from napari_peftsam.peft._low_rank import LowRankUpdate
from napari_peftsam.peft._low_rank_method import install_low_rank
from napari_peftsam.peft._matrices import Slot
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.config import MethodConfig

__all__ = ["decoder_layers", "install_decoder"]

_TRANSFORMER = "mask_decoder.transformer"
_ADAPTED = (".q_proj", ".v_proj")


def decoder_layers(sam: nn.Module) -> tuple[str, ...]:
    """Return the paths of the layers in the mask decoder that LoRA acts on."""
    layers = sam.get_submodule(_TRANSFORMER).named_modules()
    return tuple(f"{_TRANSFORMER}.{name}" for name, _ in layers if name.endswith(_ADAPTED))


def install_decoder(surgery: Surgery, config: MethodConfig) -> None:
    """Choose the weights of decoder and prompt encoder to tune, or add LoRA to the decoder.

    Its LoRA acts on q and v of all attention layers of the two-way transformer, as that of
    the encoder does. The image embedding does not depend on any of it.

    Raises
    ------
    ConfigurationError
        If the rank is larger than a layer.
    """
    whole = tuple(
        prefix
        for prefix, wanted in (
            ("mask_decoder.", config.tune_mask_decoder and not config.decoder_lora_rank),
            ("prompt_encoder.", config.tune_prompt_encoder),
        )
        if wanted
    )
    if config.decoder_lora_rank:
        install_low_rank(
            surgery,
            [Slot(path, "all") for path in decoder_layers(surgery.root)],
            config.decoder_lora_rank,
            lambda site: LowRankUpdate(site.shape, config.decoder_lora_rank, 1.0),
        )
    if whole:
        surgery.tune(lambda path: path.startswith(whole))
