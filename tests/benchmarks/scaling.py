"""How time and memory grow: ``make bench-scaling``.

One process per row. Writes `bench-scaling.json`; ``make performance-page`` puts it into
docs/performance.md. Random weights; the image is noise, the objects are disks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _children import ChildError, Work, do_here, measure, measure_all
from _goals import shown, text_table
from _machine import machine

ours = partial(Work, script="_ours.py")
LORA = {"method": "lora", "rank": 4}
LATE25 = {**LORA, "placement": "late-25%"}

# Axis, how it is measured, and the values on it. The scene has 30 objects to learn, and each
# number of objects divides them, so that all steps are alike.
SIDES = (256, 512, 1024, 2048, 4096)
OBJECTS = (1, 5, 15, 30)
IMAGES = (1, 2, 4, 8)
PLACES: Mapping[str, Mapping[str, Any]] = {
    "none": {"method": "frozen-encoder"},
    "late-25%": LATE25,
    "late-50%": {**LORA, "placement": "late-50%"},
    "late-75%": {**LORA, "placement": "late-75%"},
    "all": LORA,
}


def axes(
    architecture: str, repeats: int, cached_steps: int, quick: bool = False
) -> Iterator[tuple[str, str, Work]]:
    """Yield the name of an axis, a value on it, and the work; few of them if `quick`."""
    ends = slice(2) if quick else slice(None)
    some = {"architecture": architecture, "repeats": repeats}
    trained = {**some, "rounds": 2 if quick else 8}
    cached = {**trained, "repeats": cached_steps}

    def row(axis: str, value: object, work: str, **options: Any) -> tuple[str, str, Work]:
        return axis, str(value), ours(f"{axis}: {value}", work=work, options=options)

    for side in SIDES[ends]:
        yield row("embed, side of the image", side, "embed", **some, precision="auto", side=side)
    for side in SIDES[ends]:
        yield row("point → mask, side of the image", side, "prompt", **some, side=side)
    for count in OBJECTS[ends]:
        yield row("masks, objects at once", count, "prompt", **some, objects=count)
    for count in OBJECTS[ends]:
        yield row("LoRA step, objects", count, "training", **trained, method=LORA, objects=count)
    for count in IMAGES[ends]:
        axis, steps = "late-25 % step, training images", {**cached, "images": count, "views": 1}
        steps["repeats"] = max(cached_steps, 3 * count)  # one step per image fills the cache
        yield row(axis, count, "training", **steps, method=LATE25)
    for place, method in [*PLACES.items()][ends]:
        steps = trained if place == "all" else cached
        yield row("training step, blocks trained", place, "training", **steps, method=method)


def main(words: Sequence[str] | None = None) -> None:
    """Measure all axes, print the table, write it."""
    parser = argparse.ArgumentParser(description="Measure how time and memory grow.")
    parser.add_argument("--architecture", default="vit_b")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--cached-steps", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model, few values, in one process"
    )
    parser.add_argument("--output", type=Path, default=Path("bench-scaling.json"))
    arguments = parser.parse_args(words)
    name, repeats, cached = arguments.architecture, arguments.repeats, arguments.cached_steps
    runner = measure
    if arguments.quick:
        name, repeats, cached, runner = "tiny", 1, 1, do_here
    planned = list(axes(name, repeats, cached, arguments.quick))
    try:
        results = measure_all((work for *_, work in planned), arguments.threads, runner)
    except ChildError as error:
        raise SystemExit(f"error: {error}") from error
    rows = [
        {
            "axis": axis,
            "value": value,
            "seconds": results.seconds(work.name),
            "gigabytes": results.most(work.name),
        }
        for axis, value, work in planned
    ]
    content = {"machine": machine(), "architecture": name, "rows": rows}
    arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(
        text_table(
            ("axis", "value", "time", "peak memory"),
            (
                (r["axis"], r["value"], shown(r["seconds"], "s"), shown(r["gigabytes"], "GB"))
                for r in rows
            ),
        )
    )


if __name__ == "__main__":
    main()
