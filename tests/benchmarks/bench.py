"""The engine beside its peers, in one run: ``make bench``.

Ours and the peers' works take turns, each in a fresh process with the same number of threads.
A figure is the median of a process's repetitions, of the least disturbed process; memory is the
most of all processes. Correctness is asserted, speed is reported. Writes `bench.json` (of each
figure ``{ours, peer, ratio, limit_share, goal, reached}``; times in seconds, memory in 1e9 bytes, a
ratio above one is in our favour, null is what there is none of) and `bench-report.json` (machine,
all measurements, profile, limits), from which ``make performance-page`` fills docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from _children import ChildError, Results, Runner, do_here, measure, measure_all
from _goals import KEYS, missing, with_goals
from _plan import Plan, ours
from _report import printed, report

ERRORS = {"fp32": 1e-5, "bf16": 1e-2}
"""How far an embedding may be from that of `segment_anything`, as a share of its norm."""


def run(plan: Plan, threads: int | None) -> Results:
    """Measure everything."""
    rounds = [work for _ in range(plan.rounds) for work in plan.works()]
    return measure_all([*rounds, *plan.once()], threads, plan.runner)


def agreement(architecture: str, threads: int | None, runner: Runner) -> dict[str, float]:
    """Return the errors of the embedding in each precision that the hardware has.

    Raises
    ------
    ChildError
        If an error is beyond its bound: then there is nothing to measure.
    """
    work = ours("agreement", work="agreement", options={"architecture": architecture})
    errors: dict[str, float] = runner(work, threads).answer["errors"]
    for precision, error in errors.items():
        if not error <= ERRORS[precision]:
            raise ChildError(
                f"the embedding in {precision} is {error:.2g} off segment_anything's, more than "
                f"{ERRORS[precision]:g}: there is no speed to report"
            )
    return errors


def planned(arguments: argparse.Namespace, precisions: tuple[str, ...], runner: Runner) -> Plan:
    """Return what the command line asks for."""
    if arguments.quick:
        why_not = "it is not measured in a quick run"
        small = {"rounds": 2}
        return Plan("tiny", 1, 1, 1, precisions, None, why_not, small, 4, 32, runner)
    python, why_not = arguments.micro_sam, ""
    if python is None or not Path(python).exists():
        python, why_not = None, "its environment is not installed (make interoperability)"
    return Plan(
        arguments.architecture, arguments.repeats, arguments.cached_steps, arguments.rounds,
        precisions, python, why_not, runner=runner,
    )  # fmt: skip


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the engine beside its peers.")
    parser.add_argument("--architecture", default="vit_b")
    parser.add_argument("--repeats", type=int, default=3, help="of a work within a process")
    parser.add_argument("--cached-steps", type=int, default=12, help="steps with a cached prefix")
    parser.add_argument("--rounds", type=int, default=2, help="processes per work")
    parser.add_argument("--threads", type=int, help="of each process; default: torch's choice")
    parser.add_argument("--micro-sam", metavar="PYTHON", help="of the environment that has it")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, once, in one process, without micro-sam"
    )
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    parser.add_argument("--report", type=Path, default=Path("bench-report.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the table of goals, write both files."""
    arguments = parsed(words)
    try:
        architecture = "tiny" if arguments.quick else arguments.architecture
        runner = do_here if arguments.quick else measure
        errors = agreement(architecture, arguments.threads, runner)
        plan = planned(arguments, tuple(errors), runner)
        content = report(run(plan, arguments.threads), plan, errors)
    except ChildError as error:
        raise SystemExit(f"error: {error}") from error
    figures = {key: content["figures"][key] for key in KEYS}
    figures = with_goals(figures, architecture)
    if problems := missing(figures):
        raise SystemExit("error: " + "; ".join(problems))
    for path, value in ((arguments.output, figures), (arguments.report, content)):
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    print(printed(content))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
