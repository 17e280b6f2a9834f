"""``napari-peftsam models``: what ``--model`` can name."""

from __future__ import annotations

from ._console import emit
from ._options import Json

__all__ = ["models"]


def models(as_json: Json = False) -> None:
    """List the models of the registry and whether they are on this computer."""
    from napari_peftsam.models import available_models

    entries = [
        {
            "name": entry.name,
            "title": entry.title,
            "architecture": entry.architecture,
            "megabytes": entry.megabytes,
            "license": entry.license,
            "source": entry.source,
            "available": entry.available,
        }
        for entry in available_models()
    ]
    lines = (
        f"{e['name']:8} {e['megabytes']:>5} MB  {'available' if e['available'] else 'not here':9}  "
        f"{e['title']} ({e['license']})"
        for e in entries
    )
    emit({"models": entries}, as_json, "\n".join(lines))
