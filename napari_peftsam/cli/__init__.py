"""The command line: one file per command; nothing heavy is imported before it is needed."""

from __future__ import annotations

from ._main import main

__all__ = ["main"]
