"""The pretraining loop: resumable, averaged weights, one line of log a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from napari_peftsam.errors import ImageError, TrainingError
from napari_peftsam.files import check_pair
from napari_peftsam.models import (
    DenseHead,
    SamModel,
    architecture,
    autocast,
    build,
    construct,
    find_model,
    pick_device,
)
from napari_peftsam.models.sam_parts import MaskDecoder
from napari_peftsam.pretraining.data import Batch, CropStream
from napari_peftsam.pretraining.objective import pretraining_loss
from napari_peftsam.pretraining.run import (
    ARCHITECTURE,
    PretrainingConfig,
    RunState,
    make_recipe,
    read_chain,
)
from napari_peftsam.pretraining.validation import Figures, Validation
from napari_peftsam.types import LabelArray, PixelArray

_SEED_STRIDE = 1_000_003  # prompts of a step depend on the seed and the step, on nothing before
_LOCALITY = 2.5  # how peaked the first attention maps are; 1 would be almost flat


@dataclass(frozen=True)
class PretrainingStep:
    """The result of one step, numbered from 1: the loss and its terms."""

    step: int
    loss: float
    parts: dict[str, float]
    seconds: float  # wall time without saving and validation
    validation: dict[str, Figures] | None = None  # of the averaged weights, by image set


def pretrain(
    config: PretrainingConfig,
    real: Sequence[tuple[PixelArray, LabelArray]] = (),
    validation: Validation | None = None,
) -> Iterator[PretrainingStep]:
    """Train the built-in model; resume from the run folder if it holds a state.

    Parameters
    ----------
    real
        Pixels ``(H, W)`` or ``(H, W, 3)`` and labels ``(H, W)`` of images to mix in.
    validation
        Images to validate on; default: no validation.

    Yields
    ------
    PretrainingStep
        After every step; with `validation` also step 0, the start of the run.

    Raises
    ------
    TrainingError
        If the run folder holds a run with other options or from other weights, or the weights to
        start from are not the built-in model's.
    ImageError
        If a real image is a stack.
    """
    real = [_checked(pair, f"real image {number}") for number, pair in enumerate(real, start=1)]
    state, device = _begun(config, real), pick_device(config.device)
    first = state.resume()
    stream = CropStream(
        config.sides, config.images, config.objects, config.seed, real, config.real_share, first
    )
    batches = iter(DataLoader(stream, batch_size=None, num_workers=config.workers))
    config.folder.mkdir(parents=True, exist_ok=True)
    if validation and not first:
        yield PretrainingStep(0, 0.0, {}, 0.0, state.validate(validation, 0))
    for step in range(first, config.steps):
        began = time.perf_counter()
        loss, parts = _train(state, step, next(batches).to(device))
        done = PretrainingStep(step + 1, loss, parts, time.perf_counter() - began)
        if validation and _is_due(done.step, config.validate_every, config):
            done = replace(done, validation=state.validate(validation, done.step))
        if _is_due(done.step, config.save_every, config):
            state.save(done.step)
        yield done


def _begun(config: PretrainingConfig, real: Sequence[tuple[PixelArray, LabelArray]]) -> RunState:
    """Return the state of a run before its first step, on the run's device."""
    torch.manual_seed(config.seed)
    model = _initial_model(config)  # on the CPU: random weights are the same for every device
    recipe = make_recipe(config, model, real)
    assert model.dense_head is not None
    network = torch.nn.ModuleList([model.sam, model.dense_head]).to(pick_device(config.device))
    network.train().requires_grad_(not config.only)
    if config.only:
        model.sam.mask_decoder.refiner.requires_grad_(True)
    average = deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    return RunState(config, recipe, model, network, average, optimiser, _chain(config))


def _train(state: RunState, step: int, batch: Batch) -> tuple[float, dict[str, float]]:
    """Take a step, numbered from 0, and return the loss and its terms."""
    config, network, optimiser = state.config, state.network, state.optimiser
    # Prompts are drawn on the CPU, the same for every device.
    generator = torch.Generator().manual_seed(config.seed * _SEED_STRIDE + step)
    for group in optimiser.param_groups:
        group["lr"] = config.learning_rate * _rate(step, config)
    with autocast(batch.images.device.type):
        loss, parts = pretraining_loss(state.model, batch, generator)
    optimiser.zero_grad(set_to_none=True)
    if loss.requires_grad:  # a refiner alone learns from corrections of a mask
        loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    decay = min(config.average, (step + 1) / (step + 10))
    with torch.no_grad():
        for mean, value in zip(state.average.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
    return loss.item(), parts


def _is_due(step: int, every: int, config: PretrainingConfig) -> bool:
    return step % every == 0 or step == config.steps


def _checked(pair: tuple[PixelArray, LabelArray], name: str) -> tuple[PixelArray, LabelArray]:
    pixels, labels = pair
    if labels.ndim != 2:
        raise ImageError(
            f"{name} has labels of the shape {labels.shape}: give single planes, (H, W)"
        )
    return pixels, check_pair(pixels, labels, name)


def _initial_model(config: PretrainingConfig) -> SamModel:
    arch = architecture(ARCHITECTURE)
    if config.start is not None:
        model = build(config.start)
        begun = replace(model.architecture, refined_masks=True)
        if begun != arch or model.dense_head is None:
            what = "no dense head" if begun == arch else "another architecture"
            raise TrainingError(
                f"the start {str(config.start)!r} has {what}: give the built-in model or weights "
                "trained from it, or leave it out to start from random weights"
            )
        if model.architecture != arch:  # a new refiner changes nothing
            sam = construct(arch)
            sam.load_state_dict(model.sam.state_dict(), strict=False)
            model = replace(model, architecture=arch, sam=sam)
        return model
    sam = construct(arch)
    _match_positions(sam.mask_decoder)
    return SamModel(ARCHITECTURE, arch, sam, "", DenseHead(arch.embedding_width))


def _chain(config: PretrainingConfig) -> list[dict[str, object]]:
    """Return the records of the runs that made the start, none for random weights."""
    if config.start is None:
        return []
    entry = find_model(str(config.start))
    path = Path(config.start) if entry is None else entry.path
    return [] if path is None else read_chain(path)


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
