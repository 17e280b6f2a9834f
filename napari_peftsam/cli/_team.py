"""Messages of processes that ``torchrun`` has started: only the first one prints."""

from __future__ import annotations

import os
import time

__all__ = ["leads", "wait_for_leader"]

_PATIENCE = 3.0  # seconds; torchrun ends all processes soon after the first that failed


def leads() -> bool:
    """Return whether this process prints for all: it is the first, or alone."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


def wait_for_leader() -> None:
    """Let the first process report an error that all have, before this one does.

    The first process then fails, and torchrun ends this one while it waits here.
    """
    if not leads():
        time.sleep(_PATIENCE)
