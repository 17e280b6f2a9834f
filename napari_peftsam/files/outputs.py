"""Checks of output paths before the work starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from napari_peftsam.errors import ConfigurationError, ExportError


def check_output(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Raise unless a file can be written at `path`.

    Raises
    ------
    ConfigurationError
        If its name does not end in one of `suffixes`.
    ExportError
        If its folder is missing or not writable, or `path` is itself a folder.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigurationError(
            f"{path} has the wrong ending for this output: end its name in {' or '.join(suffixes)}"
        )
    if path.is_dir():
        raise ExportError(f"cannot write {path}: it is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ExportError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    try:
        # Permissions do not reveal read-only disks, so try it.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error.strerror or error}; choose a folder you may write to"
        ) from error


def check_not_an_input(output: Path, *inputs: Path) -> None:
    """Raise `ConfigurationError` if writing `output` would replace one of the inputs."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise ConfigurationError(
                f"{output} is an input of this command and would be overwritten: "
                "choose another name for the output"
            )
