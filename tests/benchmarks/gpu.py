"""The engine on a GPU beside its peers: ``make bench-gpu`` or ``python tests/benchmarks/gpu.py``.

Needs torch, `segment_anything` and this package's core, but neither Qt nor napari nor pytest.
micro-sam's trainer is measured where its interpreter is given, or where this one has it. Every
work has a process of its own; memory is what torch took on the GPU. Without a CUDA device it
says so and ends with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from _children import ChildError, Results, Work, do_here, measure, measure_all
from _goals import Goal, figure, shown, text_table
from _machine import machine

ARCHITECTURES = ("vit_b", "vit_l", "vit_h")
PROMPTS = 50
LORA = {"method": "lora", "rank": 4}
NO_MICRO_SAM = "micro-sam is not installed here: give --micro-sam PYTHON"

# For a ViT-B on one H100.
GOALS = {
    "embed, per image": Goal("embed", "", "s", most=0.005),
    "point → mask": Goal("prompt", "", "s", most=0.003),
    "LoRA iteration": Goal("lora", "", "s", ratio=3),
    "LoRA peak memory": Goal("memory", "", "GB", ratio=3),
}

ours = partial(Work, script="_ours.py")
segment_anything = partial(Work, script="_segment_anything.py")


def works(arguments: argparse.Namespace, name: str) -> Iterator[Work]:
    """Yield one round of works for an architecture, ours and the peers' in turn."""
    model = {"architecture": name, "device": arguments.device}
    some = {**model, "repeats": arguments.repeats}
    many = {**model, "repeats": arguments.prompts}
    for batch in arguments.batches:
        options, what = {**some, "batch": batch}, f"{name} embed {batch}"
        yield ours(f"ours {what}", work="throughput", options=options)
        yield segment_anything(f"peer {what}", work="throughput", options=options)
        half = {**options, "precision": "bf16"}
        yield segment_anything(f"peer bf16 {what}", work="throughput", options=half)
    yield ours(f"ours {name} prompt", work="prompt", options=many)
    yield segment_anything(f"peer {name} prompt", work="prompt", options=many)
    yield ours(f"ours {name} lora", work="training", options={**some, "method": LORA})
    if arguments.micro_sam and name in ARCHITECTURES:
        # What its own training function takes by default on a GPU
        options = {**some, "precision": "fp16"}
        yield Work(f"peer {name} lora", "_micro_sam.py", "training", options, arguments.micro_sam)


def figures_of(results: Results, name: str, batches: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Return the figures of an architecture."""

    def compared(work: str, peer: str = "peer") -> dict[str, Any]:
        theirs = f"{peer} {name} {work}"
        reason = results.failures.get(theirs, NO_MICRO_SAM)
        return figure(results.seconds(f"ours {name} {work}"), results.seconds(theirs), reason)

    def memory(work: str) -> dict[str, Any]:
        theirs = f"peer {name} {work}"
        reason = results.failures.get(theirs, NO_MICRO_SAM)
        return figure(results.most(f"ours {name} {work}"), results.most(theirs), reason)

    def throughput(batch: int) -> float:
        return results.seconds(f"ours {name} embed {batch}") or float("inf")

    best = min(batches, key=throughput)
    found = {}
    for batch in batches:
        what = f"embed {batch}"
        found[f"embed, per image in {batch}"] = compared(what)
        found[f"embed, per image in {batch}, both bf16"] = compared(what, "peer bf16")
    return {
        "embed, per image": compared(f"embed {best}"),
        **found,
        f"embed peak memory, batch of {best}": memory(f"embed {best}"),
        "point → mask": compared("prompt"),
        "LoRA iteration": compared("lora"),
        "LoRA peak memory": memory("lora"),
    }


def rows(figures: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the printed table."""
    for title, entry in figures.items():
        unit = "GB" if "memory" in title else "s"
        goal = GOALS.get(title) if name == "vit_b" else None
        verdict = {True: "yes", False: "no", None: "not measured"}
        yield (
            name,
            title,
            shown(entry["ours"], unit),
            shown(entry["peer"], unit),
            "-" if entry["ratio"] is None else f"{entry['ratio']:.1f}x",
            goal.text if goal else "",
            verdict[goal.reached(entry)] if goal else "",
        )


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure the engine on a GPU.")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="repetitions of a prompt")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="in one process: quick, unreliable")
    parser.add_argument("--micro-sam", metavar="PYTHON", help="of an environment that has it")
    parser.add_argument("--output", type=Path, default=Path("bench-gpu.json"))
    arguments = parser.parse_args(words)
    if arguments.micro_sam is None and find_spec("micro_sam"):
        arguments.micro_sam = sys.executable
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the table, write `bench-gpu.json`."""
    arguments = parsed(words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device was found: nothing was measured", file=sys.stderr)
        raise SystemExit(2)
    rounds = range(arguments.rounds)
    wanted = [w for _ in rounds for name in arguments.architectures for w in works(arguments, name)]
    try:
        results = measure_all(wanted, runner=do_here if arguments.here else measure)
    except ChildError as error:
        raise SystemExit(f"error: {error}") from error
    figures = {
        name: figures_of(results, name, arguments.batches) for name in arguments.architectures
    }
    cuda = arguments.device == "cuda"
    content = {
        "machine": {**machine(), "torch": torch.__version__},
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "figures": figures,
        "failures": results.failures,
        "measured": results.as_rows(),
    }
    arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{content['device']}, torch {torch.__version__}")
    for name, reason in results.failures.items():
        print(f"WARNING: {name} failed: {reason}")
    lines = [row for name, found in figures.items() for row in rows(found, name)]
    print(text_table(("model", "figure", "ours", "peer", "ratio", "goal", "reached"), lines))


if __name__ == "__main__":
    main()
