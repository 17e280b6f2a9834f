"""``napari-peftsam models``: what ``--model`` can name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._console import emit
from ._options import Json

if TYPE_CHECKING:
    from napari_peftsam.models import ModelEntry

__all__ = ["models"]


def models(as_json: Json = False) -> None:
    """List the models that can be named and whether they are on this computer.

    `napari-peftsam download NAME` gets one that is not. Models of your own are listed in
    models.toml, see the README.
    """
    from napari_peftsam.models import available_models

    entries = available_models()
    values = [_values(entry) for entry in entries]
    emit({"models": values}, as_json, "\n".join(_text(entry) for entry in entries))


def _values(entry: ModelEntry) -> dict[str, Any]:
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
        "decoder_available": entry.decoder_path is not None if entry.has_decoder else None,
    }


def _text(entry: ModelEntry) -> str:
    size = f"{entry.megabytes:>5} MB" if entry.megabytes else " " * 8
    here = "available" if entry.available else "not here"
    license_name = f" ({entry.license})" if entry.license else ""
    purpose = f"\n{'':21}{entry.purpose}" if entry.purpose else ""
    return f"{entry.name:20} {size}  {here:9}  {entry.title}{license_name}{purpose}"
