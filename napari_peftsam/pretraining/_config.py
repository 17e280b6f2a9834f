"""What can be chosen about a run of pretraining."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import architecture

__all__ = ["PretrainingConfig"]

_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, math.inf),
    "images": (1, math.inf),
    "objects": (1, math.inf),
    "warmup": (1, math.inf),
    "save_every": (1, math.inf),
    "validate_every": (1, math.inf),
    "final_share": (0, 1),
    "average": (0, 1),
    "real_share": (0, 1),
    "seed": (0, 2**32 - 1),
    "workers": (0, math.inf),
}


@dataclass(frozen=True)
class PretrainingConfig:
    """A run of pretraining. Equal options and weights to start from give equal results.

    That holds on the CPU, for one kind of machine and one version of this package and of the
    libraries that compute; others round differently, which training amplifies, and a GPU may
    do so from run to run. Crops and first prompts are the same everywhere.

    Attributes
    ----------
    folder
        Run folder. The run writes ``state.pt`` (to resume), ``builtin.safetensors`` (averaged
        weights in half precision, with how they were made) and ``best.safetensors`` (those of
        the best validation) there.
    steps
        Number of steps; the learning rate falls to its `final_share` over them.
    sides
        Crop sides in model pixels, multiples of 8 and at most the model's frame; each
        batch draws one of them (one that is there twice, twice as often). Large crops show
        what surrounds an object, small ones are many.
    images
        Crops per batch of the smallest side; larger crops are fewer, for an equal area.
    objects
        Prompted objects per crop.
    learning_rate
        Its peak, after `warmup` steps.
    average
        Decay of the average over steps whose weights are the result.
    save_every
        Steps between two saved states.
    validate_every
        Steps between two validations of the averaged weights.
    seed
        Of weights, crops and prompts.
    architecture
        Name of the architecture to train. A start of fewer blocks grows into it without a
        change of its outputs.
    start
        Checkpoint to start from, by name or path (else random weights).
    real_share
        Probability that a crop comes from the real images given to `pretrain`.
    device
        Torch device to train on, see `napari_peftsam.models.pick_device`. A run may be
        resumed on another one.
    workers
        Processes that make the crops; 0: none besides the one that trains. The crops do not
        depend on it.
    commit
        Version of the source code, to be recorded with the weights.
    command
        Command line of the run, to be recorded with the weights.

    Raises
    ------
    ConfigurationError
        If an option is out of its range.
    """

    folder: Path
    steps: int
    sides: tuple[int, ...] = (192, 192, 256, 384)
    images: int = 8
    objects: int = 4
    learning_rate: float = 8e-4
    warmup: int = 100
    final_share: float = 0.02
    average: float = 0.998
    save_every: int = 50
    validate_every: int = 250
    seed: int = 0
    architecture: str = "builtin"
    start: str | Path | None = None
    real_share: float = 0.3
    device: str = "auto"
    workers: int = 1
    commit: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        arch = architecture(self.architecture)
        patch, frame = arch.patch_size, arch.image_size
        if not self.sides or any(s % patch or not patch <= s <= frame for s in self.sides):
            raise ConfigurationError(
                f"sides must be multiples of {patch} from {patch} to {frame}, one at least, got "
                f"{', '.join(map(str, self.sides)) or 'none'}"
            )
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:
                limits = f"at least {least}" if most == math.inf else f"from {least} to {most}"
                raise ConfigurationError(f"{name} must be {limits}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigurationError(f"learning_rate must be positive, got {self.learning_rate}")

    @property
    def state(self) -> Path:
        """The file from which the run is resumed."""
        return self.folder / "state.pt"

    @property
    def weights(self) -> Path:
        """The file of the averaged weights."""
        return self.folder / "builtin.safetensors"

    @property
    def best(self) -> Path:
        """The file of the averaged weights of the best validation."""
        return self.folder / "best.safetensors"
