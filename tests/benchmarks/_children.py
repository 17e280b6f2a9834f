"""Every work is measured in a fresh process, so that none finds the memory of another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from _machine import busy

__all__ = [
    "PEER",
    "ChildError",
    "Measured",
    "Results",
    "Runner",
    "Work",
    "do_here",
    "measure",
    "measure_all",
]

HERE = Path(__file__).parent
PEER = "peer"
"""How the names of the peers' works begin."""


class ChildError(RuntimeError):
    """A measured process failed; the message is the last line it wrote."""


@dataclass(frozen=True)
class Work:
    """Something to measure.

    Attributes
    ----------
    name
        Of the result.
    script
        Of this folder; knows the works of one side.
    work, options
        What it is asked to do.
    python
        The interpreter.
    within
        A program that it runs in.
    may_fail
        True for what not every machine has, as all works of peers.
    """

    name: str
    script: str
    work: str
    options: Mapping[str, Any] = field(default_factory=dict)
    python: str = sys.executable
    within: tuple[str, ...] = ()
    may_fail: bool = False


@dataclass(frozen=True)
class Measured:
    """What a child answered, and how much else the machine had to do before it."""

    name: str
    options: Mapping[str, Any]
    answer: Mapping[str, Any]
    load: float | None
    busy: float | None


Runner = Callable[[Work, int | None], Measured]
"""`measure` or `do_here`."""


def measure(work: Work, threads: int | None = None) -> Measured:
    """Do a work in a process of its own.

    Raises
    ------
    ChildError
        If it fails.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    others = busy()
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    options = json.dumps(dict(work.options))
    command = [*work.within, work.python, str(HERE / work.script), work.work, options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise ChildError(f"{work.name}: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        killed = f"it was ended by signal {-done.returncode}, as where memory runs out"
        raise ChildError(f"{work.name}: {killed if done.returncode < 0 else said[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured(work.name, dict(work.options), found, load, others)


def do_here(work: Work, threads: int | None = None) -> Measured:
    """Do a work in this process: nothing to believe, but quick."""
    from _measure import answer

    works = import_module(Path(work.script).stem).WORKS
    return Measured(work.name, dict(work.options), answer(works, work.work, work.options), 0, None)


@dataclass(eq=False)
class Results:
    """All that was measured, in its order."""

    measured: list[Measured] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> list[Mapping[str, Any]]:
        """Return the answers of one work, one per child."""
        return [one.answer for one in self.measured if one.name == name]

    def seconds(self, name: str) -> float | None:
        """Return the best child's median: what other work on the machine disturbed least."""
        return min((median(answer["seconds"]) for answer in self.of(name)), default=None)

    def most(self, name: str, what: str = "gigabytes") -> float | None:
        """Return the largest value of all children."""
        return max((answer[what] for answer in self.of(name)), default=None)

    def fraction(self, name: str) -> float | None:
        """Return the median over the children of the share that each found."""
        shares = [answer["fraction"] for answer in self.of(name)]
        return median(shares) if shares else None

    def as_rows(self) -> Sequence[dict[str, Any]]:
        """Return everything for the report."""
        return [asdict(one) for one in self.measured]


def measure_all(
    works: Iterable[Work], threads: int | None = None, runner: Runner = measure
) -> Results:
    """Do all works in their order, telling of each on the error stream.

    A peer that fails is noted and not tried again.

    Raises
    ------
    ChildError
        If a work of ours fails.
    """
    results, everything = Results(), list(works)
    for number, work in enumerate(everything, start=1):
        if work.name in results.failures:
            continue
        began = perf_counter()
        print(f"[{number}/{len(everything)}] {work.name} ...", file=sys.stderr, end="", flush=True)
        try:
            results.measured.append(runner(work, threads))
        except ChildError as error:
            if not (work.may_fail or work.name.startswith(PEER)):
                raise
            results.failures[work.name] = str(error)
        print(f" {perf_counter() - began:.0f} s", file=sys.stderr)
    return results
