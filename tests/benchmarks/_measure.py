"""What every measured child process does: time, look at its memory, answer in one line of JSON.

A child measures one work of one side. It is started as ``python SCRIPT WORK '{"option": 1}'``;
its last line of output is the answer. Needs torch only, since micro-sam's environment runs it.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

__all__ = ["Answer", "Works", "answer", "gigabytes", "main", "seconds", "synchronise"]

Answer = dict[str, Any]
Works = Mapping[str, Callable[..., Answer]]
"""Every script of works has one, called `WORKS`."""


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], repeats: int, device: str = "cpu") -> list[float]:
    """Return the time of each call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        synchronise(device)
        began = perf_counter()
        work()
        synchronise(device)
        times.append(perf_counter() - began)
    return times[1:]


def gigabytes(device: str = "cpu") -> float:
    """Return the most memory (1e9 bytes) this process had so far, or torch on its GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    # What getrusage says begins with what the parent had, where Linux tells better.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def answer(works: Works, name: str, options: Mapping[str, Any]) -> Answer:
    """Do a work, always with the same random numbers."""
    torch.manual_seed(0)
    found = works[name](**options)
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), **found}


def main(works: Works) -> None:
    """Do the work that the command line names."""
    print(json.dumps(answer(works, sys.argv[1], json.loads(sys.argv[2]))))
