"""Trained adapters as values, and their files.

A file is one ``.safetensors`` with a JSON description as metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError, InputFileError
from napari_peftsam.files import atomic_path
from napari_peftsam.limits import check_safetensors, parse_json, safetensors_header
from napari_peftsam.models import DenseHead, SamModel, UnetrDecoder
from napari_peftsam.normalisation import NORMALISATION
from napari_peftsam.peft.inject import Injection, inject
from napari_peftsam.peft.methods import parse_method_config
from napari_peftsam.peft.protocol import MethodConfig
from napari_peftsam.types import JUDGED_IOUS, ModelReference

__all__ = [
    "MOST_JUDGED",
    "Adapter",
    "BaseIdentity",
    "Judged",
    "adapter_bytes",
    "adapter_from_bytes",
    "apply_adapter",
    "capture",
    "dense_head_of",
    "load_adapter",
    "save_adapter",
]

FORMAT_VERSION = 1
METADATA_KEY = "napari_peftsam"
Figures = npt.NDArray[np.floating]
Judged = tuple[Figures, Figures]  # features and IoUs of judged proposals
_LONGEST = 8 * 1024**2  # characters of a description; a million objects trained on take most
_NAMING = ("trained_on", "checked_on", "imported_from", "leave_out", "check_on")
_SIZES = ("rank", "bottleneck", "decoder_lora_rank")
_WHOLE = (torch.int32, torch.int64)
MOST_JUDGED = 1000
"""The most judged proposals that an adapter brings along; of more, the last ones by image."""
_MOST_FIGURES = 64  # of each
_HEAD, _SCORER = "automatic.head.", "automatic.scorer."  # prefixes of what an adapter may hold
_FEATURES, _IOUS = f"{_SCORER}features", JUDGED_IOUS


@dataclass(frozen=True)
class BaseIdentity:
    """The model an adapter was trained on; `weights_hash` decides, names are for people.

    The name ends in the frame where that is not the model's own, as ``vit_b@512``.
    """

    name: str
    architecture: str
    weights_hash: str

    @classmethod
    def of(cls, model: SamModel) -> BaseIdentity:
        """Return the identity of `model`."""
        return cls(model.name, model.architecture.name, model.weights_hash)

    def __str__(self) -> str:
        return f"{self.name} (weights {self.weights_hash[:8]})"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A trained adapter, to be used or trained on; tensors are on the CPU.

    Attributes
    ----------
    config
        Method and options.
    base
        The model it belongs to.
    tensors
        As `Injection.state` returns them, and perhaps what automatic segmentation needs: a
        `head`, and `judged` proposals.
    normalisation
        Name of the intensity normalisation it was trained with.
    provenance, metrics
        How it was made and how good it was; JSON values.
    """

    config: MethodConfig
    base: BaseIdentity
    tensors: Mapping[str, Tensor] = field(repr=False)
    normalisation: str = NORMALISATION
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @cached_property
    def digest(self) -> str:
        """The xxh128 (hex) of everything that determines its output; not its metrics."""
        return _digest(self, self.config.model_dump(mode="json"))

    @property
    def injected(self) -> dict[str, Tensor]:
        """The tensors of the method, without those for automatic segmentation."""
        return _without(self.tensors, _HEAD, _SCORER)

    @property
    def head(self) -> dict[str, Tensor]:
        """The state of its head for automatic segmentation; empty if it has none."""
        return {
            name.removeprefix(_HEAD): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(_HEAD)
        }

    def with_head(self, head: Mapping[str, Tensor]) -> Adapter:
        """Return the adapter with another head, or with none."""
        named = {f"{_HEAD}{name}": tensor for name, tensor in head.items()}
        return replace(self, tensors=_without(self.tensors, _HEAD) | named)

    @property
    def judged(self) -> Judged:
        """Features ``(N, F)`` of judged proposals, and the IoU of each with the true object.

        N is 0 if it brings none along.
        """
        features = self.tensors.get(_FEATURES, torch.zeros(0, 0))
        return features.float().numpy(), self.tensors.get(_IOUS, torch.zeros(0)).float().numpy()

    def with_judged(self, features: Figures, ious: Figures) -> Adapter:
        """Return the adapter with other `judged` proposals; of many, the last.

        Those whose figures are not finite, or IoU not in [0, 1], are left out.
        """
        sound = np.isfinite(features).all(-1) & (ious >= 0) & (ious <= 1)
        features, ious = features[sound], ious[sound]
        tensors = _without(self.tensors, _SCORER)
        for name, values in ((_FEATURES, features), (_IOUS, ious)):
            if len(ious):
                tensors[name] = torch.tensor(values[-MOST_JUDGED:], dtype=torch.float32)
        return replace(self, tensors=tensors)

    def anonymous(self) -> Adapter:
        """Return the adapter without names of images and of the base's file; the digest stays."""
        kept = {k: v for k, v in self.provenance.items() if k not in _NAMING}
        training = kept.get("training")
        if isinstance(training, Mapping):
            kept["training"] = {k: v for k, v in training.items() if k not in _NAMING}
        _, at, frame = self.base.name.partition("@")
        base = replace(self.base, name=f"{self.base.architecture}{at}{frame}")
        return replace(self, provenance=kept, base=base)

    @property
    def changes_embeddings(self) -> bool:
        """True if it changes the image encoder."""
        return self.config.adapts_encoder

    @property
    def channels(self) -> str:
        """The channels it was trained with, as of `ReadOptions`; empty if they are not known."""
        return str(self.provenance.get("channels", ""))

    @property
    def mergeable(self) -> bool:
        """True if it can be folded into plain weights."""
        return self.config.mergeable

    @property
    def scalable(self) -> bool:
        """True if it can be used at a strength between 0 and 1."""
        return self.config.scalable


def _without(tensors: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _digest(adapter: Adapter, config: Mapping[str, Any]) -> str:
    """Return the digest of `adapter` with the options that its file has (later versions: more)."""
    identity = {
        "config": dict(config),
        "weights_hash": adapter.base.weights_hash,
        "normalisation": adapter.normalisation,
    }
    hasher = xxhash.xxh128(json.dumps(identity, sort_keys=True).encode())
    for name in sorted(adapter.tensors):
        tensor = adapter.tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def capture(
    injection: Injection,
    provenance: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Adapter:
    """Return the adapter that `injection` holds now; later training does not change it."""
    return Adapter(
        config=injection.config,
        base=BaseIdentity.of(injection.model),
        tensors=injection.state(),
        provenance=dict(provenance or {}),
        metrics=dict(metrics or {}),
    )


def apply_adapter(model: SamModel, adapter: Adapter) -> Injection:
    """Put a trained adapter into `model`; training can go on from there.

    Raises
    ------
    AdapterMismatchError
        If it was made for another base or normalisation, or its tensors do not fit.
    """
    check_base(model, adapter)
    # The random start is overwritten at once and must not disturb a seeded training.
    with torch.random.fork_rng(devices=[]):
        injection = inject(model, adapter.config, loading=True)
    try:
        if adapter.head:
            dense_head_of(model, adapter)
        injection.load(adapter.injected)
    except BaseException:
        injection.remove()
        raise
    return injection


def dense_head_of(model: SamModel, adapter: Adapter | None) -> DenseHead | UnetrDecoder | None:
    """Return the head for automatic segmentation that an adapter brings, else the model's own.

    Raises
    ------
    AdapterMismatchError
        If the adapter's does not fit the model.
    """
    if adapter is None or not adapter.head:
        return model.dense_head
    head = DenseHead(model.architecture.embedding_width)
    try:
        head.load_state_dict(adapter.head)
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        raise AdapterMismatchError(
            f"the adapter's head for automatic segmentation does not fit {model.name} ({what}): "
            "use the model and version it was made with"
        ) from error
    return head.requires_grad_(False).eval().to(model.device)


def check_base(model: SamModel, adapter: Adapter) -> None:
    """Raise `AdapterMismatchError` unless `adapter` was made for this very base."""
    own = BaseIdentity.of(model)
    if own.weights_hash != adapter.base.weights_hash:
        raise AdapterMismatchError(
            f"this adapter was trained on {adapter.base}, but the model is {own}: "
            f"{_what_to_do(own, adapter.base)}"
        )
    if adapter.normalisation != NORMALISATION:
        raise AdapterMismatchError(
            f"this adapter was trained with the normalisation {adapter.normalisation!r}, but "
            f"this version uses {NORMALISATION!r}: train it again or use the version it was "
            "made with"
        )


def _what_to_do(own: BaseIdentity, wanted: BaseIdentity) -> str:
    loaded, trained = ModelReference.parse(own.name), ModelReference.parse(wanted.name)
    if loaded.source == trained.source and loaded.frame != trained.frame:
        frame = "without a frame" if trained.frame is None else f"with the frame {trained.frame}"
        return f"load {trained.source} {frame} to use it, or train again with the frame of now"
    if own.name != wanted.name:
        return f"load {wanted.name} to use it"
    return (
        f"these are other weights of {own.name}, as another version of this program may bring: "
        "train again on the same annotations, or use the version it was made with"
    )


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
        header = safetensors_header(content, f"the adapter {name}", AdapterMismatchError)
        text, tensors = header["__metadata__"][METADATA_KEY], load(content)
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
        text = json.dumps(header)
    except TypeError as error:
        raise ConfigurationError(
            f"the adapter's provenance or metrics cannot be written as JSON ({error}): "
            "use text, numbers, lists and mappings only"
        ) from error
    if len(text) > _LONGEST and adapter.provenance.keys() & set(_NAMING):
        return describe_adapter(adapter.anonymous())  # else it could not be read
    return text


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
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        if is_zip:
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


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file."""
    check_safetensors(path, AdapterMismatchError)
    with safe_open(path, framework="pt", device="cpu") as file:
        # Clones, because the tensors would go on referring to the file on disk.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return file.metadata() or {}, tensors


def assemble_adapter(path: Path, text: str, tensors: Mapping[str, Tensor]) -> Adapter:
    """Return the adapter of a description by `describe_adapter` and its tensors."""
    if len(text) > _LONGEST:
        raise AdapterMismatchError(
            f"{path} describes itself in {len(text) / 1e6:,.0f} MB, which is too much"
        )
    what = f"the description inside {path}"
    try:
        content = parse_json(text, what, AdapterMismatchError, unique=True)
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
        raise AdapterMismatchError(
            f"{what} is damaged ({_first_line(error)}): copy or download it again"
        ) from error
    if version != FORMAT_VERSION:
        raise AdapterMismatchError(
            f"{path} has adapter format {version!r}, but this version reads format "
            f"{FORMAT_VERSION}: update napari-peftsam"
        )
    _check_tensors(path, config, tensors)
    adapter = Adapter(
        config, header.base, tensors, header.normalisation, header.provenance, header.metrics
    )
    if _digest(adapter, header.config) != header.digest:
        raise AdapterMismatchError(
            f"the contents of {path} do not match its checksum: copy or download it again"
        )
    return adapter


def _check_tensors(path: Path, config: MethodConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raise `AdapterMismatchError` if tensors are not finite, or not of the ranks of the options.

    What options ask for is not made before.
    """
    for name, tensor in tensors.items():
        fractions = tensor.is_floating_point()
        if not (fractions and bool(torch.isfinite(tensor.float()).all())):
            if not fractions and tensor.dtype in _WHOLE and name.startswith(_HEAD):
                continue  # a counter of its normalisation
            raise AdapterMismatchError(
                f"{name} in {path} is not made of finite numbers: copy or train it again"
            )
    injected = _without(tensors, _HEAD, _SCORER)
    sides = {side for tensor in injected.values() for side in tensor.shape}
    for option in _SIZES:
        size = getattr(config, option, 0)
        if size and size not in sides:
            raise AdapterMismatchError(
                f"{path} has no tensor of the {option} {size} that it claims: copy it again"
            )
    scorer = {name: tensor for name, tensor in tensors.items() if name.startswith(_SCORER)}
    if scorer and not _are_judged(scorer):
        raise AdapterMismatchError(
            f"the judged proposals in {path} are damaged: copy or train it again"
        )


def _are_judged(tensors: dict[str, Tensor]) -> bool:
    """Return whether these are features of a possible number of proposals, and their IoUs."""
    if tensors.keys() != {_FEATURES, _IOUS}:
        return False
    features, ious = tensors[_FEATURES], tensors[_IOUS]
    count = len(features) if features.ndim == 2 else 0
    return (
        0 < count <= MOST_JUDGED
        and 0 < features.shape[1] <= _MOST_FIGURES
        and ious.shape == (count,)
        and bool(((ious >= 0) & (ious <= 1)).all())
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return (str(error) or type(error).__name__).splitlines()[0]
