"""What the processor can do at most: the rate of its matrix products."""

from __future__ import annotations

import torch
from _measure import Answer, Works, main, seconds
from torch.nn import functional

# The first layer of the MLP of a ViT-B on one image; larger products are not faster.
_TOKENS, _WIDTH, _HIDDEN = 4096, 768, 3072


@torch.inference_mode()
def rate(precision: str, repeats: int, device: str = "cpu") -> Answer:
    """Return the fastest linear layer's operations per second."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(_TOKENS, _WIDTH, device=device, dtype=kind)
    weight = torch.randn(_HIDDEN, _WIDTH, device=device, dtype=kind)
    times = seconds(lambda: functional.linear(x, weight), repeats, device)
    return {"rate": 2 * _TOKENS * _WIDTH * _HIDDEN / min(times)}


WORKS: Works = {"rate": rate}

if __name__ == "__main__":
    main(WORKS)
