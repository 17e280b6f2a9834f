"""Options of a run of pretraining, and what it keeps in its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save_file

from napari_peftsam import __version__
from napari_peftsam.errors import ConfigurationError, TrainingError
from napari_peftsam.models import DENSE_HEAD, DenseHead, SamModel, architecture
from napari_peftsam.pretraining.validation import Figures, Validation, quality
from napari_peftsam.types import LabelArray, PixelArray

Recipe = dict[str, str | float]

ARCHITECTURE = "builtin"
_PART = "refiner"
_SHIPPED = "builtin"  # name of the weights in the package, as a start

# Where results are kept, how often and how they are computed does not change what is computed;
# a run can be moved to another machine.
_WITHOUT_EFFECT = (
    *("folder", "save_every", "validate_every", "device", "workers"),
    *("commit", "command"),
)


def _about(text: str, least: float = -math.inf, most: float = math.inf) -> dict[str, Any]:
    return {"help": text, "least": least, "most": most}


@dataclass(frozen=True)
class PretrainingConfig:
    """Options of a run; equal options and weights to start from give equal results.

    That holds on the CPU, for one kind of machine and one version of this package and of the
    libraries that compute; others round differently, which training amplifies, and a GPU may
    do so from run to run. Crops and first prompts are the same everywhere. Each field's metadata
    describes it, for the command line as well.

    Raises
    ------
    ConfigurationError
        If an option is out of its range.
    """

    folder: Path
    steps: int = field(default=4000, metadata=_about("steps of the whole run", 1))
    sides: tuple[int, ...] = field(
        default=(192, 192, 256, 384),
        metadata=_about("crop sides in model pixels to draw from; twice is twice as often"),
    )
    images: int = field(default=8, metadata=_about("crops of the smallest side per step", 1))
    objects: int = field(default=4, metadata=_about("prompted objects per crop", 1))
    learning_rate: float = field(default=8e-4, metadata=_about("peak learning rate"))
    warmup: int = field(default=100, metadata=_about("steps until the peak learning rate", 1))
    final_share: float = field(
        default=0.02, metadata=_about("share of the peak learning rate at the last step", 0, 1)
    )
    average: float = field(
        default=0.998, metadata=_about("decay of the average of the weights over steps", 0, 1)
    )
    save_every: int = field(default=50, metadata=_about("steps between two saved states", 1))
    validate_every: int = field(
        default=250, metadata=_about("steps between two validations of the averaged weights", 1)
    )
    seed: int = field(default=0, metadata=_about("seed of crops, prompts, weights", 0, 2**32 - 1))
    start: str | Path | None = field(
        default=None,
        metadata=_about("checkpoint to start from, e.g. builtin (default: random weights)"),
    )
    real_share: float = field(
        default=0.3, metadata=_about("probability that a crop comes from a real image", 0, 1)
    )
    only: str = field(default="", metadata=_about(f"train this part alone: {_PART}"))
    device: str = field(default="auto", metadata=_about("default: a GPU if there is one"))
    workers: int = field(
        default=1, metadata=_about("processes that make the crops, without an effect on them", 0)
    )
    commit: str = field(
        default="", metadata=_about("version of the source code, recorded with the weights")
    )
    command: str = ""  # recorded with the weights

    def __post_init__(self) -> None:
        arch = architecture(ARCHITECTURE)
        patch, frame = arch.patch_size, arch.image_size
        if not self.sides or any(s % patch or not patch <= s <= frame for s in self.sides):
            raise ConfigurationError(
                f"sides must be multiples of {patch} from {patch} to {frame}, one at least, got "
                f"{', '.join(map(str, self.sides)) or 'none'}"
            )
        for option in fields(self):
            least, most = (option.metadata.get(k, -math.inf) for k in ("least", "most"))
            value = getattr(self, option.name)
            if least > -math.inf and not least <= value <= most:
                limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
                raise ConfigurationError(f"{option.name} must be {limits}, got {value}")
        if self.only not in {"", _PART}:
            raise ConfigurationError(f"only {_PART} can be trained alone, not {self.only}")
        if self.only and self.start is None:
            raise ConfigurationError(f"give the weights that the {self.only} is for as the start")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigurationError(f"learning_rate must be positive, got {self.learning_rate}")

    @property
    def state(self) -> Path:
        """The file from which the run is resumed."""
        return self.folder / "state.pt"

    @property
    def weights(self) -> Path:
        """The file of the averaged weights, in half precision, with how they were made."""
        return self.folder / "builtin.safetensors"

    @property
    def best(self) -> Path:
        """The file of the averaged weights of the best validation."""
        return self.folder / "best.safetensors"


def make_recipe(
    config: PretrainingConfig, model: SamModel, real: Sequence[tuple[PixelArray, LabelArray]]
) -> Recipe:
    """Return the options and digests on which the result depends, to be kept with it."""
    chosen: Recipe = {
        name: value if isinstance(value, (int, float)) else str(value)
        for name, value in asdict(config).items()
        if name not in (*_WITHOUT_EFFECT, "start")
    }
    digest = xxhash.xxh128()
    for array in (array for pair in real for array in pair):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return chosen | {
        "architecture": ARCHITECTURE,
        "start": "" if config.start is None else model.weights_hash,
        "real_images": len(real),
        "real_digest": digest.hexdigest() if real else "",
    }


def read_chain(weights: Path) -> list[dict[str, object]]:
    """Return the records of the runs that made a file of weights, oldest first.

    A file from before the chain was recorded holds the record of its last run only.
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
    """The parts of a run that change while it trains, and their files."""

    config: PretrainingConfig
    recipe: Recipe  # a run is only resumed with the one it was begun with
    model: SamModel
    network: torch.nn.ModuleList  # the model's SAM and dense head
    average: torch.nn.ModuleList  # of the network's weights
    optimiser: torch.optim.Optimizer
    chain: list[dict[str, object]]  # see `read_chain`, of the weights to start from
    commits: dict[str, int] = field(default_factory=dict)  # first step of each code version

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
        if self.config.start == _SHIPPED and begun.get("start"):
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

    def validate(self, validation: Validation, step: int) -> dict[str, Figures]:
        """Return the figures of the averaged weights and keep the weights if they are the best."""
        sam, head = self.average
        assert isinstance(head, DenseHead)
        self.average.eval()
        figures = validation.run(replace(self.model, sam=sam, dense_head=head))
        found, best = quality(figures), 0.0
        if self.config.best.is_file():
            with safe_open(self.config.best, "pt") as file:
                best = float(json.loads(file.metadata()["training"])["quality"])
        if found > best:
            self._write_weights(self.config.best, step, quality=found)
        return figures

    def _write_weights(self, path: Path, step: int, **figures: float) -> None:
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
            **figures,
        }
        metadata = {"training": json.dumps(record), "chain": json.dumps([*self.chain, record])}
        temporary = path.with_suffix(".tmp")
        save_file(weights, temporary, metadata=metadata)
        temporary.replace(path)
