"""MobileSAM's image encoder on paper: the tensors of its checkpoints, and what they compute.

Written after the description of TinyViT and MobileSAM, without timm: the reference that
the network is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_peftsam.models import architecture, construct

State = dict[str, Tensor]
Shape = tuple[int, ...]

WIDTHS, DEPTHS, HEADS, WINDOWS = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
STRIDES = (2, 2, 1)  # of the mergings that end the first three layers
EMBEDDING = 256


# --- the tensors -----------------------------------------------------------------------


def encoder_shapes() -> dict[str, Shape]:
    """Return names and shapes of the encoder's tensors, without ``image_encoder.``."""
    return dict(_tensors())


def _tensors() -> Iterator[tuple[str, Shape]]:
    yield from _conv_norm("patch_embed.seq.0", WIDTHS[0] // 2, 3, 3)
    yield from _conv_norm("patch_embed.seq.2", WIDTHS[0], WIDTHS[0] // 2, 3)
    for layer, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        for index in range(depth):
            block = f"layers.{layer}.blocks.{index}"
            yield from _attention(block, layer) if layer else _convolutions(block, width)
        if layer < 3:
            wider, merging = WIDTHS[layer + 1], f"layers.{layer}.downsample"
            yield from _conv_norm(f"{merging}.conv1", wider, width, 1)
            yield from _conv_norm(f"{merging}.conv2", wider, 1, 3)
            yield from _conv_norm(f"{merging}.conv3", wider, wider, 1)
    yield from _affine("norm_head", (WIDTHS[-1],))
    yield from _affine("head", (1000, WIDTHS[-1]))
    yield "neck.0.weight", (EMBEDDING, WIDTHS[-1], 1, 1)
    yield from _affine("neck.1", (EMBEDDING,))
    yield "neck.2.weight", (EMBEDDING, EMBEDDING, 3, 3)
    yield from _affine("neck.3", (EMBEDDING,))


def _convolutions(block: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield from _conv_norm(f"{block}.conv1", 4 * width, width, 1)
    yield from _conv_norm(f"{block}.conv2", 4 * width, 1, 3)
    yield from _conv_norm(f"{block}.conv3", width, 4 * width, 1)


def _attention(block: str, layer: int) -> Iterator[tuple[str, Shape]]:
    width = WIDTHS[layer]
    yield f"{block}.attn.attention_biases", (HEADS[layer], WINDOWS[layer] ** 2)
    yield from _affine(f"{block}.attn.norm", (width,))
    yield from _affine(f"{block}.attn.qkv", (3 * width, width))
    yield from _affine(f"{block}.attn.proj", (width, width))
    yield from _affine(f"{block}.mlp.norm", (width,))
    yield from _affine(f"{block}.mlp.fc1", (4 * width, width))
    yield from _affine(f"{block}.mlp.fc2", (width, 4 * width))
    yield from _conv_norm(f"{block}.local_conv", width, 1, 3)


def _affine(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _conv_norm(name: str, outputs: int, inputs: int, side: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.c.weight", (outputs, inputs, side, side)
    for statistic in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.bn.{statistic}", (outputs,)
    yield f"{name}.bn.num_batches_tracked", ()


def checkpoint(seed: int = 0) -> State:
    """Return random weights under the names of ``mobile_sam.pt``, none of them 0 or 1.

    The rest of the network is that of the larger SAMs.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {
        f"image_encoder.{name}": _random(name, shape, generator)
        for name, shape in encoder_shapes().items()
    }
    with torch.device("meta"):
        rest = construct(architecture("vit_b")).state_dict()
    for name, tensor in rest.items():
        if not name.startswith("image_encoder."):
            state[name] = _random(name, tuple(tensor.shape), generator)
    return state


def _random(name: str, shape: Shape, generator: torch.Generator) -> Tensor:
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.tensor(7)
    normal = torch.randn(shape, generator=generator)
    if kind == "running_var":
        return 0.5 + normal.abs()
    if kind == "attention_biases":
        return 2 * normal
    if len(shape) == 1:
        return 0.2 * normal + (kind == "weight")
    return normal / max(1, normal[0].numel()) ** 0.5


# --- what they compute -----------------------------------------------------------------


class Weights:
    """A checkpoint's encoder that knows which of its tensors were used."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        start = "image_encoder."
        self._state = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        self.unused = set(self._state)

    def __call__(self, name: str) -> Tensor:
        self.unused.discard(name)
        return self._state[name]


def encode(w: Weights, x: Tensor) -> Tensor:
    """Map model input ``(1, 3, S, S)`` to the embedding ``(1, 256, S / 16, S / 16)``."""
    x = F.gelu(_cn(w, "patch_embed.seq.0", x, stride=2))
    x = _cn(w, "patch_embed.seq.2", x, stride=2)
    for layer in range(4):
        for index in range(DEPTHS[layer]):
            block = f"layers.{layer}.blocks.{index}"
            x = _attention_block(w, block, x, layer) if layer else _mb_conv(w, block, x)
        if layer < 3:
            x = _depthwise(w, f"layers.{layer}.downsample", x, STRIDES[layer])
    x = _channel_norm(w, "neck.1", F.conv2d(x, w("neck.0.weight")))
    return _channel_norm(w, "neck.3", F.conv2d(x, w("neck.2.weight"), padding=1))


def _cn(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolve (each channel alone if the kernel has one input), then normalise by batch norm."""
    kernel = w(f"{name}.c.weight")
    x = F.conv2d(
        x,
        kernel,
        stride=stride,
        padding=kernel.shape[-1] // 2,
        groups=x.shape[1] // kernel.shape[1],
    )
    mean, variance, scale, shift = (
        w(f"{name}.bn.{part}")[:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def _depthwise(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    x = F.gelu(_cn(w, f"{name}.conv1", x))
    x = F.gelu(_cn(w, f"{name}.conv2", x, stride))
    return _cn(w, f"{name}.conv3", x)


def _mb_conv(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.gelu(x + _depthwise(w, name, x))


def _attention_block(w: Weights, name: str, x: Tensor, layer: int) -> Tensor:
    x = x + _windowed(w, f"{name}.attn", x[0], HEADS[layer], WINDOWS[layer])[None]
    x = _cn(w, f"{name}.local_conv", x)
    tokens = _norm(w, f"{name}.mlp.norm", x.movedim(1, -1))
    hidden = F.gelu(_linear(w, f"{name}.mlp.fc1", tokens))
    return x + _linear(w, f"{name}.mlp.fc2", hidden).movedim(-1, 1)


def _windowed(w: Weights, name: str, x: Tensor, heads: int, side: int) -> Tensor:
    """Attend in one window after the other; at the borders they hold zeros, too."""
    _, rows, cols = x.shape
    padded = F.pad(x, (0, -cols % side, 0, -rows % side))
    out = torch.empty_like(padded)
    for top in range(0, rows, side):
        for left in range(0, cols, side):
            window = padded[:, top : top + side, left : left + side]
            answer = _attend(w, name, window.flatten(1).T, heads, side)
            out[:, top : top + side, left : left + side] = answer.T.unflatten(1, (side, side))
    return out[:, :rows, :cols]


def _attend(w: Weights, name: str, tokens: Tensor, heads: int, side: int) -> Tensor:
    """Map the tokens of a window ``(side * side, width)``, row by row."""
    qkv = _linear(w, f"{name}.qkv", _norm(w, f"{name}.norm", tokens))
    row, col = torch.arange(side * side) // side, torch.arange(side * side) % side
    # A bias for each distance in rows and columns, whatever its direction
    distance = (row[:, None] - row).abs() * side + (col[:, None] - col).abs()
    answers = []
    for head, mine in enumerate(qkv.chunk(heads, dim=1)):  # q, k and v of one head together
        q, k, v = mine.chunk(3, dim=1)
        bias = w(f"{name}.attention_biases")[head][distance]
        answers.append((q @ k.T / q.shape[1] ** 0.5 + bias).softmax(1) @ v)
    return _linear(w, f"{name}.proj", torch.cat(answers, dim=1))


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w(f"{name}.weight").T + w(f"{name}.bias")


def _norm(w: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * w(f"{name}.weight") + w(f"{name}.bias")


def _channel_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return _norm(w, name, x.movedim(1, -1), 1e-6).movedim(-1, 1)
