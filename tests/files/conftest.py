"""Keep the disk out of the time these tests take."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush nothing: no test pulls the plug, and on a busy disk each flush takes 0.1 s."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
