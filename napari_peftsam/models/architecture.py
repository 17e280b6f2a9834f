"""The SAM architectures this project can build, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.types import SAM_FRAMES

__all__ = ["ARCHITECTURES", "Architecture", "PlainVit", "TinyVit", "architecture"]


@dataclass(frozen=True)
class PlainVit:
    """SAM's image encoder: equal transformer blocks on one grid of tokens.

    Attributes
    ----------
    width, depth, heads
        Channels of a token, number of blocks, attention heads of a block.
    global_blocks, window_size
        Blocks not in `global_blocks` attend in windows of `window_size` tokens.
    absolute_positions
        Add an absolute position embedding. Without it (the built-in model) positions enter
        through relative positions only, so that an encoder trained on crops carries over to
        the whole frame.
    convolutional_stem
        Replace the patch embedding by small strided convolutions, see `ConvStem`.
    """

    adaptable: ClassVar[bool] = True

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window_size: int
    absolute_positions: bool = True
    convolutional_stem: bool = False

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Blocks and width of its only stage."""
        return ((self.depth, self.width),)

    @property
    def takes_crops(self) -> bool:
        """True if it sees a crop as a part of the frame, see `encode_tensor`."""
        return not self.absolute_positions


@dataclass(frozen=True)
class TinyVit:
    """MobileSAM's image encoder: convolutions, then windowed attention on shrinking grids.

    Attributes
    ----------
    widths, depths, heads, windows
        Of each stage: channels, number of blocks, attention heads and side of the
        attention windows in tokens. The first stage is convolutional and uses neither of
        the last two.
    """

    adaptable: ClassVar[bool] = False
    takes_crops: ClassVar[bool] = False
    convolutional_stem: ClassVar[bool] = False

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Blocks and width of each stage."""
        return tuple(zip(self.depths, self.widths, strict=True))


@dataclass(frozen=True)
class Architecture:
    """Sizes and variants of the parts of a SAM.

    Attributes
    ----------
    image_size
        Side of the square model input, in pixels.
    patch_size
        Pixels per token of the image embedding.
    encoder
        The image encoder.
    embedding_width
        Channels of the image embedding, the prompts and the mask decoder.
    decoder_heads, decoder_mlp_width
        The two-way transformer of the mask decoder.
    drawn_prompts
        Give prompts to the decoder as maps, too, see `PromptDrawing`.
    refined_masks
        Refine the masks that correct others by these maps, see `MaskRefiner`: where weights are
        loaded, if they hold a refiner.
    position_scale
        Standard deviation of the random Fourier frequencies that encode prompt
        positions, in cycles per half frame. SAM uses 1; a larger value resolves
        smaller distances, which small objects in a small frame need.
    orientations
        In how many an image is embedded, 1 to 8: logits and maps are the means over them, scores
        the lowest. A training looks at one at a time.
    frames
        All values of `image_size` that it can be loaded with; empty if there is only its own.
    """

    name: str
    image_size: int
    patch_size: int
    encoder: PlainVit | TinyVit
    embedding_width: int
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048
    drawn_prompts: bool = False
    refined_masks: bool = False
    position_scale: float = 1.0
    orientations: int = 1
    frames: tuple[int, ...] = ()

    def at_frame(self, image_size: int | None, name: str) -> Architecture:
        """Return it with another frame; None is its own, `name` is for the message.

        Raises
        ------
        ConfigurationError
            If it cannot be loaded with this frame.
        """
        if image_size in (None, self.image_size):
            return self
        if image_size in self.frames:
            return replace(self, image_size=image_size)
        if self.frames:
            *most, last = map(str, self.frames)
            raise ConfigurationError(
                f"{name} cannot be loaded with a frame of {image_size} pixels: choose "
                f"{', '.join(most)} or {last}"
            )
        raise ConfigurationError(
            f"{name} has a frame of {self.image_size} pixels and no other, not {image_size}: load "
            "it without a frame, or choose a model that was published with a frame of 1024"
        )

    @property
    def width(self) -> int:
        """Channels of the encoder's last block."""
        return self.encoder.stages[-1][1]

    @property
    def depth(self) -> int:
        """Number of the encoder's blocks."""
        return sum(blocks for blocks, _ in self.encoder.stages)

    @property
    def size(self) -> str:
        """Blocks and widths of the encoder, for people."""
        return " + ".join(f"{blocks} x {width}" for blocks, width in self.encoder.stages)

    @property
    def adaptable(self) -> bool:
        """True if adapters fit into the encoder's blocks."""
        return self.encoder.adaptable

    @property
    def training_side(self) -> int:
        """Side of the crops to train on, in model pixels: half the frame if it takes crops."""
        return self.image_size // 2 if self.encoder.takes_crops else self.image_size

    @property
    def grid(self) -> int:
        """Tokens along one side of the image embedding."""
        return self.image_size // self.patch_size


def _sam(name: str, width: int, depth: int, heads: int, blocks: tuple[int, ...]) -> Architecture:
    vit = PlainVit(width, depth, heads, blocks, 14)
    return Architecture(name, SAM_FRAMES[0], 16, vit, 256, frames=SAM_FRAMES)


ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        Architecture(
            "builtin", 384, 8,
            PlainVit(128, 8, 4, (3, 7), 16, absolute_positions=False, convolutional_stem=True), 128,
            decoder_heads=4, decoder_mlp_width=512, drawn_prompts=True,
            refined_masks=True, position_scale=3.0, orientations=2,
        ),
        _sam("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        _sam("vit_l", 1024, 24, 16, (5, 11, 17, 23)),
        _sam("vit_h", 1280, 32, 16, (7, 15, 23, 31)),
        Architecture(
            "vit_t", SAM_FRAMES[0], 16,
            TinyVit((64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)), 256,
            frames=SAM_FRAMES,
        ),
        # For tests: everything the real ones have, in milliseconds.
        Architecture(
            "tiny", 64, 8, PlainVit(16, 4, 2, (1, 3), 4), 16,
            decoder_heads=2, decoder_mlp_width=32, frames=(64, 48, 32),
        ),
    )
}  # fmt: skip


def architecture(name: str) -> Architecture:
    """Return the architecture called `name`, or raise `ConfigurationError`."""
    if name not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigurationError(f"unknown architecture {name!r}: choose one of {known}")
    return ARCHITECTURES[name]
