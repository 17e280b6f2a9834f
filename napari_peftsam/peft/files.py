"""Adapter files: one ``.safetensors`` with a JSON description as metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError, InputFileError
from napari_peftsam.files import atomic_path
from napari_peftsam.peft.adapter import FORMAT_VERSION, Adapter, BaseIdentity, content_digest
from napari_peftsam.peft.methods import parse_method_config

__all__ = [
    "METADATA_KEY",
    "adapter_bytes",
    "adapter_from_bytes",
    "assemble_adapter",
    "describe_adapter",
    "load_adapter",
    "read_tensors",
    "save_adapter",
]

METADATA_KEY = "napari_peftsam"


class _Header(BaseModel):
    """The JSON metadata; unknown keys are allowed, so that it can grow."""

    model_config = ConfigDict(extra="ignore")

    format_version: int
    digest: str
    config: dict[str, Any]
    base: BaseIdentity
    normalisation: str
    provenance: dict[str, Any]
    metrics: dict[str, Any]


def save_adapter(adapter: Adapter, path: str | Path) -> None:
    """Write `adapter` to one file; an existing one is replaced as a whole or not at all.

    Raises
    ------
    ConfigurationError
        If its provenance or metrics are not plain JSON values.
    ExportError
        If the file cannot be written.
    """
    content = adapter_bytes(adapter)
    with atomic_path(path) as temporary:
        # Not `save_file`, whose error for a full disk is none of the file system's.
        temporary.write_bytes(content)


def adapter_bytes(adapter: Adapter) -> bytes:
    """Return the content of an adapter file."""
    text = describe_adapter(adapter)
    return bytes(save(dict(adapter.tensors), metadata={METADATA_KEY: text}))


def adapter_from_bytes(content: bytes, name: str) -> Adapter:
    """Rebuild an adapter from `adapter_bytes`.

    Raises
    ------
    AdapterMismatchError
        If the content is damaged or of a newer format; `name` is for the message.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        text = json.loads(content[8 : 8 + length])["__metadata__"][METADATA_KEY]
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AdapterMismatchError(f"the adapter {name} is damaged ({error})") from error
    return assemble_adapter(Path(name), text, tensors)


def describe_adapter(adapter: Adapter) -> str:
    """Return the JSON description of an adapter: all but its tensors."""
    header = {
        "format_version": adapter.format_version,
        "digest": adapter.digest,
        "config": adapter.config.model_dump(mode="json"),
        "base": asdict(adapter.base),
        "normalisation": adapter.normalisation,
        "provenance": dict(adapter.provenance),
        "metrics": dict(adapter.metrics),
    }
    try:
        return json.dumps(header)
    except TypeError as error:
        raise ConfigurationError(
            f"the adapter's provenance or metrics cannot be written as JSON ({error}): "
            "use text, numbers, lists and mappings only"
        ) from error


def load_adapter(path: str | Path) -> Adapter:
    """Read an adapter file.

    Raises
    ------
    InputFileError
        If there is no such file, or it cannot be read.
    AdapterMismatchError
        If it is damaged, no adapter of this plugin, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise InputFileError(f"no adapter file at {path}: check the path")
    try:
        metadata, tensors = read_tensors(path)
    except OSError as error:
        raise InputFileError(f"{path} cannot be read ({error}): check its permissions") from error
    except SafetensorError as error:
        if _is_torch_file(path):
            raise AdapterMismatchError(
                f"{path} is a checkpoint of torch, not an adapter file: use it as the model"
            ) from error
        raise AdapterMismatchError(
            f"{path} is damaged or not a safetensors file ({error}): copy or download it again"
        ) from error
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise AdapterMismatchError(
            f"{path} holds tensors but is not an adapter of napari-peftsam: choose a file "
            "that was saved as an adapter"
        )
    return assemble_adapter(path, text, tensors)


def _is_torch_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"  # a zip archive


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file."""
    with safe_open(path, framework="pt", device="cpu") as file:
        # Clones, because the tensors would go on referring to the file on disk.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return file.metadata() or {}, tensors


def assemble_adapter(path: Path, text: str, tensors: Mapping[str, Tensor]) -> Adapter:
    """Return the adapter of a description by `describe_adapter` and its tensors."""
    try:
        content = json.loads(text)
        version = content["format_version"]
        if version == FORMAT_VERSION:
            header = _Header.model_validate(content)
            config = parse_method_config(header.config)
    except ConfigurationError as error:
        raise AdapterMismatchError(
            f"{path} needs a method or option this version does not have ({error}): "
            "update napari-peftsam"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        what = _first_line(error)
        raise AdapterMismatchError(
            f"the description inside {path} is damaged ({what}): copy or download it again"
        ) from error
    if version != FORMAT_VERSION:
        raise AdapterMismatchError(
            f"{path} has adapter format {version!r}, but this version reads format "
            f"{FORMAT_VERSION}: update napari-peftsam"
        )
    adapter = Adapter(
        config, header.base, tensors, header.normalisation, header.provenance, header.metrics
    )
    if content_digest(adapter, header.config) != header.digest:
        raise AdapterMismatchError(
            f"the contents of {path} do not match its checksum: copy or download it again"
        )
    return adapter


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return (str(error) or type(error).__name__).splitlines()[0]
