"""The models a user can name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["REGISTRY", "ModelEntry", "available_models", "model_names"]

_WEIGHTS = Path(__file__).parent / "weights"
_SAM_SOURCE = "https://github.com/facebookresearch/segment-anything#model-checkpoints"


@dataclass(frozen=True)
class ModelEntry:
    """One model of the registry.

    Attributes
    ----------
    path
        The checkpoint on this computer, None if there is none.
    megabytes
        Size of the checkpoint file.
    source
        Where it comes from.
    """

    name: str
    title: str
    architecture: str
    megabytes: int
    license: str
    source: str
    path: Path | None = None

    @property
    def available(self) -> bool:
        """Whether `build` can load it by name."""
        return self.path is not None and self.path.is_file()


def _sam(name: str, title: str, megabytes: int) -> ModelEntry:
    return ModelEntry(name, title, name, megabytes, "Apache-2.0", _SAM_SOURCE)


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
            _WEIGHTS / "builtin.safetensors",
        ),
        _sam("vit_b", "Segment Anything ViT-B", 375),
        _sam("vit_l", "Segment Anything ViT-L", 1250),
        _sam("vit_h", "Segment Anything ViT-H", 2564),
    )
}


def available_models() -> tuple[ModelEntry, ...]:
    """Return the registry's entries, the built-in model first."""
    return tuple(REGISTRY.values())


def model_names() -> tuple[str, ...]:
    """Return the names of the registry."""
    return tuple(REGISTRY)
