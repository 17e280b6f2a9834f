"""``napari-peftsam models``: what ``--model`` can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._console import emit
from ._options import Json

if TYPE_CHECKING:
    from napari_peftsam.models import ImageKind, ModelEntry

__all__ = ["models"]


def models(as_json: Json = False) -> None:
    """List the models that can be named and whether they are on this computer.

    Last comes which to start with, by kind of image, on this computer's device.
    `napari-peftsam download NAME` gets one that is not here. Models of your own are listed in
    models.toml, see docs/models.md.
    """
    from napari_peftsam.models import IMAGE_KINDS, available_models, device_memory, recommend

    entries = available_models()
    memory = device_memory()
    chosen = {kind: recommend(kind, memory) for kind in IMAGE_KINDS}
    values = [
        _values(entry, [kind for kind, (name, _) in chosen.items() if name == entry.name])
        for entry in entries
    ]
    advice = (f"{IMAGE_KINDS[kind]}: {name}" for kind, (name, _) in chosen.items())
    text = [*map(_text, entries), f"recommended on this computer for {'; '.join(advice)}"]
    emit({"models": values}, as_json, "\n".join(text))


def _values(entry: ModelEntry, recommended_for: list[ImageKind]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "purpose": entry.purpose,
        "architecture": entry.architecture,
        "megabytes": entry.megabytes,
        "license": entry.license,
        "citation": entry.citation,
        "source": entry.source,
        "available": entry.available,
        "path": str(entry.path) if entry.path else None,
        "decoder_available": entry.decoder_path is not None if entry.decoder_url else None,
        "recommended_for": recommended_for,
    }


def _text(entry: ModelEntry) -> str:
    size = f"{entry.megabytes:>5} MB" if entry.megabytes else " " * 8
    here = "available" if entry.available else "not here" if entry.url else "missing"
    license_name = f" ({entry.license})" if entry.license else ""
    purpose = f"\n{'':21}{entry.purpose}" if entry.purpose else ""
    return f"{entry.name:20} {size}  {here:9}  {entry.title}{license_name}{purpose}"
