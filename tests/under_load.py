"""Run a command beside two busy loops: ``python tests/under_load.py COMMAND...``.

Each loop watches for its parent and ends with it, even if the parent is killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_LOOPS = 2
_BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"


@contextmanager
def busy_loops(count: int = _LOOPS) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep `count` processors busy inside the ``with`` block."""
    command = [sys.executable, "-S", "-c", _BUSY, str(os.getpid())]
    loops: list[subprocess.Popen[bytes]] = []
    try:
        loops += [subprocess.Popen(command) for _ in range(count)]
        yield loops
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main(command: Sequence[str]) -> int:
    """Run a command under load; return its exit status."""
    with busy_loops():
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
