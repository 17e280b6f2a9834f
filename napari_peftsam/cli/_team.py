"""What one of several processes that ``torchrun`` has started may say."""

from __future__ import annotations

import os
import time

__all__ = ["leads", "wait_for_leader"]

_PATIENCE = 3.0  # seconds; torchrun ends all processes soon after the first that failed


def leads() -> bool:
    """Whether this process speaks for all: it is the first, or alone."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


def wait_for_leader() -> None:
    """Let the first process tell of an error that all have; called before telling of one.

    It then fails, and torchrun ends this process while it waits here.
    """
    if not leads():
        time.sleep(_PATIENCE)
