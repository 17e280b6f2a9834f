"""The pretraining loop: resumable, averaged weights, one line of log a time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from segment_anything.modeling import MaskDecoder
from torch.utils.data import DataLoader

from napari_peftsam.models import (
    DenseHead,
    SamModel,
    architecture,
    autocast,
    build,
    construct,
)
from napari_peftsam.training.pretrain._data import Batch, CropStream
from napari_peftsam.training.pretrain._objective import pretraining_loss
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["PretrainingConfig", "PretrainingStep", "pretrain"]

_LOCALITY = 2.5  # how peaked the first attention maps are; 1 would be almost flat


@dataclass(frozen=True)
class PretrainingConfig:
    """One stage of pretraining.

    Attributes
    ----------
    folder
        Run folder: ``state.pt`` (to resume), ``log.jsonl`` and ``builtin.safetensors``
        (averaged weights, half precision) are written there.
    steps
        Step at which the stage ends, counted from the stage's start.
    side
        Crop side in model pixels, a multiple of 8 and at most the model's frame.
    start
        Checkpoint to start from (else random weights); ignored when resuming.
    """

    folder: Path
    steps: int
    side: int = 128
    images: int = 16
    objects: int = 3
    learning_rate: float = 1e-3
    warmup: int = 100
    final_share: float = 0.02
    average: float = 0.998
    save_every: int = 50
    seed: int = 0
    start: Path | None = None
    real_share: float = 0.25


@dataclass(frozen=True)
class PretrainingStep:
    """What one step did."""

    step: int
    loss: float
    parts: dict[str, float]
    seconds: float


def pretrain(
    config: PretrainingConfig, real: Sequence[tuple[PixelArray, LabelArray]] = ()
) -> Iterator[PretrainingStep]:
    """Train the built-in model; resume from the run folder if it holds a state."""
    torch.manual_seed(config.seed)
    model = _initial_model(config)
    assert model.dense_head is not None
    network = torch.nn.ModuleList([model.sam, model.dense_head]).train().requires_grad_(True)
    average = deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    first = _resume(config, network, average, optimiser)
    generator = torch.Generator().manual_seed(config.seed + first)
    stream = CropStream(
        config.side, config.images, config.objects, config.seed + first, real, config.real_share
    )
    batches: Iterator[Batch] = iter(DataLoader(stream, batch_size=None, num_workers=1))
    config.folder.mkdir(parents=True, exist_ok=True)
    for step in range(first, config.steps):
        began = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config)
        with autocast("cpu"):
            loss, parts = pretraining_loss(model, next(batches), generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        _update(average, network, min(config.average, (step + 1) / (step + 10)))
        done = PretrainingStep(step + 1, loss.item(), parts, time.perf_counter() - began)
        if done.step % config.save_every == 0 or done.step == config.steps:
            _save(config, done.step, network, average, optimiser)
        yield done


def _initial_model(config: PretrainingConfig) -> SamModel:
    arch = architecture("builtin")
    if config.start is not None:
        return build(config.start)
    sam = construct(arch)
    _match_positions(sam.mask_decoder)
    return SamModel("builtin", arch, sam, "", DenseHead(arch.embedding_width))


@torch.no_grad()
def _match_positions(decoder: MaskDecoder) -> None:
    """Start with prompts and image attending to each other where their positions agree.

    Queries and keys both hold Fourier features of positions, whose inner product falls
    off with distance. With equal projections the attention is local from the first step
    on; with independent random ones that takes hundreds of steps to learn.
    """
    transformer = decoder.transformer
    layers = [layer.cross_attn_token_to_image for layer in transformer.layers]
    layers += [layer.cross_attn_image_to_token for layer in transformer.layers]
    layers.append(transformer.final_attn_token_to_image)
    for attention in layers:
        attention.q_proj.weight.mul_(_LOCALITY)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def _rate(step: int, config: PretrainingConfig) -> float:
    warm = min(1.0, (step + 1) / config.warmup)
    progress = step / max(1, config.steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return warm * (config.final_share + (1 - config.final_share) * cosine)


@torch.no_grad()
def _update(average: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def _resume(
    config: PretrainingConfig,
    network: torch.nn.Module,
    average: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
) -> int:
    path = config.folder / "state.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(
    config: PretrainingConfig,
    step: int,
    network: torch.nn.Module,
    average: torch.nn.ModuleList,
    optimiser: torch.optim.Optimizer,
) -> None:
    state = {
        "step": step,
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    temporary = config.folder / "state.tmp"
    torch.save(state, temporary)
    temporary.replace(config.folder / "state.pt")
    sam, head = average
    weights = {k: v.half().contiguous() for k, v in sam.state_dict().items()}
    weights |= {f"dense_head.{k}": v.half().contiguous() for k, v in head.state_dict().items()}
    temporary = config.folder / "builtin.tmp"
    save_file(weights, temporary, metadata={"training": json.dumps({"step": step})})
    temporary.replace(config.folder / "builtin.safetensors")
