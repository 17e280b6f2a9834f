"""What each process of a team does in `test_parallel`; torchrun runs this file.

It is given a folder, into which every process puts what it saw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch

from napari_peftsam.models import build_tiny
from napari_peftsam.peft import FrozenEncoderConfig, LoraConfig, MethodConfig
from napari_peftsam.peft.methods.fact import FactConfig
from napari_peftsam.training import (
    Team,
    TrainingConfig,
    TrainingStep,
    finetune,
    joined_team,
)
from tests.training._world import finish, make_plane

CASES: dict[str, tuple[MethodConfig, int]] = {
    "even": (LoraConfig(rank=4), 2),
    "odd": (LoraConfig(rank=2), 3),
    "dropout": (FactConfig(rank=4, dropout=0.3), 2),
    "decoder": (FrozenEncoderConfig(), 5),
}
"""Methods with the number of images per step."""


@dataclass(frozen=True)
class Seen:
    """What a process saw of a run."""

    losses: list[float]
    state: dict[str, torch.Tensor]
    verdict: dict[str, Any]


def config(method: MethodConfig, images: int, **budget: float) -> TrainingConfig:
    return TrainingConfig(
        method=method, images_per_step=images, objects_per_step=3, rounds=2, learning_rate=1e-2,
        validations=1, **(budget or {"steps": 3}),
    )  # fmt: skip


def plain_optimiser(groups: list[dict[str, Any]], fused: bool) -> torch.optim.Optimizer:
    """Return one that steps as far as the gradient is large.

    Adam's steps are as large for gradients that are nothing but the rounding of batches of
    another size, of which some seeds have many and others none.
    """
    assert fused
    return torch.optim.SGD(groups)


def train(
    settings: TrainingConfig, team: Team | None = None, stop: Callable[[], bool] = lambda: False
) -> Seen:
    """Train and return the last state, whichever is the best."""
    planes = [make_plane("a"), make_plane("b", 1), make_plane("c", 2)]
    with (
        patch("napari_peftsam.training.run.is_worse", lambda *_: False),
        patch.object(torch.optim, "AdamW", plain_optimiser),
    ):
        events, finished = finish(finetune(build_tiny(), planes, settings, team=team, stop=stop))
    assert finished.best_step == finished.steps
    losses = [event.loss for event in events if isinstance(event, TrainingStep)]
    return Seen(losses, dict(finished.adapter.tensors), finished.verdict.to_dict())


def disagreeing(team: Team) -> dict[str, Seen]:
    """Runs in which each process would end at another step if it decided itself."""
    short = config(LoraConfig(rank=2), 2, seconds=0.5)
    module = sys.modules["napari_peftsam.training.finetune"]
    with patch.object(module, "perf_counter", perf_counter if team.leads else lambda: 0.0):
        timed = train(short, team)
    asked = count()
    stop = (lambda: next(asked) >= 1) if team.leads else (lambda: False)
    return {"timed": timed, "stopped": train(config(LoraConfig(rank=2), 2, steps=50), team, stop)}


def main(folder: Path) -> None:
    with joined_team("cpu") as team:
        seen = {name: train(config(*case), team) for name, case in CASES.items()}
        seen |= disagreeing(team)
        torch.save(
            {name: vars(one) for name, one in seen.items()}, folder / f"{int(team.leads)}.pt"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
