"""Imported LoRA weights assembled into an adapter, and its comparison with expectations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import SamModel, architecture
from napari_peftsam.peft.adapter import Adapter, BaseIdentity
from napari_peftsam.peft.inject import decoder_layers, public_name
from napari_peftsam.peft.low_rank import Factors, random_start
from napari_peftsam.peft.merge import adapted_twin
from napari_peftsam.peft.methods import parse_method_config
from napari_peftsam.peft.methods.lora import DoraConfig, LoraConfig
from napari_peftsam.peft.methods.selective import FrozenEncoderConfig
from napari_peftsam.peft.placement import Placement, Target
from napari_peftsam.peft.protocol import MethodConfig, PlacedConfig

__all__ = ["ExpectedAdapter", "ImportedLora", "assemble_imported", "check_expected"]

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.(?:attn\.qkv|mlp\.(lin[12]))")


@dataclass(frozen=True, eq=False)
class ImportedLora:
    """A low-rank update of one matrix, see `Target`."""

    target: Target
    factors: Factors

    @property
    def block(self) -> int | None:
        """Its block of the encoder; None in the mask decoder."""
        match = _BLOCK.fullmatch(self.target.layer)
        return int(match[1]) if match else None

    @property
    def matrix(self) -> str:
        """Its matrix within the block: q, k, v, lin1 or lin2."""
        match = _BLOCK.fullmatch(self.target.layer)
        assert match is not None
        return match[2] or self.target.part


@dataclass(frozen=True)
class ExpectedAdapter:
    """Properties that the user expects of an imported adapter; None accepts any value.

    Attributes
    ----------
    rank
        Inner dimension of the updates.
    placement
        The adapted blocks.
    alpha
        Factor on the updates: HF's ``lora_alpha / r``.
    """

    rank: int | None = None
    placement: Placement | None = None
    alpha: float | None = None


def assemble_imported(
    source: str,
    model: SamModel,
    updates: Sequence[ImportedLora],
    whole: Mapping[str, Tensor],
    expected: ExpectedAdapter,
) -> Adapter:
    """Return an adapter of `model` from updates and tuned weights (`whole`, by path).

    All updates get the largest of their ranks. The added directions start as LoRA does: B is zero,
    so that the output stays the same, and A is drawn, so that it can be trained. `source` is for
    messages and the provenance; the placement of `expected` names the result where it fits.
    """
    encoder = [u for u in updates if u.block is not None]
    decoder = [u for u in updates if u.block is None]
    options: dict[str, Any] = {
        # LoRA trains the mask decoder as well.
        "tune_mask_decoder": bool(decoder) or any(p.startswith("mask_decoder.") for p in whole),
        "tune_prompt_encoder": any(p.startswith("prompt_encoder.") for p in whole),
    }
    method: type[MethodConfig] = FrozenEncoderConfig
    if decoder:
        _check_decoder(source, model, decoder)
        options["decoder_lora_rank"] = _largest_rank(decoder)
    if encoder:
        first, blocks = encoder[0].factors, _check_encoder(source, encoder)
        method = LoraConfig if first.magnitude is None else DoraConfig
        options |= {
            "rank": _largest_rank(encoder),
            "alpha": first.scale,
            "placement": _name(blocks, model.architecture.depth, expected.placement),
            "matrices": sorted({update.matrix for update in encoder}),
        }
    config = parse_method_config({"method": method.model_fields["method"].default, **options})
    tensors = {public_name(path): tensor for path, tensor in whole.items()}
    tensors |= _tensors(decoder, 1.0) | _tensors(encoder, options.get("alpha", 1.0))
    tensors |= _lengths(encoder)
    adapter = Adapter(config, BaseIdentity.of(model), tensors, provenance={"imported_from": source})
    adapted_twin(model, adapter)
    return adapter


def check_expected(source: str, adapter: Adapter, expected: ExpectedAdapter) -> None:
    """Raise `ConfigurationError` if an adapter differs from what the user expects."""
    config = adapter.config
    depth = architecture(adapter.base.architecture).depth
    blocks = config.placement.blocks(depth) if isinstance(config, PlacedConfig) else None
    found: dict[str, Any] = {
        "rank": getattr(config, "rank", None),
        "alpha": getattr(config, "alpha", None),
    }
    for option, value in found.items():
        wanted = getattr(expected, option)
        if wanted is not None and (value is None or abs(value - wanted) > 1e-6 * wanted):
            raise ConfigurationError(
                f"{source} has {option} {'none' if value is None else f'{value:g}'}, but "
                f"{wanted:g} was given: give that one, or leave it out"
            )
    wanted_blocks = expected.placement.blocks(depth) if expected.placement else None
    if wanted_blocks is not None and wanted_blocks != blocks:
        placement = config.placement if isinstance(config, PlacedConfig) else "no"
        raise ConfigurationError(
            f"{source} adapts {placement} blocks, but the placement {expected.placement} "
            f"({_listed(wanted_blocks)}) was given: give that one, or leave it out"
        )


def _check_encoder(source: str, updates: Iterable[ImportedLora]) -> tuple[int, ...]:
    """Return the adapted blocks, if it is the same matrices in each."""
    placed: dict[str, set[int]] = {}
    for update in updates:
        assert update.block is not None
        placed.setdefault(update.matrix, set()).add(update.block)
    (first, blocks), *others = placed.items()
    for matrix, own in others:
        if own != blocks:
            raise ConfigurationError(
                f"{source} adapts {first} in the blocks {_listed(blocks)} and {matrix} in "
                f"{_listed(own)}, but adapters here act on the same matrices of every block they "
                "are placed in: merge it into the weights where it was made, and use these as a "
                "model"
            )
    return tuple(sorted(blocks))


def _check_decoder(source: str, model: SamModel, updates: Iterable[ImportedLora]) -> None:
    expected = set(decoder_layers(model.sam))
    found = {update.target.layer for update in updates}
    if found != expected:
        raise ConfigurationError(
            f"{source} adapts {len(found)} layers of the mask decoder ({min(found)}, …), but "
            f"adapters here act on q_proj and v_proj of all its {len(expected) // 2} attention "
            "layers or on none: merge it into the weights where it was made, and use these as a "
            "model"
        )


def _name(blocks: tuple[int, ...], depth: int, expected: Placement | None) -> str:
    if expected is not None and expected.blocks(depth) == blocks:
        return str(expected)
    return "all" if blocks == tuple(range(depth)) else _listed(blocks)


def _listed(blocks: Iterable[int]) -> str:
    return str(Placement.parse(",".join(map(str, sorted(blocks)))))


def _largest_rank(updates: Iterable[ImportedLora]) -> int:
    return max((update.factors.rank for update in updates), default=0)


def _tensors(updates: Sequence[ImportedLora], scale: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rank, tensors = _largest_rank(updates), {}
    for update in updates:
        factors = update.factors
        name = f"{public_name(update.target.layer)}.slots.{update.target.part}."
        missing = rank - factors.rank
        # Of a fused layer, q, k and v have the same A; here each has its own.
        down, up = factors.down.float().clone(), factors.up.float() * (factors.scale / scale)
        if missing:
            fresh = random_start(missing, down.shape[1], generator)
            down, up = torch.cat([down, fresh]), nn.functional.pad(up, (0, missing))
        tensors[f"{name}A"], tensors[f"{name}B"] = down.contiguous(), up.contiguous()
    return tensors


def _lengths(updates: Iterable[ImportedLora]) -> dict[str, Tensor]:
    """Return DoRA's lengths of the rows of each layer."""
    return {
        f"{public_name(update.target.layer)}.magnitude": update.factors.magnitude.float()
        for update in updates
        if update.factors.magnitude is not None
    }
