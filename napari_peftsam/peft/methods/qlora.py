"""QLoRA: LoRA over frozen layers held in 4 bits (Dettmers et al., NeurIPS 2023)."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType
from typing import Literal, cast

from torch import Tensor, nn

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft.low_rank import install_low_rank
from napari_peftsam.peft.methods.lora import LoraConfig, LowRankConfig
from napari_peftsam.peft.placement import targets
from napari_peftsam.peft.surgery import Replacement, Surgery

_MISSING = "needs bitsandbytes: pip install 'napari-peftsam[qlora]'"
_LINEAR = ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")


class _QuantisedLinear(Replacement):
    """A frozen linear layer in 4 bits: NF4 with double quantisation."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        functional = _functional()
        self.packed, self.quantisation = functional.quantize_4bit(
            base.weight.detach(), quant_type="nf4", compress_statistics=True
        )
        # Not the same object: the layer itself may rest on another device meanwhile.
        self.bias = None if base.bias is None else nn.Parameter(base.bias.detach().clone(), False)

    @property
    def weight(self) -> Tensor:
        """The weights ``(out, in)`` that it computes with, a new tensor at each call."""
        weight: Tensor = _functional().dequantize_4bit(self.packed, self.quantisation)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        from bitsandbytes import matmul_4bit

        out: Tensor = matmul_4bit(x, self.packed.t(), quant_state=self.quantisation, bias=self.bias)
        return out

    def folded_state(self) -> dict[str, Tensor]:
        """Return weight and bias of the plain layer that computes the same."""
        state = {"weight": self.weight.cpu()}
        return state if self.bias is None else state | {"bias": self.bias.detach().cpu()}


def _functional() -> ModuleType:
    if find_spec("bitsandbytes") is None:
        raise ConfigurationError(f"QLoRA {_MISSING}")
    from bitsandbytes import functional

    return cast("ModuleType", functional)


class QLoraConfig(LowRankConfig):
    """LoRA in blocks whose linear layers are held in 4 bits."""

    title = "QLoRA"
    description = (
        "LoRA over blocks held in 4 bits; needs an NVIDIA GPU, and saves memory for weights "
        "only, which is little beside that for activations."
    )
    changes = "as LoRA, over frozen layers in 4 bits"
    use_when = "the weights of a large model do not fit the GPU"
    # At strength 0 it would still be the 4-bit model.
    scalable = False
    starts_as_base = False

    method: Literal["qlora"] = "qlora"

    @staticmethod
    def obstacle(device: str) -> str:
        """Ask for CUDA and bitsandbytes; on torch's meta device parameters are only counted."""
        if device == "meta":
            return ""
        if device != "cuda":
            return f"needs an NVIDIA GPU (CUDA) for its 4-bit layers, found {device}: choose lora"
        return _MISSING if find_spec("bitsandbytes") is None else ""

    def install(self, surgery: Surgery) -> None:
        """Hold the linear layers of the chosen blocks in 4 bits, and adapt some of them."""
        if next(surgery.encoder.parameters()).is_meta:
            super().install(surgery)
            return
        blocks = self.placement.blocks(surgery.depth)
        chosen = targets(blocks, self.matrices)
        install_low_rank(surgery, chosen, self.rank, self.update, hold=_QuantisedLinear)
        paths = {f"image_encoder.blocks.{block}.{name}" for block in blocks for name in _LINEAR}
        for path in paths - surgery.replacements.keys():
            surgery.replace(path, _QuantisedLinear(surgery.layer(path)), park=True)

    def over_plain_layers(self) -> LoraConfig:
        """Return LoRA with the same options."""
        return LoraConfig(**self.model_dump(exclude={"method"}))
