"""Options that several commands share, and the way from options to configurations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from napari_peftsam.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

    ConfigT = TypeVar("ConfigT", bound=BaseModel)

__all__ = ["Adapter", "Device", "Images", "Json", "Labels", "Model", "Seed", "configure", "seconds"]

Images = Annotated[Path, typer.Option(help="Folder of images: TIFF, PNG, JPEG or zarr.")]
Labels = Annotated[
    Path, typer.Option(help="Folder of instance labels, named as the images they belong to.")
]
Model = Annotated[
    str, typer.Option(help="A name of the registry (see `models`) or a checkpoint's path.")
]
Adapter = Annotated[Path | None, typer.Option(help="Adapter file to use with the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]

_TIME = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(s|sec|m|min|h)?")
_UNITS = {None: 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """Return the seconds that ``120``, ``120s``, ``2m`` or ``1h`` mean.

    Raises
    ------
    ConfigurationError
        If it is none of these, or not above 0.
    """
    match = _TIME.fullmatch(text.strip().lower())
    value = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if value <= 0:
        raise ConfigurationError(
            f"the time {text!r} is not known: give more than 0 as in 120s, 2m or 1h"
        )
    return value


def configure(config: type[ConfigT], **values: Any) -> ConfigT:
    """Build a configuration; what does not fit becomes a `ConfigurationError` of one line."""
    from pydantic import ValidationError

    try:
        return config(**values)
    except ValidationError as error:
        problems = (
            f"{'.'.join(str(part) for part in e['loc']) or config.__name__}: {e['msg']}"
            + (f", got {e['input']!r}" if e["loc"] else "")
            for e in error.errors(include_url=False)
        )
        raise ConfigurationError("; ".join(problems)) from None
