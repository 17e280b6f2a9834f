"""How far a run is, and how fast it learns then."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from napari_peftsam.training._team import Team
from napari_peftsam.training.config import TrainingConfig

__all__ = ["Budget", "learning_rate_factor"]

_WARMUP = 0.05  # share of the budget
_FINAL_RATE = 0.05  # of the peak learning rate


@dataclass(frozen=True, eq=False)
class Budget:
    """The budget of a run and its clock, which starts when this is made."""

    config: TrainingConfig
    team: Team
    began: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self.began

    def progress(self, step: int, epochs: float) -> float:
        """Return the share of the budget used up, in [0, 1]; the same for all processes."""
        config = self.config
        if config.seconds is not None:
            return self.team.agree(min(1.0, self.elapsed() / config.seconds))
        if config.epochs is not None:
            return min(1.0, epochs / config.epochs)
        assert config.steps is not None  # the configuration has exactly one budget
        return min(1.0, step / config.steps)

    def remaining(self, progress: float) -> float:
        """Return the estimated seconds until the end."""
        return self.elapsed() * (1 - progress) / max(progress, 1e-6)


def learning_rate_factor(progress: float) -> float:
    """Return the share of the peak learning rate: a short warm-up, then a cosine."""
    if progress < _WARMUP:
        return (progress + 0.1 * _WARMUP) / (1.1 * _WARMUP)
    decay = 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))
    return _FINAL_RATE + (1 - _FINAL_RATE) * decay
