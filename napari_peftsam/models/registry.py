"""The models a user can name: one table, and the user's own entries.

The weights of Segment Anything come from its release host, ``dl.fbaipublicfiles.com``. Those
that micro-sam finetuned on microscopy (``_lm``, ``_em_organelles``) come from the BioImage
Model Zoo's bucket at the EBI, ``uk1s3.embassy.ebi.ac.uk``, and MobileSAM's from micro-sam's
copy at the GWDG, ``owncloud.gwdg.de``. Addresses and digests are those of micro-sam's own
registry; the licence of its weights is the one its exporter writes into the model zoo.
Nothing is downloaded unless the user asks for it: `napari_peftsam.models.download`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from napari_peftsam.models._own_models import NAME, read_own_models
from napari_peftsam.models.entry import ModelEntry

__all__ = ["REGISTRY", "available_models", "find_model", "model_names"]

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


def available_models(folder: Path | None = None) -> tuple[ModelEntry, ...]:
    """Return all models that can be named: the table's, then the user's own.

    Parameters
    ----------
    folder
        Where downloads are kept; default: `napari_peftsam.folders.model_folder`.

    Raises
    ------
    ConfigurationError
        If the user's ``models.toml`` is wrong, see `read_own_models`.
    """
    entries = (*REGISTRY.values(), *read_own_models(REGISTRY))
    return tuple(replace(entry, folder=folder) for entry in entries)


def find_model(name: str, folder: Path | None = None) -> ModelEntry | None:
    """Return the model called `name`, None if there is none.

    The user's file is read only where it matters: while it is wrong, the table's models
    and checkpoints by path still load.

    Raises
    ------
    ConfigurationError
        If `name` could be one of the user's and their ``models.toml`` is wrong.
    """
    if name in REGISTRY:
        return replace(REGISTRY[name], folder=folder)
    if not NAME.fullmatch(name):
        return None
    return next((e for e in available_models(folder) if e.name == name), None)


def model_names() -> tuple[str, ...]:
    """Return the names of all models, see `available_models`."""
    return tuple(entry.name for entry in available_models())
