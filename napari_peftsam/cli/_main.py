"""The program: its commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from napari_peftsam import __version__
from napari_peftsam.errors import PeftSamError, printable

from . import adapters, batch, models, projects
from ._console import (
    INTERRUPTED,
    USER_ERROR,
    fail,
    quiet_libraries,
    sure_interrupt,
    wait_for_leader,
)
from .demo import demo
from .evaluate import evaluate
from .finetune import finetune
from .open_viewer import open_images

_BUILTIN = (object, BaseException, Exception)
_SHOWN = 40  # characters of a wrong value

app = typer.Typer(
    name="napari-peftsam",
    help="Annotate microscopy images with Segment Anything, and adapt it to them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time until the help appears
)
app.command("demo")(demo)
app.command("open")(open_images)
for _command in (
    models.models,
    models.methods,
    models.download,
    finetune,
    evaluate,
    batch.embed,
    batch.segment,
    batch.segment_batch,
    projects.info,
    projects.replay,
    projects.recover,
    projects.export,
    adapters.export_model,
    adapters.export_adapter,
    adapters.import_adapter,
):
    app.command(_command.__name__.replace("_", "-"))(_command)

# The base class of typer's usage errors, whose name and place differ between its versions.
_USAGE_ERROR: Any = next(c for c in reversed(typer.BadParameter.__mro__) if c not in _BUILTIN)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        0 on success, 1 if a project differs from what its actions give, 2 if the input or
        the environment is at fault (one line on standard error says why), 130 after Ctrl-C.
    """
    given = None if arguments is None else list(arguments)
    if arguments is None:  # a process of its own
        sure_interrupt()
        quiet_libraries()
        # Before torch is imported: threads that spin while they wait for each other make
        # training ten times slower as soon as another program wants one of the cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        result = app(given, prog_name="napari-peftsam", standalone_mode=False)
    except typer.Exit as exiting:
        return exiting.exit_code
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted")
        return INTERRUPTED
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        wait_for_leader()
        fail(reason)
        return USER_ERROR
    finally:
        if "zarr" in sys.modules:  # the others start fast without it
            from napari_peftsam.files import settle_zarr

            settle_zarr()
    return result if isinstance(result, int) else 0


def _reason(error: Exception) -> str | None:
    """Return what to tell the user; None if the program itself is at fault."""
    if isinstance(error, PeftSamError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    if isinstance(error, _USAGE_ERROR):
        text, cause = str(error.format_message()), error.__cause__
        if hasattr(cause, "errors"):  # pydantic's, of newer versions of typer
            text += f", got {printable(str(cause.errors()[0]['input']), _SHOWN)}"
        return text.replace("Input should be", "it must be")
    # By name, since importing torch takes seconds.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "not enough memory: close other programs, or choose a smaller model or image"
    return None
