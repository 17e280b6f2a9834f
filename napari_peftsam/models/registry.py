"""The models a user can name: one table, and the user's own entries.

The weights of Segment Anything come from its release host, ``dl.fbaipublicfiles.com``. Those
that micro-sam finetuned on microscopy (``_lm``, ``_em_organelles``) come from the BioImage
Model Zoo's bucket at the EBI, ``uk1s3.embassy.ebi.ac.uk``, and MobileSAM's from micro-sam's
copy at the GWDG, ``owncloud.gwdg.de``. Addresses and digests are those of micro-sam's own
registry; the licence of its weights is the one its exporter writes into the model zoo.
Nothing is downloaded unless the user asks for it: `napari_peftsam.models.download`.

The user's own models are in ``models.toml`` in the configuration folder, one table per model
with a file on this computer or an address to download it from::

    [[model]]
    name = "our_nuclei"
    path = "checkpoints/our_nuclei.pth"   # relative to models.toml; or url = "https://..."
    xxh128 = "0123456789abcdef0123456789abcdef"
    title = "Our nuclei"
    purpose = "Nuclei of our spinning disc, 40x."
    license = "CC-BY-4.0"
    megabytes = 375

Only `name` and one of `path` and `url` are needed; an address with ``http://`` needs `xxh128`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.folders import configuration_folder, expanded
from napari_peftsam.limits import CONFIGURATION_BYTES, parse_toml, read_text, validated
from napari_peftsam.models.entry import ModelEntry, is_trusted, public

__all__ = ["REGISTRY", "available_models", "find_model", "model_names"]

# No dot and no slash: a name can never be mistaken for a checkpoint's path.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DIGEST = re.compile(r"[0-9a-f]{32}")
Text = Annotated[str, Field(min_length=1)]
_MANY = 10**9

_WEIGHTS = Path(__file__).parent / "weights"
_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_ZOO = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io/"
_SAM_SOURCE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"
_SAM_PAPER = "Kirillov et al., Segment Anything, ICCV 2023, https://arxiv.org/abs/2304.02643"
_MICRO_SAM_PAPER = (
    "Archit et al., Segment Anything for Microscopy, Nature Methods 2025, "
    "https://doi.org/10.1038/s41592-024-02580-4"
)
_MEGABYTES = {"vit_b": 375, "vit_l": 1250, "vit_h": 2565}
_LM = "cells and nuclei in light microscopy: fluorescence, phase contrast, brightfield"
_EM = "mitochondria and nuclei in electron microscopy"


def _sam(name: str, title: str, file: str, xxh128: str, purpose: str) -> ModelEntry:
    return ModelEntry(
        name, title, name, _MEGABYTES[name], "Apache-2.0", _SAM_SOURCE, purpose, _SAM_PAPER,
        url=f"{_META}{file}", xxh128=xxh128,
    )  # fmt: skip


def _micro_sam(
    name: str, animal: str, xxh128: str, decoder_xxh128: str, title: str, purpose: str
) -> ModelEntry:
    architecture = name[: len("vit_b")]
    files = f"{_ZOO}{animal}/1.2/files/{architecture}"
    return ModelEntry(
        name,
        title,
        architecture,
        _MEGABYTES[architecture],
        "CC-BY-4.0",
        f"https://bioimage.io/#/?id={animal}",
        purpose,
        _MICRO_SAM_PAPER,
        url=f"{files}.pt",
        xxh128=xxh128,
        decoder_url=f"{files}_decoder.pt",
        decoder_xxh128=decoder_xxh128,
    )


REGISTRY: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "builtin",
            "Built-in microscopy SAM (small, offline)",
            "builtin",
            6,
            "MIT",
            "napari_peftsam/models/weights/MODEL_CARD.md",
            "Cells, nuclei and similar compact objects, at once and offline, on any laptop; "
            "meant to be finetuned.",
            file=_WEIGHTS / "builtin.safetensors",
        ),
        _sam(
            "vit_b", "Segment Anything ViT-B", "sam_vit_b_01ec64.pth",
            "6923c33df3637b6a922d7682bfc9a86b",
            "Anything with a visible outline; trained on photographs, the fastest of the three.",
        ),
        _sam(
            "vit_l", "Segment Anything ViT-L", "sam_vit_l_0b3195.pth",
            "a82beb3c660661e3dd38d999cc860e9a",
            "Anything with a visible outline; better than ViT-B on photographs, wants a GPU.",
        ),
        _sam(
            "vit_h", "Segment Anything ViT-H", "sam_vit_h_4b8939.pth",
            "97698fac30bd929c2e6d8d8cc15933c2",
            "Anything with a visible outline; the largest, needs a GPU with much memory.",
        ),
        ModelEntry(
            "vit_t",
            "MobileSAM (TinyViT)",
            "vit_t",
            41,
            "Apache-2.0",
            "https://github.com/ChaoningZhang/MobileSAM",
            "Anything with a visible outline; small, and fast without a GPU, but only its decoder "
            "can be finetuned (needs the extra `mobile`).",
            "Zhang et al., Faster Segment Anything: Towards Lightweight SAM for Mobile "
            "Applications, 2023, https://arxiv.org/abs/2306.14289",
            url="https://owncloud.gwdg.de/index.php/s/TuDzuwVDHd1ZDnQ/download",
            xxh128="8eadbc88aeb9d8c7e0b4b60c3db48bd0",
        ),
        _micro_sam(
            "vit_b_lm", "diplomatic-bug",
            "fe9252a29f3f4ea53c15a06de471e186", "708b15ac620e235f90bb38612c4929ba",
            "micro-sam light microscopy ViT-B", f"For {_LM}.",
        ),
        _micro_sam(
            "vit_l_lm", "idealistic-rat",
            "017f20677997d628426dec80a8018f9d", "2faeafa03819dfe03e7c46a44aaac64a",
            "micro-sam light microscopy ViT-L", f"For {_LM}; larger and slower, wants a GPU.",
        ),
        _micro_sam(
            "vit_b_em_organelles", "noisy-ox",
            "f3bf2ed83d691456bae2c3f9a05fb438", "bb6398956a6b0132c26b631c14f95ce2",
            "micro-sam EM organelles ViT-B", f"For {_EM}.",
        ),
        _micro_sam(
            "vit_l_em_organelles", "humorous-crab",
            "810b084b6e51acdbf760a993d8619f2d", "334877640bfdaaabce533e3252a17294",
            "micro-sam EM organelles ViT-L", f"For {_EM}; larger and slower, wants a GPU.",
        ),
    )
}  # fmt: skip
"""The models this program knows by itself."""


def available_models() -> tuple[ModelEntry, ...]:
    """Return the models of `REGISTRY`, then the user's own.

    Raises
    ------
    ConfigurationError
        If the user's ``models.toml`` cannot be read, or an entry is wrong; it names the file
        and the entry.
    """
    return (*REGISTRY.values(), *_own_models())


def find_model(name: str) -> ModelEntry | None:
    """Return the model called `name`, None if there is none.

    The user's file is read only if it matters: while it is wrong, the models of `REGISTRY`
    and checkpoints by path still load.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    if not _NAME.fullmatch(name):
        return None
    return next((e for e in _own_models() if e.name == name), None)


def model_names() -> tuple[str, ...]:
    """Return the names of all models, see `available_models`."""
    return tuple(entry.name for entry in available_models())


class _Table(BaseModel):
    """One ``[[model]]`` of ``models.toml``."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: Text
    path: Text = ""
    url: Text = ""
    xxh128: Text = ""
    title: Text = ""
    purpose: Text = ""
    license: Text = ""
    citation: Text = ""
    megabytes: float = Field(0, ge=0, lt=_MANY)

    @model_validator(mode="after")
    def _check(self) -> Self:
        digest = self.xxh128
        checks = {
            "needs a name of letters, digits, '_' and '-'": _NAME.fullmatch(self.name),
            "needs either a path or a url": bool(self.path) != bool(self.url),
            f"the url must begin with https://, or http:// with xxh128, got {public(self.url)!r}": (
                not self.url or (_is_address(self.url) and is_trusted(self.url, digest))
            ),
            f"xxh128 must be 32 hexadecimal digits, got {digest!r}": (
                not digest or _DIGEST.fullmatch(digest.lower())
            ),
        }
        for problem, right in checks.items():
            if not right:
                raise ValueError(problem)
        return self


def _own_models() -> tuple[ModelEntry, ...]:
    file = configuration_folder() / "models.toml"
    try:
        content = parse_toml(
            read_text(file, CONFIGURATION_BYTES, ConfigurationError), file, ConfigurationError
        )
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from error
    tables = content.get("model", [])
    if content.keys() - {"model"} or not isinstance(tables, list):
        raise ConfigurationError(f"{file} must hold [[model]] tables and nothing else")
    # Names become file names, and some disks do not distinguish upper from lower case.
    used = {name.casefold(): "comes with the program" for name in REGISTRY}
    entries = []
    for number, content in enumerate(tables, start=1):
        where = f"{file}, model {number}"
        if isinstance(content, dict) and content.get("name"):
            where += f" ({content['name']!r})"
        table = validated(_Table, content, where)
        if taken := used.get(table.name.casefold()):
            raise ConfigurationError(f"{where}: a model of this name {taken}: choose another")
        used[table.name.casefold()] = "is listed before"
        entries.append(_own_model(table, file))
    return tuple(entries)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return url.isprintable() and bool(parts.hostname)
    except ValueError:  # e.g. a bracket that is not closed
        return False


def _own_model(table: _Table, file: Path) -> ModelEntry:
    path, megabytes = None, table.megabytes
    if table.path:
        path = Path(table.path)
        with suppress(ConfigurationError):  # an unknown home: then the folder is called "~somebody"
            path = expanded(path)
        path = file.parent / path  # an absolute path replaces the parent
        with suppress(OSError, ValueError):  # ValueError: no path at all, e.g. with a zero in it
            megabytes = megabytes or max(1, path.stat().st_size / 1e6)
    return ModelEntry(
        table.name, table.title or table.name, "", round(megabytes), table.license,
        public(table.url) or str(path), table.purpose, table.citation,
        file=path, url=table.url, xxh128=table.xxh128.lower(),
    )  # fmt: skip
