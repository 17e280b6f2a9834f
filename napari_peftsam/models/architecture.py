"""The SAM architectures this project can build, as data."""

from __future__ import annotations

from dataclasses import dataclass

from napari_peftsam.errors import ConfigurationError

__all__ = ["ARCHITECTURES", "Architecture", "architecture"]


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build a SAM with `segment_anything.modeling` parts.

    Attributes
    ----------
    image_size
        Side of the square model input, in pixels.
    patch_size
        Pixels per token.
    width, depth, heads, global_blocks, window_size
        The image encoder (ViT); blocks not in `global_blocks` attend in windows of
        `window_size` tokens.
    embedding_width
        Channels of the image embedding, the prompts and the mask decoder.
    decoder_heads, decoder_mlp_width
        The two-way transformer of the mask decoder.
    absolute_positions
        Whether the encoder adds an absolute position embedding. Without it (the
        built-in model) positions enter through relative positions only, so that an
        encoder trained on crops carries over to the whole frame.
    convolutional_stem
        Whether small strided convolutions replace the patch embedding.
    drawn_prompts
        Whether prompts also reach the decoder as maps, see `PromptDrawing`.
    position_scale
        Standard deviation of the random Fourier frequencies that encode prompt
        positions, in cycles per half frame. SAM uses 1; a larger value resolves
        smaller distances, which small objects in a small frame need.
    """

    name: str
    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window_size: int
    embedding_width: int
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    absolute_positions: bool = True
    convolutional_stem: bool = False
    drawn_prompts: bool = False
    position_scale: float = 1.0

    @property
    def training_side(self) -> int:
        """Side of the crops to train on, in model pixels.

        Half the frame where an encoder without absolute positions allows for it: a
        quarter of the cost, for the same objects.
        """
        return self.image_size if self.absolute_positions else self.image_size // 2

    @property
    def grid(self) -> int:
        """Tokens along one side of the model input."""
        return self.image_size // self.patch_size


def _vit(name: str, width: int, depth: int, heads: int, blocks: tuple[int, ...]) -> Architecture:
    return Architecture(name, 1024, 16, width, depth, heads, blocks, 14, 256)


ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        Architecture(
            "builtin", 384, 8, 128, 8, 4, (3, 7), 16, 128,
            decoder_heads=4, decoder_mlp_width=512,
            absolute_positions=False, convolutional_stem=True, drawn_prompts=True,
            position_scale=3.0,
        ),
        _vit("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        _vit("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        _vit("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
        # For tests: everything the real ones have, in milliseconds.
        Architecture(
            "tiny", 64, 8, 16, 4, 2, (1, 3), 4, 16,
            decoder_heads=2, decoder_mlp_width=32,
        ),
    )
}  # fmt: skip


def architecture(name: str) -> Architecture:
    """Return the architecture called `name`.

    Raises
    ------
    ConfigurationError
        If there is none; the message lists those there are.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigurationError(f"unknown architecture {name!r}: choose one of {known}")
    return ARCHITECTURES[name]
