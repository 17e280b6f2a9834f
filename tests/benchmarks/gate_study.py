"""The gate on simulated sessions: how often a worse model goes live, and a better one stays out.

``python tests/benchmarks/gate_study.py`` annotates, trains and judges as a person would: on real
images, with good labels and bad ones, and measures the result on the images that were not in the
session. It appends one JSON line per session to ``--output``; a second call goes on where the
first was stopped. Lines keep the answers to every object, so that another rule can be tried
without a training. ``--table`` prints, ``--write PAGE`` writes the rates as a Markdown page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from _gate_page import page
from scipy import ndimage

from napari_peftsam.app.runner import run
from napari_peftsam.embeddings import Embedding, encode_one
from napari_peftsam.evaluation import Target, click_ious
from napari_peftsam.files import pair_folders
from napari_peftsam.models import SamModel, build
from napari_peftsam.peft import Adapter, apply_adapter, parse_method_config
from napari_peftsam.segmentation import Predictor
from napari_peftsam.training import AnnotatedPlane, TrainingConfig, finetune
from napari_peftsam.types import LabelArray, Point, Prompts

Row = dict[str, Any]

DOMAINS = ("dsb_histo", "phase_cells", "em_axons", "dsb_fluo")
# Of twenty sessions; they take turns, so that a study stopped early holds all kinds.
KINDS = (
    "clean", "noisy", "few", "mixed", "wrong", "clean", "noisy", "alike", "clean", "few",
    "mixed", "wrong", "clean", "noisy", "few", "mixed", "wrong", "clean", "noisy", "alike",
)  # fmt: skip
AVERAGED = {"averaging": 0.98, "variation": 0.25}
METHODS: tuple[tuple[str, int, dict[str, float]], ...] = (
    ("frozen-encoder", 60, {}), ("cobot-lora", 20, {}), ("full-finetuning", 20, AVERAGED),
)  # fmt: skip
"""Methods with their steps and options, taken in turns."""
RATES = (2e-4, 5e-4, 1e-3)
CLICKS, ENOUGH = 8, 0.9  # of the hidden objects
HIDDEN_IMAGES, HIDDEN_PER_IMAGE = 10, 8
PROMPTED_TO = 0.8  # IoU at which the simulated person accepts
MOST_PROMPTS = 4


@dataclass(frozen=True, eq=False)
class Data:
    """The images of all domains, and the base model's answers to hidden objects of them."""

    model: SamModel
    planes: dict[str, list[AnnotatedPlane]]
    base: dict[str, list[list[float]]]
    embeddings: dict[str, Embedding]

    @classmethod
    def read(cls, folder: Path, model: SamModel) -> Data:
        planes = {}
        for domain in DOMAINS:
            pairs = pair_folders(folder / domain / "images", folder / domain / "labels")
            planes[domain] = [AnnotatedPlane(p.name, p.name, *p.read()) for p in pairs]
        return cls(model, planes, {}, {})

    def embedding(self, plane: AnnotatedPlane) -> Embedding:
        """Return the embedding of the base, computed once for each image."""
        if plane.name not in self.embeddings:
            self.embeddings[plane.name] = encode_one(self.model, plane.pixels)
        return self.embeddings[plane.name]

    def base_curves(self, plane: AnnotatedPlane) -> list[list[float]]:
        """Return the answers of the base, measured once for each image."""
        if plane.name not in self.base:
            self.base[plane.name] = curves(self.model, plane, self.embedding(plane))
        return self.base[plane.name]


def hidden_targets(plane: AnnotatedPlane) -> list[Target]:
    """Return some objects of an image, always the same."""
    labels, areas = np.unique(plane.labels[plane.labels > 0], return_counts=True)
    labels = labels[areas >= 25]
    rng = np.random.default_rng(0)
    chosen = rng.permutation(labels)[:HIDDEN_PER_IMAGE]
    return [Target.from_mask(plane.labels == label) for label in sorted(chosen.tolist())]


def curves(model: SamModel, plane: AnnotatedPlane, embedding: Embedding) -> list[list[float]]:
    """Return the IoU of hidden objects after every click, ``(objects, clicks)``."""
    targets = hidden_targets(plane)
    if not targets:
        return []
    asked = click_ious(Predictor(model), embedding, targets, CLICKS, enough=ENOUGH)
    return np.stack(list(asked), axis=1).round(4).tolist()  # type: ignore[no-any-return]


# --- a person ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Session:
    """What a person did: annotated planes, and where the rest of the domains is."""

    number: int
    kind: str
    planes: tuple[AnnotatedPlane, ...]
    hidden: tuple[AnnotatedPlane, ...]
    config: TrainingConfig


def session(number: int, data: Data) -> Session:
    """Annotate as session `number` does; all choices depend on the number only."""
    rng = np.random.default_rng(number)
    kind = KINDS[number % len(KINDS)]
    domains = rng.permutation(DOMAINS)[: 2 if kind == "mixed" else 1].tolist()
    count = {"few": int(rng.integers(1, 3)), "alike": 1, "mixed": int(rng.integers(1, 3))}.get(
        kind, int(rng.integers(2, 6))
    )
    made, hidden = [], []
    for domain in domains:
        planes = data.planes[domain]
        order = rng.permutation(len(planes))
        made += [annotate(planes[i], kind, count, data, rng) for i in order[:count]]
        hidden += [planes[i] for i in order[count : count + HIDDEN_IMAGES // len(domains)]]
    name, steps, options = METHODS[number % len(METHODS)]
    config = TrainingConfig(
        method=parse_method_config({"method": name}),
        steps=steps,
        learning_rate=float(rng.choice(RATES)),
        seed=number,
        **options,
    )
    return Session(number, kind, tuple(made), tuple(hidden), config)


def annotate(
    plane: AnnotatedPlane, kind: str, images: int, data: Data, rng: np.random.Generator
) -> AnnotatedPlane:
    """Return the plane with the labels and prompts of a person."""
    most = {"few": 4 // images + int(rng.integers(0, 2)), "alike": 10}.get(
        kind, int(rng.integers(5, 13))
    )
    numbers, areas = np.unique(plane.labels[plane.labels > 0], return_counts=True)
    usable = numbers[areas >= 40]
    if kind == "alike":  # those of the most common size
        sizes = areas[areas >= 40]
        usable = usable[np.argsort(abs(sizes - np.median(sizes)))[:most]]
    chosen = sorted(rng.permutation(usable)[:most].tolist())
    change: Callable[[Any, np.random.Generator], Any] = {"noisy": noisy, "wrong": wrong}.get(
        kind, lambda mask, _: mask
    )
    labels = np.zeros(plane.labels.shape, np.int32)
    for label in chosen:
        drawn = change(plane.labels == label, rng) & (labels == 0)
        if drawn.sum() >= 25:
            labels[drawn] = label
    return replace(plane, labels=labels, prompts=prompt(plane, labels, data, rng))


def noisy(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw an object carelessly: too large or too small, and beside it."""
    side = np.sqrt(mask.sum())
    steps = round(float(abs(rng.normal(0, 0.08)) * side))
    if steps:
        grow = ndimage.binary_dilation if rng.random() < 0.5 else ndimage.binary_erosion
        mask = grow(mask, iterations=steps)
    shift = np.round(rng.normal(0, 0.06, 2) * side).astype(int)
    return np.asarray(ndimage.shift(mask.astype(np.uint8), shift, order=0), bool)


def wrong(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Label something else: a place beside the object, a piece of it, or a blob around it."""
    side = np.sqrt(mask.sum())
    what = rng.integers(4)
    if what == 0:
        angle = rng.uniform(0, 2 * np.pi)
        shift = np.round(side * rng.uniform(0.5, 1.2) * np.array([np.sin(angle), np.cos(angle)]))
        return np.asarray(ndimage.shift(mask.astype(np.uint8), shift, order=0), bool)
    if what == 1:
        rows, cols = np.nonzero(mask)
        angle = rng.uniform(0, 2 * np.pi)
        along = rows * np.sin(angle) + cols * np.cos(angle)
        half = np.zeros_like(mask)
        keep = along > np.median(along)
        half[rows[keep], cols[keep]] = True
        return half
    if what == 2:
        grown = ndimage.binary_dilation(mask, iterations=max(1, int(0.4 * side)))
        return np.asarray(grown, bool)
    return mask


def prompt(
    plane: AnnotatedPlane, labels: LabelArray, data: Data, rng: np.random.Generator
) -> dict[int, Prompts]:
    """Prompt the base until its mask is good enough, as the person did before the training."""
    numbers = [int(n) for n in np.unique(labels) if n]
    targets = [Target.from_mask(labels == n) for n in numbers]
    given = []
    for target in targets:
        click = target.first_click()
        nearby = Point(click.row + rng.normal(0, 1), click.col + rng.normal(0, 1))
        row, col = (round(float(x)) for x in (nearby.row, nearby.col))
        inside = 0 <= row < labels.shape[0] and 0 <= col < labels.shape[1]
        click = nearby if inside else click
        given.append(Prompts(box=target.box) if rng.random() < 0.3 else Prompts((click,)))
    if not targets:
        return {}
    embedding, predictor = data.embedding(plane), Predictor(data.model)
    masks: list[Any] = [None] * len(given)
    active = list(range(len(given)))
    for _ in range(MOST_PROMPTS):
        answers = predictor.predict_many(
            embedding, [given[i] for i in active], [masks[i] for i in active], candidates=1
        )
        going = []
        for i, answer in zip(active, answers, strict=True):
            masks[i] = answer.logits[0]
            if targets[i].iou(answer.masks[0]) < PROMPTED_TO:
                click = targets[i].next_click(answer.masks[0])
                if click is not None and len(given[i].points) < MOST_PROMPTS:
                    given[i] = given[i].with_point(click)
                    going.append(i)
        active = going
        if not active:
            break
    return dict(zip(numbers, given, strict=True))


# --- the study --------------------------------------------------------------------


def measure(number: int, data: Data) -> Row:
    """Train and judge in one session, and look at the hidden images."""
    began = perf_counter()
    made = session(number, data)
    row: Row = {
        "session": number,
        "kind": made.kind,
        "images": [plane.name for plane in made.planes],
        "objects": [int(len(np.unique(plane.labels)) - 1) for plane in made.planes],
        "method": made.config.method.method,
        "learning_rate": made.config.learning_rate,
        "steps": made.config.steps,
    }
    try:
        report = run(finetune(data.model, made.planes, made.config))
    except Exception as error:  # noqa: BLE001  # a figure, too; it must not end the study
        return row | {"error": f"{type(error).__name__}: {error}"}
    row |= {
        "iou_before": report.iou_before,
        "iou_after": report.iou_after,
        "best_step": report.best_step,
        "verdict": report.verdict.to_dict(),
        "trials": [asdict(trial) for trial in report.verdict.trials],
    }
    trained = perf_counter()
    row["hidden"] = hidden(made, data, report.adapter if report.best_step else None)
    ended = perf_counter()
    return row | {"seconds": ended - began, "hidden_seconds": ended - trained}


def hidden(made: Session, data: Data, adapter: Adapter | None) -> Row:
    """Return the answers of base and trained model to the hidden objects, by image."""
    old = [data.base_curves(plane) for plane in made.hidden]
    new, model = old, data.model
    frozen = adapter is not None and not adapter.config.adapts_encoder
    embedding = data.embedding if frozen else lambda plane: encode_one(model, plane.pixels)
    if adapter is not None:
        with apply_adapter(model, adapter):
            new = [curves(model, plane, embedding(plane)) for plane in made.hidden]
    names = [plane.name for plane, found in zip(made.hidden, old, strict=True) for _ in found]
    return {"images": names, "old": list(chain(*old)), "new": list(chain(*new))}


def read_rows(output: Path) -> dict[int, Row]:
    """Read the newest row of every session."""
    if not output.exists():
        return {}
    rows = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    return {row["session"]: row for row in rows}


def study(args: argparse.Namespace) -> None:
    """Do the sessions that are not done yet."""
    torch.set_num_threads(args.threads)
    data = Data.read(args.data, build("builtin", "cpu"))
    done = read_rows(args.output)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for number in range(args.sessions):
        if number in done:
            continue
        row = measure(number, data)
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        found = row.get("error") or row["verdict"]["sentence"]
        print(f"[{number + 1}/{args.sessions}] {row['kind']}: {found}", flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/gate_study.jsonl"))
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the rates")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the page")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    if not args.table and args.write is None:
        study(args)
        return
    rows = [row for row in read_rows(args.output).values() if "error" not in row]
    if not rows:
        raise SystemExit(f"{args.output} holds no finished session yet: run the study first")
    text = page(rows)
    if args.table:
        print(text)
    if args.write is not None:
        args.write.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
