"""Linear layers that keep their bfloat16 weights, packed for the processor, between inputs.

Autocast casts all weights again for each input, and the library behind torch's products
then sorts them into the order it multiplies in: a tenth of the time of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

_BF16 = torch.bfloat16
_TOKENS = 4096  # the number of rows that weights are packed for; others are as exact

# Of each weight: its version, address and packed copy.
_PACKED: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class KeepingLinear(nn.Linear):
    """The parameters of a layer, which it takes over; in inference in bfloat16 on a CPU faster.

    A weight that was changed or exchanged is packed anew, and nothing else.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, "meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``, through GELU if asked."""
        packed = self._packed(x)
        if packed is None:
            out = super().forward(x)
            return functional.gelu(out) if gelu else out
        bias = None if self.bias is None else self.bias.to(_BF16)
        after = "gelu" if gelu else "none"
        product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 (there is no public name)
        found: Tensor = product(x.to(_BF16), packed, bias, after, [], "none")
        return found

    def _packed(self, x: Tensor) -> Tensor | None:
        """Return the weight as the product takes it; None where it cannot be kept."""
        weight = self.weight
        if (
            torch.is_grad_enabled()
            or x.device.type != "cpu"
            or not torch.is_autocast_enabled("cpu")
            or torch.get_autocast_dtype("cpu") != _BF16
            or isinstance(x, FakeTensor)
            or weight.is_inference()  # its changes are not counted
            or not _packs()
        ):
            return None
        state = weight._version, weight.data_ptr()  # noqa: SLF001 (torch's own)
        known, packed = _PACKED.get(weight, (None, None))
        if known != state:
            pack = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001
            packed = pack(weight.detach().to(_BF16), _TOKENS)
            _PACKED[weight] = state, packed
        found: Tensor | None = packed
        return found


def _packs() -> bool:
    """Return True if torch can pack weights here; some of its builds cannot."""
    mkldnn = torch.backends.mkldnn
    return mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
