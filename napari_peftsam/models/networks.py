"""The networks of `segment_anything`, without the rest of that package.

The rest imports torchvision, and with it torch's compiler: as much time again as importing torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec

_PACKAGE = "segment_anything"


@contextmanager
def _without_its_init() -> Iterator[None]:
    """Let modules of the package be imported, but not the package's own `__init__`.

    Afterwards the process is as if it had imported none of them: whoever else imports the
    package gets all of it, with classes of their own.
    """
    spec = find_spec(_PACKAGE) if _PACKAGE not in sys.modules else None
    if spec is None:  # it is there already, or the imports shall say that it is missing
        yield
        return
    sys.modules[_PACKAGE] = module_from_spec(spec)
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n == _PACKAGE or n.startswith(f"{_PACKAGE}.")]:
            del sys.modules[name]


with _without_its_init():
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )
    from segment_anything.modeling.common import LayerNorm2d, MLPBlock
    from segment_anything.modeling.image_encoder import Attention, Block
    from segment_anything.modeling.transformer import Attention as PromptAttention

__all__ = [
    "Attention",
    "Block",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MLPBlock",
    "MaskDecoder",
    "PromptAttention",
    "PromptEncoder",
    "Sam",
    "TwoWayTransformer",
]
