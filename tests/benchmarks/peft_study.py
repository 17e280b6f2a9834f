"""PEFT methods and placements on real data: eight images to learn from, the others to judge.

``python tests/benchmarks/peft_study.py`` finetunes the built-in model once per seed, case and
domain and appends one JSON line per run to ``--output``; a second call goes on where the first
was stopped. ``--table`` prints, ``--write PAGE`` writes the lines as a Markdown page; neither
trains. Every case gets the same number of steps, the same images and the same evaluated objects.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from _study_page import page

from napari_peftsam.app.runner import InlineRunner
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.evaluation import EvaluationConfig, EvaluationReport, evaluate
from napari_peftsam.files import pair_folders
from napari_peftsam.models import SamModel, build
from napari_peftsam.peft import (
    Adapter,
    MethodConfig,
    apply_adapter,
    parse_method_config,
    save_adapter,
)
from napari_peftsam.training import (
    AnnotatedPlane,
    TrainEvent,
    TrainingConfig,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    finetune,
    recommended_learning_rate,
)

Row = dict[str, Any]
Key = tuple[str, str, float | None, int | None]
"""Domain, case, learning rate, seed; the base has neither of the last two."""

MODEL, BASE = "builtin", "base"
EVALUATION_SEED = 0  # the same objects, whatever the seed of the training

# Eight images each, spread over what the domain holds, so that no field of view lies on both
# sides. The first eight by name would not do: names are sorted by source, so that these would be
# one staining only, and would part the tiles of one micrograph. By the manifests, the histology
# is split by whole mosaics; the axons of rats 3 and 6 are learned and those of rats 1 and 7
# evaluated; each image of the phase contrast is a field of its own.
TRAINING_IMAGES: dict[str, tuple[int, ...]] = {
    "dsb_histo": (2, 3, 8, 9, 11, 13, 16, 17),
    "phase_cells": (0, 2, 5, 7, 10, 12, 15, 17),
    "em_axons": (3, 4, 5, 6, 7, 8, 9, 10),
}


@dataclass(frozen=True)
class Case:
    """One row of the study.

    Attributes
    ----------
    options
        Of the method, where they differ from its defaults.
    learning_rate
        By default what is recommended for the model; decoder and prompt encoder, which all
        cases train, get the same.
    """

    name: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None

    def config(self) -> MethodConfig:
        """Return the method with all options."""
        return parse_method_config({"method": self.method, **self.options})


CASES = (
    Case("lora", "lora", {"rank": 8}),
    Case("lora late-50%", "lora", {"rank": 8, "placement": "late-50%"}),
    Case("lora last", "lora", {"rank": 8, "placement": "last"}),
    Case("lora all-linear", "lora", {"rank": 8, "matrices": "all-linear"}),
    Case(
        "lora all-linear late-50%",
        "lora",
        {"rank": 8, "matrices": "all-linear", "placement": "late-50%"},
    ),
    Case("cobot-lora", "cobot-lora", {"rank": 8}),
    Case("cobot-lora late-50%", "cobot-lora", {"rank": 8, "placement": "late-50%"}),
    Case("rslora", "rslora", {"rank": 8}),
    Case("dora", "dora", {"rank": 8}),
    Case("pissa", "pissa", {"rank": 8}),
    Case("fact", "fact"),
    Case("ssf", "ssf"),
    Case("adaptformer", "adaptformer"),
    Case("adaptformer late-50%", "adaptformer", {"placement": "late-50%"}),
    Case("cobot-adaptformer", "cobot-adaptformer"),
    Case("attention-tuning late-50%", "attention-tuning", {"placement": "late-50%"}),
    Case("bias-tuning", "bias-tuning"),
    Case("layernorm-tuning", "layernorm-tuning"),
    Case("late-finetuning late-50%", "late-finetuning", {"placement": "late-50%"}),
    Case("late-finetuning last", "late-finetuning", {"placement": "last"}),
    Case("frozen-encoder", "frozen-encoder"),
    Case("decoder-lora", "frozen-encoder", {"decoder_lora_rank": 4}),
    Case("lora + decoder-lora", "lora", {"decoder_lora_rank": 4}),
    Case("full-finetuning", "full-finetuning"),
)


@dataclass(frozen=True, eq=False)
class Domain:
    """One data set, parted: what is learned from, and what is evaluated."""

    name: str
    training: tuple[AnnotatedPlane, ...]
    rest: tuple[AnnotatedPlane, ...]

    @classmethod
    def read(cls, data: Path, name: str, training: Sequence[int] | None = None) -> Domain:
        """Read all images; they are small and used by every case.

        `training` are the numbers of those that are learned from, by default `TRAINING_IMAGES`.
        """
        pairs = pair_folders(data / name / "images", data / name / "labels")
        planes = [AnnotatedPlane(pair.name, pair.name, *pair.read()) for pair in pairs]
        chosen = TRAINING_IMAGES[name] if training is None else training
        return cls(
            name,
            tuple(planes[i] for i in chosen),
            tuple(plane for i, plane in enumerate(planes) if i not in chosen),
        )


@dataclass(frozen=True)
class Item:
    """One run of one case; without a case it is the untrained base."""

    domain: str
    case: Case | None = None
    learning_rate: float | None = None
    seed: int | None = None

    @property
    def name(self) -> str:
        """The case's name."""
        return self.case.name if self.case else BASE

    @property
    def key(self) -> Key:
        """What tells it from all others."""
        return self.domain, self.name, self.learning_rate, self.seed

    def describe(self) -> Row:
        """Return what is known before the run."""
        config = self.case.config().model_dump(mode="json") if self.case else None
        return {
            "domain": self.domain,
            "case": self.name,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "config": config,
        }


def plan(seeds: Sequence[int], rates: Sequence[float], recommended: float) -> list[Item]:
    """List the runs: a study that is stopped early then holds whole seeds, or whole cases."""
    items = [Item(domain) for domain in TRAINING_IMAGES]
    for seed, case in product(seeds, CASES):
        for rate in rates or (case.learning_rate or recommended,):
            items += [Item(domain, case, rate, seed) for domain in TRAINING_IMAGES]
    return items


@dataclass
class _Watch:
    """Clocks of one training; a step's share is what passed since the event before it."""

    wall: float = field(default_factory=perf_counter)
    cpu: float = field(default_factory=process_time)
    steps: int = 0
    step_wall: float = 0.0
    step_cpu: float = 0.0

    def timed(
        self, events: Generator[TrainEvent, None, TrainingReport]
    ) -> Generator[TrainEvent, None, TrainingReport]:
        """Pass the events on; validations count in the whole, not in the steps."""
        wall, cpu = self.wall, self.cpu
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                report: TrainingReport = end.value
                return report
            now_wall, now_cpu = perf_counter(), process_time()
            if isinstance(event, TrainingStep):
                self.steps += 1
                self.step_wall += now_wall - wall
                self.step_cpu += now_cpu - cpu
            wall, cpu = now_wall, now_cpu
            yield event

    def summary(self) -> Row:
        """Return seconds of the whole and of a step."""
        return {
            "training_wall": perf_counter() - self.wall,
            "training_cpu": process_time() - self.cpu,
            "step_wall": self.step_wall / max(1, self.steps),
            "step_cpu": self.step_cpu / max(1, self.steps),
        }


def train(model: SamModel, domain: Domain, config: TrainingConfig) -> tuple[Adapter, Row]:
    """Finetune on the training images; return the best state on those of them held out."""
    figures: Row = {}
    watch = _Watch()
    events: list[TrainEvent] = []
    reports: list[TrainingReport] = []
    InlineRunner().start(
        watch.timed(finetune(model, domain.training, config)),
        on_event=events.append, on_done=reports.append,
    )  # fmt: skip
    (report,) = reports
    for event in events:
        if isinstance(event, TrainingStarted):
            figures |= {
                "training_objects": event.training_objects,
                "held_out_objects": event.held_out_objects,
                "trainable": event.trainable_parameters,
                "trainable_encoder": event.encoder_parameters,
            }
    figures |= watch.summary() | {
        "steps": report.steps,
        "best_step": report.best_step,
        "held_out_iou_before": report.iou_before,
        "held_out_iou_after": report.iou_after,
        "file_mb": _megabytes(report.adapter),
    }
    return report.adapter, figures


def _megabytes(adapter: Adapter) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "adapter.safetensors")
        save_adapter(adapter, path)
        return path.stat().st_size / 1e6


def judge(model: SamModel, domain: Domain, max_objects: int, adapter: Adapter | None) -> Row:
    """Return the figures on the images that were not trained on."""
    config = EvaluationConfig(max_objects=max_objects, seed=EVALUATION_SEED)
    images = [(plane.name, plane.pixels, plane.labels) for plane in domain.rest]
    if adapter is None:
        *_, report = evaluate(model, images, config)
    else:
        with apply_adapter(model, adapter):
            *_, report = evaluate(model, images, config, adapter.digest)
    assert isinstance(report, EvaluationReport)
    return {"evaluation": report.to_dict()}


def measure(model: SamModel, domain: Domain, item: Item, args: argparse.Namespace) -> Row:
    """Do one run; what goes wrong is a figure, too, and must not end the study."""
    began = perf_counter()
    row = item.describe()
    try:
        adapter = None
        if item.case is not None:
            config = TrainingConfig(
                method=item.case.config(),
                steps=args.steps,
                validations=args.validations,
                learning_rate=item.learning_rate,
                seed=item.seed or 0,
            )
            adapter, figures = train(model, domain, config)
            row |= figures
        row |= judge(model, domain, args.max_objects, adapter)
    except Exception as error:  # noqa: BLE001
        row["error"] = f"{type(error).__name__}: {error}"
    return row | {"seconds": perf_counter() - began}


def settings_of(model: SamModel, args: argparse.Namespace) -> Row:
    """Return what must be the same for all rows of one table."""
    return {
        "model": MODEL,
        "weights": model.weights_hash,
        "steps": args.steps,
        "validations": args.validations,
        "max_objects": args.max_objects,
        "evaluation_seed": EVALUATION_SEED,
        "training_images": {name: list(chosen) for name, chosen in TRAINING_IMAGES.items()},
    }


def machine_of(device: str) -> Row:
    """Describe the machine, without its name or paths."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [n for n in info.read_text().splitlines() if n.startswith("model name")]
        processor = named[0].partition(":")[2].strip() if named else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def read_rows(output: Path) -> dict[Key, Row]:
    """Read the newest row of every run, leaving out those of cases that have changed since."""
    if not output.exists():
        return {}
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    cases = {case.name: case.config() for case in CASES}
    return {
        (row["domain"], row["case"], row["learning_rate"], row["seed"]): row
        for row in rows
        if row["config"] is None or _as_now(row["config"]) == cases.get(row["case"], ())
    }


def _as_now(config: Mapping[str, Any]) -> MethodConfig | None:
    """Return a recorded method; options that are newer than it have their defaults."""
    try:
        return parse_method_config(config)
    except ConfigurationError:
        return None


def check_settings(rows: Iterable[Row], settings: Row, output: Path) -> None:
    """Raise unless new rows can stand in one table with the rows that are there."""
    for row in rows:
        other = [name for name in settings if row["settings"].get(name) != settings[name]]
        if other:
            raise SystemExit(
                f"{output} holds rows with other settings ({', '.join(other)}): give the same "
                "ones, or another --output"
            )


def study(args: argparse.Namespace) -> None:
    """Do what is not done yet."""
    torch.set_num_threads(args.threads)
    model = build(MODEL, args.device)  # once; every training leaves it as it was
    settings, machine = settings_of(model, args), machine_of(args.device)
    rows = read_rows(args.output)
    check_settings(rows.values(), settings, args.output)
    items = plan(args.seeds, args.learning_rates, recommended_learning_rate(model.architecture))
    # What failed is tried again.
    todo = [item for item in items if "error" in rows.get(item.key, {"error": ""})]
    print(f"{len(items)} runs, {len(items) - len(todo)} of them done", flush=True)
    domains = {name: Domain.read(args.data, name) for name in TRAINING_IMAGES}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    began = perf_counter()
    for done, item in enumerate(todo, start=1):
        row = measure(model, domains[item.domain], item, args)
        row |= {
            "settings": settings,
            "learning_rates": args.learning_rates,
            "machine": machine,
            "date": datetime.now(UTC).date().isoformat(),
        }
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        left = (perf_counter() - began) / done * (len(todo) - done) / 60
        print(_progress(row, f"{len(items) - len(todo) + done}/{len(items)}", left), flush=True)


def _progress(row: Row, count: str, minutes: float) -> str:
    failed = "error" in row
    found = row["error"].splitlines()[0] if failed else f"NoC80 {row['evaluation']['noc80']:.2f}"
    which = row["domain"] if row["seed"] is None else f"{row['domain']}, seed {row['seed']}"
    return (
        f"[{count}] {row['case']}, {which}: {found}, {row['seconds']:.0f} s; {minutes:.0f} min left"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    repository = Path(__file__).resolve().parents[2]
    add("--data", type=Path, default=repository.parent / "shared" / "data", help="test data")
    add("--output", type=Path, default=Path("runs/peft_study.jsonl"), help="one line per run")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    add("--steps", type=int, default=60, help="of every training")
    add("--validations", type=int, default=2, help="of every training, to choose its best state")
    add("--max-objects", type=int, default=60, help="evaluated per domain")
    add("--learning-rates", type=float, nargs="+", default=[], help="all of them for every case")
    add("--threads", type=int, default=1, help="of torch")
    add("--device", default="cpu", help="cpu, cuda or mps")
    add("--table", action="store_true", help="print the page of what is done; do not train")
    add("--write", type=Path, metavar="PAGE", help="write that page; do not train")
    return parser.parse_args(arguments)


def main() -> None:
    """Train, or show what was found."""
    args = parse()
    if not args.table and args.write is None:
        study(args)
        return
    rows = list(read_rows(args.output).values())
    if not rows:
        raise SystemExit(f"{args.output} holds no finished run yet: run the study first")
    text = page(rows)
    if args.table:
        print(text)
    if args.write is not None:
        args.write.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
