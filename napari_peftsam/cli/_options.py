"""Options that commands share; those that mirror a configuration are made from its fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from napari_peftsam.configs import TrainingOptions
from napari_peftsam.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from napari_peftsam.metadata import ReadOptions

    ConfigT = TypeVar("ConfigT", bound=BaseModel)

Values = dict[str, Any]
"""Values of a group of options by name."""

ProjectFile = Annotated[Path, typer.Argument(help="Project file (.peftsam).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_MODEL = "A name of the registry (see `models`) or a checkpoint's path."
Model = Annotated[str, typer.Option(help=_MODEL)]
_FRAME = (
    "Side of the square that images are scaled to: 1024, 768 or 512 pixels for Segment Anything.  "
    "[default: that of the checkpoint]"
)
FrameSize = Annotated[int | None, typer.Option("--frame", help=_FRAME)]


# --- groups of options ----------------------------------------------------------------


def option(name: str, kind: Any, default: Any = None, flag: str = "", **texts: Any) -> Parameter:
    """Return an option of a group; `texts` as of `typer.Option`."""
    made = typer.Option(*[flag] * bool(flag), **texts)
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made]
    )


def options_of(config: type[BaseModel], *names: str, **defaults: str) -> tuple[Parameter, ...]:
    """Make options from fields of a configuration: type, default, limits and help.

    Parameters
    ----------
    config
        The configuration.
    names
        Its fields.
    defaults
        For fields whose default is found later, the text that says which it is; an empty one
        names that of the field, which a recipe may replace.
    """
    made = []
    for name in (*names, *defaults):
        field = config.model_fields[name]
        kind: Any = field.annotation
        limits = {key: getattr(m, key) for m in field.metadata for key in ("ge", "le")
                  if hasattr(m, key)}  # fmt: skip
        if kind == tuple[str, ...]:
            kind = list[str]  # an option that is given several times
        text = defaults.get(name)
        later = "" if text is None else f"  [default: {text or field.default}]"
        made.append(
            option(
                name,
                kind | None if later else kind,
                None if later else list(field.default) if kind == list[str] else field.default,
                min=limits.get("ge"),
                max=limits.get("le"),
                help=f"{field.description}{later}",
            )
        )
    return tuple(made)


def grouped(
    **groups: Sequence[Parameter],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace parameters of a command by groups of options; each gets the values as a dict."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters: list[Parameter] = []
        for parameter in signature.parameters.values():
            parameters += groups.get(parameter.name, [parameter])

        @wraps(command)
        def run(**values: Any) -> None:
            for name, group in groups.items():
                values[name] = {each.name: values.pop(each.name) for each in group}
            command(**values)

        ordered = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in parameters]
        run.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
        return run

    return decorate


def _model_options(default: str | None, model: str, adapter: str) -> tuple[Parameter, ...]:
    """Return the options of a `napari_peftsam.app.choice.ModelChoice`."""
    return (
        option("model", str | None if default is None else str, default, help=model),
        option("adapter", Path | None, help=adapter),
        option("device", str, "auto", help="auto, cpu, cuda or mps."),
        option(
            "precision",
            str,
            "auto",
            help="auto, fp32, bf16 or fp16: what to compute in; auto takes what is fast on the "
            "device.",
        ),
        option("frame", int | None, help=_FRAME),
    )


_ADAPTER = "Adapter file to use with the model."
MODEL = _model_options("builtin", _MODEL, _ADAPTER)


def project_model_options(adapter: str = _ADAPTER) -> tuple[Parameter, ...]:
    """Return `MODEL` for commands that also take a project, which names its model."""
    model = "  [default: builtin; with --project, the one that the project was last used with]"
    return _model_options(None, _MODEL + model, adapter)


SEED = options_of(TrainingOptions, "seed")
SOURCE = (
    option("images", Path | None, help="Folder of images: TIFF, PNG, JPEG or zarr."),
    option(
        "labels", Path | None, help="Folder of instance labels, named as the images they belong to."
    ),
    option(
        "project",
        Path | None,
        help="Project (.peftsam) with the objects, in place of --images and --labels.",
    ),
)
BATCH = (
    option(
        "store", Path | None, help="Folder to keep embeddings in.  [default: that of the viewer]"
    ),
    option(
        "space",
        float | None,
        min=0.001,
        help="Disk space of that folder in GB; what is old goes.  [default: no limit, nothing "
        "goes; the viewer keeps its folder to its own preference]",
    ),
    option(
        "workers",
        int | None,
        min=0,
        help="Worker processes on this computer; 0: none, all in this process.  [default: one per "
        "GPU, else one per four cores; 0 where that is one]",
    ),
    option(
        "scheduler",
        str | None,
        help="Address of a dask scheduler whose workers compute, as tls://10.0.0.5:8786. They must "
        "have this program and see the files under the same paths.",
    ),
)
READING = (
    option(
        "axes",
        str,
        "",
        help="Axes of the files where they do not say, one letter each: T, Z, C, Y, X, and S for "
        "colours, like ZYX or YXC.",
    ),
    option(
        "channels",
        str,
        "",
        help="Channels by number or name, up to three for red, green and blue, with weights: 2, "
        "DAPI, 0,2 or DAPI:0.5,2:0.5.",
    ),
    option(
        "series", int | None, None, min=0, help="Number of the image in files that hold several."
    ),
    option(
        "allow_missing",
        bool,
        False,
        "--allow-missing",
        help="Read OME-TIFF sets of which files are missing; their planes are black.",
    ),
)
NUMBER_PIECES = option(
    "number_pieces",
    bool,
    False,
    "--number-pieces",
    help="Of masks with one number for all objects, take each connected piece as an object.",
)
# The limits of a method's options and their defaults are the method's, so None is "not given".
METHOD = (
    option("method", str | None, help="Name of a method, as `napari-peftsam methods` lists them."),
    option("cobot", bool, False, "--cobot", help="Orchestrate lora or adaptformer by SAM-COBOT."),
    option(
        "rank",
        int | None,
        help="Rank of the update; with COBOT a multiple of 4.  [default: 8; fact: 16]",
    ),
    option("alpha", float | None, help="Factor on the update.  [default: 1; rslora: 4]"),
    option(
        "placement",
        str | None,
        help="Blocks to adapt: all, late-50%, early-25% (any percentage), last, first, or numbers "
        "as 0,3,5-7.  [default: all; late-finetuning: late-50%]",
    ),
    option(
        "matrices",
        str | None,
        help="Matrices of a block to adapt: attention (q and v), all-linear, or a list of q, k, "
        "v, lin1, lin2.  [default: attention]",
    ),
    option(
        "bottleneck",
        int | None,
        help="Inner width of adaptformer; with COBOT a multiple of 4.  [default: 64; with "
        "COBOT: 16]",
    ),
    option(
        "decoder_lora_rank",
        int | None,
        help="Adapt the mask decoder by LoRA of this rank; 0 trains its own weights.  [default: 0]",
    ),
    option(
        "settings",
        list[str] | None,
        None,
        "--set",
        metavar="NAME=VALUE",
        help="Any option of the method, as --set shared=false; may be repeated. `methods --json` "
        "lists them.",
    ),
)


# --- from options to configurations ---------------------------------------------------

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


def read_options(given: Values) -> ReadOptions:
    """Take the values of `READING` out of those of a group: the options to read files with."""
    from napari_peftsam.metadata import ReadOptions

    names = [each.name for each in (*READING, NUMBER_PIECES)]
    return ReadOptions(**{name: given.pop(name) for name in names if name in given})


def default_model(project: Path | None) -> str:
    """Return the model that a project was last used with; of folders the built-in one."""
    if project is None:
        return "builtin"
    from napari_peftsam.app.project_commands import project_model

    return project_model(project)


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


def method_options(given: Values) -> tuple[str | None, Values, bool]:
    """Return the method, its options and whether COBOT orchestrates it, from values of `METHOD`.

    Raises
    ------
    ConfigurationError
        If a text of ``--set`` is not ``NAME=VALUE``, or an option is given twice.
    """
    method, cobot = given.pop("method"), given.pop("cobot")
    settings: Sequence[str] = given.pop("settings") or ()
    options = {name: value for name, value in given.items() if value is not None}
    for setting in settings:
        text, equals, value = setting.partition("=")
        name = text.strip().lower().replace("-", "_")
        if not equals or not name:
            raise ConfigurationError(f"--set takes NAME=VALUE as in shared=false, got {setting!r}")
        if name == "method":
            raise ConfigurationError(f"got --set {setting}: choose the method by --method")
        if name in options:
            raise ConfigurationError(f"the option {name} is given twice: give it once")
        options[name] = value.strip()
    return method, options, cobot


def changed_options(config: type[BaseModel], values: Values) -> list[str]:
    """Return the names of options that do not have their defaults."""
    fields = config.model_fields
    return [name for name, value in values.items() if value != fields[name].default]


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
