"""How good segmentation without prompts is: as shipped, after a few objects, after eight images.

``python tests/benchmarks/automatic_study.py`` segments the images of each domain that nothing is
learned from, one JSON line per row in ``--output``; a second call goes on where the first was
stopped. ``--write PAGE`` writes the lines as a table. Trainings take seconds of processor time of
one thread, as in ``recipe_study.py``, and keep the state that `finetune` keeps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft_study import MODEL, TRAINING_IMAGES, Domain
from recipe_study import SETTINGS, by_processor_time, read, study_parser

from napari_peftsam.embeddings import encode_one
from napari_peftsam.evaluation import AutomaticEvaluation, evaluate_automatic
from napari_peftsam.geometry import object_windows
from napari_peftsam.models import SamModel, build
from napari_peftsam.peft import apply_adapter, dense_head_of
from napari_peftsam.segmentation import Predictor
from napari_peftsam.segmentation.automatic import (
    ProposalScorer,
    best_ious,
    features_of,
    propose_in_frame,
)
from napari_peftsam.training import AnnotatedPlane

Row = dict[str, Any]
SHIPPED, JUDGED, COMPLETE = "as shipped", "20 accepted, 20 rejected", "8 complete images"
OBJECTS = {"5 objects": 5, "10 objects": 10, "20 objects": 20}  # that are learned from
ROWS = (SHIPPED, JUDGED, *OBJECTS, COMPLETE)
_FLUO = "dsb_fluo"
DOMAINS = (_FLUO, *TRAINING_IMAGES)
_SEEN = (0, 1, 4, 5, 8, 11, 13, 15, 17, 18, 19)  # images of dsb_fluo of which the model was made
_EFFORT = ("effort_per_object", "effort_prompting_only")
_EACH = 20  # proposals that are accepted, and rejected


def some_objects(domain: Domain, count: int, seed: int) -> list[AnnotatedPlane]:
    """Return the first images with `count` objects in all, drawn at random."""
    rng, found = np.random.default_rng(seed), list[AnnotatedPlane]()
    for plane in domain.training:
        numbers = sorted(object_windows(plane.labels))
        chosen = rng.permutation(numbers)[:count]
        found.append(
            replace(plane, labels=np.where(np.isin(plane.labels, chosen), plane.labels, 0))
        )
        count -= len(chosen)
        if not count:
            break
    return found


def judged(model: SamModel, plane: AnnotatedPlane) -> ProposalScorer:
    """Return the scorer after 20 good proposals of an image were accepted, and 20 others not."""
    proposals, _ = propose_in_frame(Predictor(model), encode_one(model, plane.pixels))
    features, ious = features_of(proposals), best_ious(proposals, plane.labels)
    order = np.argsort(-ProposalScorer().scores(features).iou)
    good, bad = (order[which[order]][:_EACH] for which in (ious >= 0.75, ious < 0.5))
    seen = np.concatenate([good, bad])
    return ProposalScorer().judged(features[seen], np.where(ious < 0.5, 0, ious)[seen])


def evaluated(model: SamModel, planes: Sequence[AnnotatedPlane], **options: Any) -> Row:
    """Return figures and their intervals."""
    pairs = [(plane.name, plane.pixels, plane.labels) for plane in planes]
    *_, found = evaluate_automatic(model, pairs, **options)
    assert isinstance(found, AutomaticEvaluation)
    values = found.to_dict()
    del values["per_image"]
    return values


def measure(model: SamModel, data: Path, domain: str, row: str, seconds: float, seed: int) -> Row:
    """Train as the row says, and evaluate."""
    own = Domain.read(data, domain, _SEEN if domain == _FLUO else None)
    if row == SHIPPED:
        return evaluated(model, own.rest)
    if row == JUDGED:
        scorer = judged(model, own.training[0])
        return evaluated(model, own.rest, scorer=scorer, with_effort=False)
    chosen = "recommended, complete labels" if row == COMPLETE else "recommended"
    [setting] = [each for each in SETTINGS if each.name == chosen]
    planes = own.training if row == COMPLETE else some_objects(own, OBJECTS[row], seed)
    report = by_processor_time(model, planes, setting.config(model, seconds, seed))
    adapter = report.adapter
    with apply_adapter(model, adapter):
        found = evaluated(
            model, own.rest, with_effort=row == COMPLETE,
            head=dense_head_of(model, adapter), scorer=ProposalScorer.of(adapter),
        )  # fmt: skip
    return found | {"steps": report.steps, "best_step": report.best_step}


def study(args: argparse.Namespace) -> None:
    """Do what is not done yet."""
    torch.set_num_threads(1)
    model, rows = build(MODEL, "cpu"), read(args.output)
    done = {(row["row"], row["domain"]) for row in rows if _is_alike(row, args)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name, domain in product(args.rows or ROWS, args.domains or DOMAINS):
        if (name, domain) in done or (domain == _FLUO and name != SHIPPED):
            continue
        found = measure(model, args.data, domain, name, args.seconds, args.seed)
        line = {"row": name, "domain": domain, "seconds": args.seconds, "seed": args.seed, **found}
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{domain}, {name}: mSA {found['msa']:.3f}, AP50 {found['ap50']:.3f}", flush=True)


def _is_alike(row: Row, args: argparse.Namespace) -> bool:
    return (row["seed"], row["seconds"]) == (args.seed, args.seconds)


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    lines = [
        "| images | after | mSA (95 %) | AP50 | AP75 | PQ | effort | prompting alone |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    order = {(domain, name): i for i, (domain, name) in enumerate(product(DOMAINS, ROWS))}
    for row in sorted(rows, key=lambda row: order[row["domain"], row["row"]]):
        low, high = row["intervals"]["msa"]
        cells = [
            f"`{row['domain']}` ({row['images']})",
            row["row"],
            f"{row['msa']:.2f} ({low:.2f}–{high:.2f})",
            *(f"{row[name]:.2f}" for name in ("ap50", "ap75", "pq")),
            *(f"{row[name]:.1f}" if name in row else "" for name in _EFFORT),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, or write the table."""
    parser = study_parser(__doc__, "runs/automatic_study.jsonl")
    add = parser.add_argument
    add("--rows", nargs="+", default=[], choices=ROWS, help="all if not given")
    add("--domains", nargs="+", default=[], choices=DOMAINS, help="all if not given")
    add("--seed", type=int, default=0, help="of the trainings and of the objects")
    args = parser.parse_args()
    if args.write is None:
        study(args)
    else:
        args.write.write_text(table(read(args.output)), encoding="utf-8")


if __name__ == "__main__":
    main()
