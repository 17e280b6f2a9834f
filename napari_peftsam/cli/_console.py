"""Printing, progress and Ctrl-C: results on standard output, all else on standard error."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import typer

from napari_peftsam.errors import printable

USER_ERROR = 2
INTERRUPTED = 130
"""Exit codes; the latter is what shells report of a program that Ctrl-C ended."""

_SECONDS_BETWEEN_LINES = 10.0
_BAR = 24
_LINE = 400  # characters of an error or warning
_CLEANING_UP = 1.0  # seconds
_LEADER_FAILS = 3.0  # seconds; torchrun ends all processes soon after the first that failed
_STANDARD_ERROR = 2


# --- printing -------------------------------------------------------------------------


def say(message: str) -> None:
    """Print a message on standard error."""
    typer.echo(printable(message), err=True)


def note(message: str) -> None:
    """Print a message on one line of standard error."""
    say(printable(message, _LINE))


def fail(message: str) -> None:
    """Print an error on one line of standard error."""
    note(f"error: {message}")


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), _LINE)


class _Once(logging.Filter):
    """Lets each text through once: a command may open a file several times."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._shown
        self._shown.add(text)
        return is_new


def quiet_libraries() -> None:
    """Let each warning of ours be one safe line, once, and show none meant for coders."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())
        logging.lastResort.filters[:] = [_Once()]
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def emit(values: Mapping[str, Any] | Sequence[Mapping[str, Any]], as_json: bool, text: str) -> None:
    """Print a command's result: one JSON object or list, or text for people."""
    typer.echo(json.dumps(values, allow_nan=False) if as_json else printable(text))


class Progress:
    """Progress line of a long command; redrawn on a terminal, else repeated.

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
        text = printable(text, _LINE)
        if self._live:
            done = round(fraction * _BAR)
            line = f"[{'#' * done}{'.' * (_BAR - done)}] {fraction:4.0%} {text}"
            typer.echo("\r" + line.ljust(self._width), nl=False, err=True)
            self._width = len(line)
        elif time.monotonic() >= self._due:  # a log wants a few lines only
            self._due = time.monotonic() + _SECONDS_BETWEEN_LINES
            say(f"{fraction:4.0%} {text}")


# --- Ctrl-C ---------------------------------------------------------------------------


@contextmanager
def graceful_interrupt(message: str) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, saying `message`; the second one raises."""
    asked = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        # Not through `sys.stderr`: it refuses to be entered again if a signal comes amid a print.
        with suppress(OSError):
            os.write(_STANDARD_ERROR, f"\n{message} (Ctrl-C again: at once)\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def sure_interrupt() -> None:
    """Make Ctrl-C end the program even where `KeyboardInterrupt` gets lost.

    Libraries swallow it while they are being imported. If the program has not ended a
    moment later, it is ended.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        last_resort = threading.Timer(_CLEANING_UP, os._exit, (INTERRUPTED,))
        last_resort.daemon = True
        last_resort.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)


# --- processes that torchrun has started ----------------------------------------------


def leads() -> bool:
    """Return whether this process prints for all: it is the first, or alone."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


def wait_for_leader() -> None:
    """Let the first process report an error that all have, before this one does.

    The first process then fails, and torchrun ends this one while it waits here.
    """
    if not leads():
        time.sleep(_LEADER_FAILS)
