"""What a run of pretraining keeps in its folder, and what that must agree with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save_file

from napari_peftsam import __version__
from napari_peftsam.errors import TrainingError
from napari_peftsam.models import DENSE_HEAD, DenseHead, SamModel
from napari_peftsam.pretraining._config import PretrainingConfig
from napari_peftsam.pretraining._validation import Figures, Validation, quality
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["SHIPPED", "Recipe", "RunState", "make_recipe", "read_chain"]

Recipe = dict[str, str | float]

SHIPPED = "builtin"
"""Name of the weights in the package, as a start."""

# Where results are kept, how often and how they are computed does not change what is computed;
# a run can be moved to another machine.
_WITHOUT_EFFECT = (
    *("folder", "save_every", "validate_every", "device", "workers"),
    *("commit", "command"),
)


def make_recipe(
    config: PretrainingConfig, model: SamModel, real: Sequence[tuple[PixelArray, LabelArray]]
) -> Recipe:
    """Return what the result depends on, to be kept with it."""
    chosen: Recipe = {
        name: value if isinstance(value, (int, float)) else str(value)
        for name, value in asdict(config).items()
        if name not in (*_WITHOUT_EFFECT, "start")
    }
    start = "" if config.start is None else model.weights_hash
    return chosen | {"start": start, "real_images": len(real), "real_digest": _digest(real)}


def _digest(real: Sequence[tuple[PixelArray, LabelArray]]) -> str:
    """Return the xxh128 (hex) of pixels and labels in their order; empty if there are none."""
    digest = xxhash.xxh128()
    for array in (array for pair in real for array in pair):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest() if real else ""


def read_chain(weights: Path) -> list[dict[str, object]]:
    """Return the records of the runs that made a file of weights, oldest first.

    A file from before the chain was recorded tells its last run only.
    """
    if weights.suffix != ".safetensors":
        return []
    with safe_open(weights, "pt") as file:
        metadata = file.metadata() or {}
    last = [json.loads(metadata["training"])] if "training" in metadata else []
    chain: list[dict[str, object]] = json.loads(metadata.get("chain", "null")) or last
    return chain


@dataclass(frozen=True, eq=False)
class RunState:
    """The parts of a run that change while it trains.

    Attributes
    ----------
    config
        Says where they are kept.
    recipe
        See `make_recipe`; a run is only resumed with the one it was begun with.
    network, average
        The network, and the average of its weights: a SAM and a dense head each.
    optimiser
        Of the network.
    chain
        Records of the runs that made the weights the run starts from, oldest first.
    commits
        Step after which each version of the source code took over the run.
    """

    config: PretrainingConfig
    recipe: Recipe
    network: torch.nn.ModuleList
    average: torch.nn.ModuleList
    optimiser: torch.optim.Optimizer
    chain: list[dict[str, object]]
    commits: dict[str, int] = field(default_factory=dict)

    def resume(self) -> int:
        """Load what was saved, if anything, and return the number of steps it took.

        Raises
        ------
        TrainingError
            If it was saved by a run of another recipe.
        """
        if not self.config.state.is_file():
            self.commits[self.config.commit] = 0
            return 0
        # Another machine may lack the device that it was saved from.
        state = torch.load(self.config.state, map_location="cpu", weights_only=True)
        self._check(state.get("recipe", {}))
        self.recipe["start"] = state["recipe"]["start"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.chain[:] = json.loads(state.get("chain", "[]"))
        self.commits.update(state.get("commits", {}))
        self.commits.setdefault(self.config.commit, int(state["step"]))
        return int(state["step"])

    def _check(self, begun: Recipe) -> None:
        differing = [name for name, value in self.recipe.items() if begun.get(name) != value]
        # The shipped weights move on while a run from their older version is under way.
        if self.config.start == SHIPPED and begun.get("start"):
            differing = [name for name in differing if name != "start"]
        if not differing:
            return
        options = ", ".join(
            f"{name} {begun[name]!r}" if name in begun else f"no {name}" for name in differing
        )
        raise TrainingError(
            f"the run in {self.config.folder} was begun with "
            f"{options if begun else 'options it does not tell'}; give the same to go on with "
            "it, or another output folder to begin a new one"
        )

    def save(self, step: int) -> None:
        """Keep everything that is needed to go on after `step`, and the averaged weights."""
        state = {
            "recipe": self.recipe,
            "step": step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "chain": json.dumps(self.chain),
            "commits": dict(self.commits),
        }
        temporary = self.config.folder / "state.tmp"
        torch.save(state, temporary)
        temporary.replace(self.config.state)
        self._write_weights(self.config.weights, step)

    def validate(self, validation: Validation, model: SamModel, step: int) -> dict[str, Figures]:
        """Return the figures of the averaged weights and keep the weights if they are the best."""
        sam, head = self.average
        assert isinstance(head, DenseHead)
        self.average.eval()
        figures = validation.run(replace(model, sam=sam, dense_head=head))
        found = quality(figures)
        if found > self._best():
            self._write_weights(self.config.best, step, {"quality": found})
        return figures

    def _best(self) -> float:
        """Return the quality of the best weights so far, 0 if there are none."""
        if not self.config.best.is_file():
            return 0.0
        with safe_open(self.config.best, "pt") as file:
            return float(json.loads(file.metadata()["training"])["quality"])

    def _write_weights(
        self, path: Path, step: int, figures: Mapping[str, float] | None = None
    ) -> None:
        sam, head = self.average
        tensors = sam.state_dict() | {f"{DENSE_HEAD}{k}": v for k, v in head.state_dict().items()}
        weights = {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}
        # Versions are recorded, not compared: most changes of a version leave training alone,
        # and a run of hours that an update stopped for good would help nobody.
        record = {
            **self.recipe,
            "version": __version__,
            "torch": str(torch.__version__),
            "command": self.config.command,
            "commits": self.commits,
            "step": step,
            **(figures or {}),
        }
        metadata = {"training": json.dumps(record), "chain": json.dumps([*self.chain, record])}
        temporary = path.with_suffix(".tmp")
        save_file(weights, temporary, metadata=metadata)
        temporary.replace(path)
