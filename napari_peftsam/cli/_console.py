"""Printing: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import typer

__all__ = ["INTERRUPTED", "USER_ERROR", "Progress", "emit", "fail", "say"]

USER_ERROR = 2
INTERRUPTED = 130
"""Exit codes; the latter is what shells report of a program that Ctrl-C ended."""

_SECONDS_BETWEEN_LINES = 10.0
_BAR = 24


def say(message: str) -> None:
    """Print a message on standard error."""
    typer.echo(message, err=True)


def fail(message: str) -> None:
    """Print an error on one line of standard error."""
    say(f"error: {' '.join(message.split())}")


def emit(values: Mapping[str, Any] | Sequence[Mapping[str, Any]], as_json: bool, text: str) -> None:
    """Print a command's result: one JSON object or list, or text for people."""
    typer.echo(json.dumps(values, allow_nan=False) if as_json else text)


class Progress:
    """A line that tells how far a long command is; redrawn on a terminal, else repeated.

    Use it as a context, so that what follows begins on a line of its own.
    """

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._width = 0
        self._due = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Begin a new line, if the progress line is shown."""
        if self._width:
            typer.echo("", err=True)
            self._width = 0

    def show(self, fraction: float, text: str) -> None:
        """Show the share done, in [0, 1], and some words."""
        if self._live:
            done = round(fraction * _BAR)
            line = f"[{'#' * done}{'.' * (_BAR - done)}] {fraction:4.0%} {text}"
            typer.echo("\r" + line.ljust(self._width), nl=False, err=True)
            self._width = len(line)
        elif time.monotonic() >= self._due:  # a log wants a few lines only
            self._due = time.monotonic() + _SECONDS_BETWEEN_LINES
            say(f"{fraction:4.0%} {text}")
