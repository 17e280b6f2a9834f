"""Weights and adapters for other programs: plain checkpoints and HF `peft` folders."""

from __future__ import annotations

from pathlib import Path

import torch

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.files import atomic_path
from napari_peftsam.files.outputs import check_not_an_input, check_output
from napari_peftsam.models import DENSE_HEAD, SamModel, build, checkpoint_state
from napari_peftsam.peft import (
    EXCHANGE_FORMATS,
    Adapter,
    ExpectedAdapter,
    check_replaceable,
    export_hf_peft,
    import_adapter,
    load_adapter,
    merge,
    restore_adapter,
    save_adapter,
)

__all__ = ["export_adapter_folder", "export_model", "import_adapter_file"]


def export_adapter_folder(
    model: str | Path, adapter: Path, output: Path, format_name: str = "hf-peft"
) -> Path:
    """Write an adapter as a folder that another program loads onto the same model; slow.

    Parameters
    ----------
    model
        The model it was trained on: a name of the registry, or the path of a checkpoint.
    adapter
        The adapter file.
    output
        A new folder, or an older export, which is replaced.
    format_name
        One of `EXCHANGE_FORMATS`.

    Raises
    ------
    PeftSamError
        If the model or the adapter cannot be used, the format cannot hold its method, or
        `output` cannot be written; see `napari_peftsam.peft.export_hf_peft`.
    """
    if format_name not in EXCHANGE_FORMATS:
        raise ConfigurationError(
            f"unknown format {format_name!r}: choose one of {', '.join(EXCHANGE_FORMATS)}"
        )
    check_not_an_input(output, Path(model), adapter)
    if output.is_dir():
        check_replaceable(output)
        check_output(output / "x")
    else:
        check_output(output)
    trained = load_adapter(adapter)
    export_hf_peft(build(model), trained, output)
    return output


def import_adapter_file(
    source: Path,
    output: Path,
    model: str | Path | None = None,
    expected: ExpectedAdapter | None = None,
) -> Adapter:
    """Write an adapter that HF `peft` trained as an adapter file; slow.

    Parameters
    ----------
    source
        A folder of HF `peft`.
    output
        The ``.safetensors`` file to write.
    model
        The model it was trained on. None: an export of this program knows it; else the
        built-in one.
    expected
        What the user knows of it, see `napari_peftsam.peft.import_adapter`.

    Raises
    ------
    PeftSamError
        If the source or the model cannot be used, or `output` cannot be written.
    """
    check_output(output, (".safetensors",))
    check_not_an_input(output, source, *(source.iterdir() if source.is_dir() else ()))
    adapter = restore_adapter(source, expected) if model is None else None
    if adapter is None:
        adapter = import_adapter(source, build(model or "builtin"), expected)
    save_adapter(adapter, output)
    return adapter


def export_model(
    model: SamModel, adapter: Adapter | None, path: Path, strength: float = 1.0
) -> Path:
    """Write the model's weights, with `adapter` merged in, as a plain SAM state dict.

    `segment_anything.sam_model_registry` loads it if the architecture is one of its own,
    MobileSAM's loads ``vit_t``; `napari_peftsam.models.build` loads it in any case, with
    the dense head of the built-in model. `strength` is a factor on the adapter's changes.

    Raises
    ------
    ConfigurationError
        If the adapter's method cannot be merged.
    ExportError
        If the file cannot be written; a file that was there before is untouched.
    """
    state = model.sam.state_dict() if adapter is None else merge(model, adapter, strength)
    named = checkpoint_state(model.architecture, state)
    if model.dense_head is not None:
        named |= {f"{DENSE_HEAD}{key}": v for key, v in model.dense_head.state_dict().items()}
    plain = {name: tensor.cpu() for name, tensor in named.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(plain, file)
        except RuntimeError as error:
            # When the file system refuses, torch reports that its own count is wrong.
            cause = error.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(error)) from error
    return path
