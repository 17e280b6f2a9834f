"""Options that several commands share, and the way from options to configurations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from napari_peftsam.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

    ConfigT = TypeVar("ConfigT", bound=BaseModel)

__all__ = [
    "Adapter",
    "Alpha",
    "Bottleneck",
    "Cobot",
    "DecoderLoraRank",
    "Device",
    "Images",
    "Json",
    "Labels",
    "Matrices",
    "Method",
    "Model",
    "Placement",
    "Precision",
    "Project",
    "ProjectFile",
    "ProjectModel",
    "Rank",
    "Scheduler",
    "Seed",
    "Settings",
    "Space",
    "Store",
    "Workers",
    "configure",
    "folders_of",
    "method_options",
    "seconds",
]

Images = Annotated[
    Path | None, typer.Option(help="Folder of images: TIFF, PNG, JPEG or zarr.", show_default=False)
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Folder of instance labels, named as the images they belong to.", show_default=False
    ),
]
Project = Annotated[
    Path | None,
    typer.Option(help="Project (.peftsam) with the objects, in place of --images and --labels."),
]
ProjectFile = Annotated[Path, typer.Argument(help="Project file (.peftsam).")]
ProjectModel = Annotated[
    str | None,
    typer.Option(
        help="A name of the registry (see `models`) or a checkpoint's path.  [default: builtin; "
        "with --project, the one that the project was last used with]"
    ),
]
Model = Annotated[
    str, typer.Option(help="A name of the registry (see `models`) or a checkpoint's path.")
]
Adapter = Annotated[Path | None, typer.Option(help="Adapter file to use with the model.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[
    str,
    typer.Option(
        help="auto, fp32, bf16 or fp16: what to compute in; auto takes what is fast on the device."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Worker processes on this computer; 0: none, all in this process.  [default: one per "
        "GPU, else one per four cores; 0 where that is one]",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a dask scheduler whose workers compute, as tcp://10.0.0.5:8786. They must "
        "have this program and see the files under the same paths."
    ),
]
Store = Annotated[
    Path | None, typer.Option(help="Folder to keep embeddings in.  [default: that of the viewer]")
]
Space = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Disk space of that folder in GB; what is old goes.  [default: no limit, nothing "
        "goes; the viewer keeps its folder to its own preference]",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Method = Annotated[
    str | None, typer.Option(help="Name of a method, as `napari-peftsam methods` lists them.")
]
Rank = Annotated[
    int | None,
    typer.Option(help="Rank of the update; with COBOT a multiple of 4.  [default: 8; fact: 16]"),
]
Alpha = Annotated[float | None, typer.Option(help="Factor on the update.  [default: 1; rslora: 4]")]
Placement = Annotated[
    str | None,
    typer.Option(
        help="Blocks to adapt: all, late-50%, early-25% (any percentage), last, first, or numbers "
        "as 0,3,5-7.  [default: all; late-finetuning: late-50%]"
    ),
]
Matrices = Annotated[
    str | None,
    typer.Option(
        help="Matrices of a block to adapt: attention (q and v), all-linear, or a list of q, k, "
        "v, lin1, lin2.  [default: attention]"
    ),
]
Bottleneck = Annotated[
    int | None,
    typer.Option(
        help="Inner width of adaptformer; with COBOT a multiple of 4.  [default: 64; with "
        "COBOT: 16]"
    ),
]
DecoderLoraRank = Annotated[
    int | None,
    typer.Option(
        help="Adapt the mask decoder by LoRA of this rank; 0 trains its own weights.  [default: 0]"
    ),
]
Cobot = Annotated[
    bool, typer.Option("--cobot", help="Orchestrate lora or adaptformer by SAM-COBOT.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any option of the method, as --set shared=false; may be repeated. `methods --json` "
        "tells which there are.",
    ),
]

_TIME = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(s|sec|m|min|h)?")
_UNITS = {None: 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def folders_of(
    images: Path | None, labels: Path | None, project: Path | None
) -> tuple[Path, Path] | None:
    """Return the folders that were given, None if a project was.

    Raises
    ------
    ConfigurationError
        If both were given, or not all that is needed.
    """
    given = {"--images": images, "--labels": labels, "--project": project}
    named = " and ".join(name for name, value in given.items() if value is not None)
    if project is not None and images is None and labels is None:
        return None
    if project is None and images is not None and labels is not None:
        return images, labels
    raise ConfigurationError(
        f"got {named or 'no input'}: give either --project or both --images and --labels"
    )


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


def method_options(settings: Sequence[str] | None, **named: Any) -> dict[str, Any]:
    """Return the options of a method that were given, by their names in its configuration.

    Parameters
    ----------
    settings
        Texts ``NAME=VALUE``.
    named
        Values of options that the command line has itself; None if not given.

    Raises
    ------
    ConfigurationError
        If a text has another form, or an option is given twice.
    """
    options = {name: value for name, value in named.items() if value is not None}
    for setting in settings or ():
        text, equals, value = setting.partition("=")
        name = text.strip().lower().replace("-", "_")
        if not equals or not name:
            raise ConfigurationError(f"--set takes NAME=VALUE as in shared=false, got {setting!r}")
        if name == "method":
            raise ConfigurationError(f"got --set {setting}: choose the method by --method")
        if name in options:
            raise ConfigurationError(f"the option {name} is given twice: give it once")
        options[name] = value.strip()
    return options


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
