"""Adapters to and from other programs: HF `peft`, and checkpoints of micro-sam.

What is exact, in both directions:

- Low-rank methods (those with `PeftMethod.low_rank`: LoRA, rsLoRA, DoRA, PiSSA, FacT-TT,
  LoRA + COBOT, LoRA in the mask decoder) become one LoRA or DoRA of HF. Fused there and
  separate here is the same product. What QLoRA learned is written as LoRA: load the base there
  in 4 bits, too, or expect the difference that quantisation makes.
- Tuned mask decoder and prompt encoder go along as ``modules_to_save``, buffers included, and
  are used by `peft` through ``sam.mask_decoder(...)``, ``sam.prompt_encoder(...)`` and its
  ``get_dense_pe()``: ``PeftModel.from_pretrained(sam, folder)`` changes `sam` in place. A method
  without update of the encoder has no target modules there; `peft` 0.15 and later takes that.
- The folder has our own description in the metadata of its safetensors file, so that it is
  read back as the very adapter, method and options included. Once `peft` has trained it on and
  saved it, the description is gone, and it is read as any folder of `peft`.

Images are not part of an adapter: another program must normalise them as this one does.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError, InputFileError
from napari_peftsam.models import SamModel
from napari_peftsam.peft._found import Told, check_told
from napari_peftsam.peft._hf_peft import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_replaceable,
    restore,
    write_folder,
)
from napari_peftsam.peft._hf_peft_read import read_folder
from napari_peftsam.peft._micro_sam_lora import read_checkpoint
from napari_peftsam.peft.adapter import Adapter, check_base
from napari_peftsam.peft.io import METADATA_KEY, read_tensors

__all__ = [
    "EXCHANGE_FORMATS",
    "Told",
    "check_replaceable",
    "export_hf_peft",
    "import_adapter",
    "restore_adapter",
]

EXCHANGE_FORMATS = ("hf-peft",)
"""What adapters can be exported to."""


def export_hf_peft(model: SamModel, adapter: Adapter, folder: str | Path) -> None:
    """Write a folder that HF `peft` loads onto the same base model.

    Parameters
    ----------
    model
        The base, without adapter.
    adapter
        Of a low-rank method.
    folder
        A new folder, or an older export, which is replaced as a whole or not at all.

    Raises
    ------
    ConfigurationError
        If HF's LoRA cannot do what the method does; the message says what to do instead.
    AdapterMismatchError
        If the adapter belongs to another base or its tensors do not fit.
    ExportError
        If the folder holds anything else, or cannot be written.
    """
    write_folder(model, adapter, Path(folder))


def restore_adapter(source: str | Path, told: Told | None = None) -> Adapter | None:
    """Return the adapter of a folder that `export_hf_peft` wrote, None for all else.

    Raises
    ------
    InputFileError, AdapterMismatchError
        If there is nothing, or it is damaged.
    ConfigurationError
        If it is not as `told`.
    """
    source = _located(Path(source))
    adapter = _checked_folder(source) if source.is_dir() else None
    if adapter is not None:
        check_told(source.name, adapter, told or Told())
    return adapter


def import_adapter(source: str | Path, model: SamModel, told: Told | None = None) -> Adapter:
    """Read an adapter that another program wrote.

    - A folder of HF `peft`: LoRA, rsLoRA or DoRA on ``attn.qkv``, ``mlp.lin1`` and ``mlp.lin2`` of
      some blocks, and on q and v of the mask decoder. On a fused layer A is shared there; here
      q, k and v have a copy each, unless some have no update at all.
    - A checkpoint of micro-sam's LoRA training; what is frozen in it must be the model's. Its
      mask decoder and prompt encoder become the adapter's. It does not tell a factor on the
      updates, which is the constant 1 there.

    Parameters
    ----------
    source
        The folder or the checkpoint.
    model
        The base that the adapter was trained on, without adapter. HF's folders do not say
        which that is: only shapes can be checked.
    told
        What is known of it, to be compared with what is found.

    Raises
    ------
    InputFileError
        If there is nothing at `source`, or nothing of these kinds.
    CheckpointError
        If a checkpoint cannot be read safely, has no LoRA layers, or another architecture.
    AdapterMismatchError
        If it is damaged or does not fit the model.
    ConfigurationError
        If nothing here does the same, or it is not as `told`.
    """
    source, told = _located(Path(source)), told or Told()
    if source.is_dir():
        adapter = _checked_folder(source)
        if adapter is None:
            adapter = read_folder(source, model, told)
        else:
            check_base(model, adapter)
    else:
        adapter = read_checkpoint(source, model, told)
    check_told(source.name, adapter, told)
    return adapter


def _located(source: Path) -> Path:
    if not source.exists():
        raise InputFileError(f"no such file or folder: {source}")
    if source.name in (CONFIG_FILE, WEIGHTS_FILE):
        source = source.parent
    if source.is_dir():
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (source / name).is_file():
                raise InputFileError(
                    f"{source} has no {name}: choose a folder that HF peft or export-adapter "
                    "wrote (with safetensors), or a checkpoint of micro-sam"
                )
    elif source.suffix == ".safetensors" and _is_adapter_file(source):
        raise ConfigurationError(
            f"{source} is an adapter file of napari-peftsam already: use it as it is"
        )
    return source


def _is_adapter_file(path: Path) -> bool:
    try:
        return METADATA_KEY in read_tensors(path)[0]
    except (OSError, SafetensorError):
        return False  # said better where it is read as a checkpoint


def _checked_folder(folder: Path) -> Adapter | None:
    try:
        return restore(folder)
    except OSError as error:
        raise InputFileError(f"{folder} cannot be read ({error}): check its permissions") from error
    except SafetensorError as error:
        raise AdapterMismatchError(
            f"a file in {folder} is damaged or not a safetensors file ({error}): copy or download "
            "it again"
        ) from error
