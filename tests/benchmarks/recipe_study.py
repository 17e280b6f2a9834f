"""Settings of a training in comparison, at the same processor time: how many clicks each saves.

``python tests/benchmarks/recipe_study.py`` finetunes the built-in model on eight images of each
domain and prompts objects of the others, one JSON line per run in ``--output``; a second call
goes on where the first was stopped. ``--write PAGE`` writes the lines as a table. The budget is
seconds of processor time of one thread, so that other work on the machine does not count. What is
evaluated is the last state, as the choice among states is another question.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from peft_study import MODEL, TRAINING_IMAGES, Domain

from napari_peftsam.app.runner import run
from napari_peftsam.embeddings import Encoded, EncodeRequest, encode
from napari_peftsam.evaluation import box_ious, click_ious, clicks_to_reach
from napari_peftsam.evaluation.targets import select_objects, targets_of
from napari_peftsam.models import SamModel, build
from napari_peftsam.peft import apply_adapter, parse_method_config
from napari_peftsam.segmentation import Predictor
from napari_peftsam.training import (
    RECOMMENDED,
    AnnotatedPlane,
    TrainingConfig,
    TrainingReport,
    finetune,
    recipe,
)

Row = dict[str, Any]
_CLICKS, _GOAL, _RESAMPLED = 10, 0.8, 2000
_LEAST_AREA = 25
_FULL, _COBOT = {"method": "full-finetuning"}, {"method": "cobot-lora"}
_LATE = {"method": "late-finetuning", "placement": "late-50%"}


@dataclass(frozen=True)
class Setting:
    """A method with the options of its training; without a method the recommended recipe."""

    name: str
    method: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def config(self, model: SamModel, seconds: float, seed: int) -> TrainingConfig:
        """Return the configuration of a run of so many seconds."""
        if self.method:
            chosen = {"method": parse_method_config(self.method)}
        else:
            chosen = recipe(RECOMMENDED, model.architecture, None).settings()
        chosen |= self.options
        return TrainingConfig.model_validate({**chosen, "seconds": seconds, "seed": seed})


_AVERAGED = {"averaging": 0.98}
SETTINGS = (
    Setting("recommended"),
    Setting("recommended, complete labels", options={"labels_are": "complete"}),
    Setting("recommended, prompts alone", options={"automatic": False}),
    Setting("cobot-lora", _COBOT),
    Setting("full", _FULL),
    Setting("full, rate 3e-4, averaged", _FULL, {"learning_rate": 3e-4, **_AVERAGED}),
    Setting("full, rate 6e-4, averaged", _FULL, {"learning_rate": 6e-4, **_AVERAGED}),
    Setting(
        "full, rate 6e-4, averaged, 24 objects, 4 rounds",
        _FULL,
        {"learning_rate": 6e-4, "objects_per_step": 24, "rounds": 4, **_AVERAGED},
    ),
    Setting(
        "full, rate 1.2e-3, averaged, 24 objects, 4 rounds",
        _FULL,
        {"learning_rate": 1.2e-3, "objects_per_step": 24, "rounds": 4, **_AVERAGED},
    ),
    Setting("full, rate 1.2e-3, averaged", _FULL, {"learning_rate": 1.2e-3, **_AVERAGED}),
    Setting("late half, rate 6e-4, averaged", _LATE, {"learning_rate": 6e-4, **_AVERAGED}),
    Setting("cobot-lora, rate 1e-3, averaged", _COBOT, {"learning_rate": 1e-3, **_AVERAGED}),
)


def train(model: SamModel, domain: Domain, config: TrainingConfig) -> TrainingReport:
    """Train for the budget in processor time; keep the last state whatever it is worth."""
    with patch("napari_peftsam.training.run.is_worse", lambda *_: False):
        return by_processor_time(model, domain.training, config)


def by_processor_time(
    model: SamModel, planes: Sequence[AnnotatedPlane], config: TrainingConfig
) -> TrainingReport:
    """Train; the seconds of the budget are those of the processor."""
    loop = sys.modules[finetune.__module__]  # the package has the function by that name
    with (
        patch.object(loop, "perf_counter", process_time),
        patch("napari_peftsam.training.outcome.perf_counter", process_time),
    ):
        return run(finetune(model, planes, config))


def prompt(model: SamModel, domain: Domain, most: int) -> dict[str, list[float]]:
    """Return clicks, one-click and box IoU of each object that was not trained on."""
    images = [(plane.name, plane.pixels, plane.labels) for plane in domain.rest]
    found: dict[str, list[float]] = {"clicks": [], "one_click": [], "box": []}
    predictor = Predictor(model)
    for index, chosen in select_objects(images, _LEAST_AREA, most, 0)[0].items():
        name, pixels, labels = images[index]
        events = encode(model, [EncodeRequest(name, pixels)])
        [embedding] = [event.embedding for event in events if isinstance(event, Encoded)]
        targets = targets_of(labels, chosen)
        curves = np.stack(list(click_ious(predictor, embedding, targets, _CLICKS)), axis=1)
        found["clicks"] += clicks_to_reach(curves, _GOAL).tolist()
        found["one_click"] += curves[:, 0].tolist()
        found["box"] += box_ious(predictor, embedding, targets).tolist()
    return found


def runs(seeds: Sequence[int], names: Sequence[str]) -> Iterable[tuple[str, int | None, str]]:
    """List all runs by setting, seed and domain, that of the base first."""
    chosen = [setting.name for setting in SETTINGS if not names or setting.name in names]
    yield from (("base", None, domain) for domain in TRAINING_IMAGES)
    yield from product(chosen, seeds, TRAINING_IMAGES)


def study(args: argparse.Namespace) -> None:
    """Do what is not done yet."""
    torch.set_num_threads(1)
    model, rows = build(MODEL), read(args.output)
    done = {(row["setting"], row["seed"], row["domain"]) for row in rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name, seed, domain in runs(args.seeds, args.settings):
        if (name, seed, domain) in done:
            continue
        data, row = Domain.read(args.data, domain), {"setting": name, "seed": seed}
        if seed is None:
            found = prompt(model, data, args.max_objects)
        else:
            setting = next(each for each in SETTINGS if each.name == name)
            report = train(model, data, setting.config(model, args.seconds, seed))
            row["steps"] = report.steps
            with apply_adapter(model, report.adapter):
                found = prompt(model, data, args.max_objects)
        row |= {"domain": domain, "seconds": args.seconds, **found}
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{name}, {domain}, seed {seed}: {np.mean(found['clicks']):.2f} clicks", flush=True)


def read(output: Path) -> list[Row]:
    """Read the rows that are there."""
    if not output.exists():
        return []
    return [json.loads(line) for line in output.read_text("utf-8").splitlines()]


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table: the change of clicks in each domain with its 95 % interval."""
    base = {row["domain"]: row for row in rows if row["seed"] is None}
    domains = [domain for domain in TRAINING_IMAGES if domain in base]
    lines = [
        f"| setting | seeds | {' | '.join(domains)} | one click | box |",
        f"| --- | --- | {'--- | ' * len(domains)}--- | --- |",
    ]
    start = [f"{np.mean(base[domain]['clicks']):.2f} clicks" for domain in domains]
    lines.append(_line("base", "-", start, base.values(), base.values()))
    for name in dict.fromkeys(row["setting"] for row in rows if row["seed"] is not None):
        own = [row for row in rows if row["setting"] == name]
        cells = [_change([r for r in own if r["domain"] == d], base[d]) for d in domains]
        seeds = str(len({row["seed"] for row in own}))
        lines.append(_line(name, seeds, cells, own, base.values()))
    return "\n".join(lines) + "\n"


def _line(
    name: str, seeds: str, cells: Sequence[str], own: Iterable[Row], base: Iterable[Row]
) -> str:
    ious = [float(np.mean([np.mean(row[key]) for row in own])) for key in ("one_click", "box")]
    return f"| {name} | {seeds} | {' | '.join(cells)} | {ious[0]:.3f} | {ious[1]:.3f} |"


def _change(rows: Sequence[Row], base: Row) -> str:
    """Return the change in per cent; the objects are drawn again for the interval."""
    if not rows:
        return "-"
    clicks = np.mean([row["clicks"] for row in rows], axis=0)
    before, rng = np.asarray(base["clicks"]), np.random.default_rng(0)
    drawn = rng.integers(0, len(before), (_RESAMPLED, len(before)))
    change = 100 * (clicks[drawn].mean(1) / before[drawn].mean(1) - 1)
    low, high = np.percentile(change, [2.5, 97.5])
    return f"{100 * (clicks.mean() / before.mean() - 1):+.0f} % ({low:+.0f} to {high:+.0f})"


def study_parser(description: str, output: str) -> argparse.ArgumentParser:
    """Return a parser of the options that the studies by processor time share."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    add, repository = parser.add_argument, Path(__file__).resolve().parents[2]
    add("--data", type=Path, default=repository.parent / "shared" / "data", help="test data")
    add("--output", type=Path, default=Path(output), help="one line per result")
    add("--seconds", type=float, default=180, help="processor time of a training")
    add("--write", type=Path, metavar="FILE", help="write the table; measure nothing")
    return parser


def main() -> None:
    """Train, or write the table."""
    parser = study_parser(__doc__, "runs/recipe_study.jsonl")
    add = parser.add_argument
    add("--settings", nargs="+", default=[], help="by name; all if not given")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    add("--max-objects", type=int, default=100, help="prompted per domain")
    args = parser.parse_args()
    if args.write is None:
        study(args)
    else:
        args.write.write_text(table(read(args.output)), encoding="utf-8")


if __name__ == "__main__":
    main()
