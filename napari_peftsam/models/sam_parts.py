"""The networks of `segment_anything.modeling`, without what the package imports beside them.

`segment_anything` itself imports torchvision with its detection models, and these torch's
compiler: more than a second of computing. The networks need none of it, so their folder is
imported here under a name of our own, and other users of `segment_anything` see nothing of it.
"""

# ruff: noqa: PLC0414  # the names are there for others
from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT as ImageEncoderViT
    from segment_anything.modeling import MaskDecoder as MaskDecoder
    from segment_anything.modeling import PromptEncoder as PromptEncoder
    from segment_anything.modeling import Sam as Sam
    from segment_anything.modeling import TwoWayTransformer as TwoWayTransformer
    from segment_anything.modeling import transformer
    from segment_anything.modeling.common import LayerNorm2d as LayerNorm2d
    from segment_anything.modeling.common import MLPBlock as MLPBlock
    from segment_anything.modeling.image_encoder import Attention as Attention
    from segment_anything.modeling.image_encoder import Block as Block

    PromptAttention = transformer.Attention
else:
    _found = find_spec("segment_anything")
    if _found is None:
        raise ModuleNotFoundError("No module named 'segment_anything'", name="segment_anything")
    # A module with a path is a package: its submodules are the files of this folder.
    __path__ = [f"{place}/modeling" for place in _found.submodule_search_locations]
    common, image_encoder, mask_decoder, prompt_encoder, sam, transformer = (
        import_module(f"{__name__}.{name}")
        for name in (
            "common", "image_encoder", "mask_decoder", "prompt_encoder", "sam", "transformer",
        )
    )  # fmt: skip
    ImageEncoderViT, Sam = image_encoder.ImageEncoderViT, sam.Sam
    Attention, Block = image_encoder.Attention, image_encoder.Block
    LayerNorm2d, MLPBlock = common.LayerNorm2d, common.MLPBlock
    MaskDecoder, PromptEncoder = mask_decoder.MaskDecoder, prompt_encoder.PromptEncoder
    PromptAttention, TwoWayTransformer = transformer.Attention, transformer.TwoWayTransformer
