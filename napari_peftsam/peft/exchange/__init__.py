"""Adapters to and from folders of HF `peft`.

Low-rank methods (those with `MethodConfig.low_rank`) become one LoRA or DoRA of HF, exactly: fused
there and separate here is the same product. QLoRA is written as LoRA: load the base there in 4
bits, too, or expect the difference that quantisation makes. Tuned mask decoder and prompt encoder
go along as ``modules_to_save``, buffers included. A method without update of the encoder has no
target modules there; `peft` 0.15 and later takes that. ``PeftModel.from_pretrained(sam, folder)``
changes `sam` in place.

The metadata of the folder's safetensors file holds our own description, so that it is read back
as the same adapter, method and options included. Once `peft` has trained it on and saved it, the
description is gone, and it is read as any folder of `peft`.

Images are not part of an adapter: another program must normalise them as this one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError, InputFileError
from napari_peftsam.models import SamModel, architecture
from napari_peftsam.peft.adapter import METADATA_KEY, Adapter, check_base, read_tensors
from napari_peftsam.peft.exchange._read import read_folder
from napari_peftsam.peft.exchange._write import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_replaceable,
    export_hf_peft,
    restore,
)
from napari_peftsam.peft.placement import Placement
from napari_peftsam.peft.protocol import PlacedConfig

__all__ = [
    "EXCHANGE_FORMATS",
    "ExpectedAdapter",
    "check_replaceable",
    "export_hf_peft",
    "import_adapter",
    "restore_adapter",
]

EXCHANGE_FORMATS = ("hf-peft",)
"""Formats that adapters can be exported to."""


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


def restore_adapter(source: str | Path, expected: ExpectedAdapter | None = None) -> Adapter | None:
    """Return the adapter of a folder that `export_hf_peft` wrote, None for other folders.

    Raises
    ------
    InputFileError, AdapterMismatchError
        If there is no folder, or it is damaged.
    ConfigurationError
        If the adapter differs from `expected`.
    """
    source = _located(Path(source))
    adapter = _restored(source)
    if adapter is not None:
        _check_expected(source.name, adapter, expected or ExpectedAdapter())
    return adapter


def import_adapter(
    source: str | Path, model: SamModel, expected: ExpectedAdapter | None = None
) -> Adapter:
    """Read an adapter that HF `peft` or `export_hf_peft` wrote.

    LoRA, rsLoRA and DoRA on ``attn.qkv``, ``mlp.lin1`` and ``mlp.lin2`` of some blocks, and on q
    and v of the mask decoder can be read. On a fused layer A is shared there; here q, k and v
    have a copy each, unless some have no update at all.

    Parameters
    ----------
    source
        The folder.
    model
        The base that the adapter was trained on, without adapter. The folders do not name it:
        only shapes can be checked.
    expected
        What the user knows of the adapter, compared with what is read.

    Raises
    ------
    InputFileError
        If there is no such folder at `source`.
    AdapterMismatchError
        If it is damaged or does not fit the model.
    ConfigurationError
        If no method here does the same, or the adapter differs from `expected`.
    """
    source, expected = _located(Path(source)), expected or ExpectedAdapter()
    adapter = _restored(source)
    if adapter is None:
        adapter = read_folder(source, model, expected.placement)
    else:
        check_base(model, adapter)
    _check_expected(source.name, adapter, expected)
    return adapter


def _located(source: Path) -> Path:
    if not source.exists():
        raise InputFileError(f"no such file or folder: {source}")
    if source.name in (CONFIG_FILE, WEIGHTS_FILE):
        source = source.parent
    if not source.is_dir():
        if source.suffix == ".safetensors" and _is_adapter_file(source):
            raise ConfigurationError(
                f"{source} is an adapter file of napari-peftsam already: use it as it is"
            )
        raise InputFileError(
            f"{source} is not a folder: choose a folder that HF peft or export-adapter wrote; "
            "a checkpoint is used as the model (--model)"
        )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (source / name).is_file():
            raise InputFileError(
                f"{source} has no {name}: choose a folder that HF peft or export-adapter "
                "wrote (with safetensors)"
            )
    return source


def _is_adapter_file(path: Path) -> bool:
    try:
        return METADATA_KEY in read_tensors(path)[0]
    except (OSError, SafetensorError):
        return False


def _restored(folder: Path) -> Adapter | None:
    try:
        return restore(folder)
    except OSError as error:
        raise InputFileError(f"{folder} cannot be read ({error}): check its permissions") from error
    except SafetensorError as error:
        raise AdapterMismatchError(
            f"a file in {folder} is damaged or not a safetensors file ({error}): copy or download "
            "it again"
        ) from error


def _check_expected(source: str, adapter: Adapter, expected: ExpectedAdapter) -> None:
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
            f"({Placement.of(wanted_blocks)}) was given: give that one, or leave it out"
        )
