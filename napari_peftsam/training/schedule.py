"""The learning rate over a run, and the end of a run that no longer improves."""

from __future__ import annotations

import math

from napari_peftsam.configs import TrainingOptions

_WARMUP = 0.05  # share of the budget
_FINAL_RATE = 0.05  # of the peak learning rate
# As PEFT-SAM sets torch's ReduceLROnPlateau, whose threshold is relative.
_PLATEAU_FACTOR, _PLATEAU_PATIENCE, _PLATEAU_THRESHOLD = 0.9, 10, 1e-4
_VALIDATIONS_SHARE = 0.15  # of a budget of time, at most; there is one in any case
_EPOCH_STEPS = 50  # of PEFT-SAM's training on a single image, at least


class Schedule:
    """What a run makes of its progress and of its held-out objects.

    Attributes
    ----------
    over
        Whether more validations than the configuration allows were no better than the best.
    """

    def __init__(self, config: TrainingOptions) -> None:
        self._config = config
        self._factor = 1.0  # of the plateau schedule
        self._level, self._waited = -math.inf, 0
        self._best, self._since_best = -math.inf, 0
        self._times = config.validations or 1
        self._next = 1 / self._times
        self.over = False

    def started(self, iou: float, seconds: float) -> None:
        """Note the start's IoU of the held-out objects, and what it took to find out.

        If that is dear, they are looked at less often than the configuration says.
        """
        self.validated(iou)
        if self._config.seconds is not None and self._config.validations:
            most = _VALIDATIONS_SHARE * self._config.seconds / max(seconds, 1e-6)
            self._times = max(1, int(min(most, self._config.validations)))
            self._next = 1 / self._times

    def rate(self, progress: float) -> float:
        """Return the share of the peak learning rate at a share of the budget, in [0, 1]."""
        if self._config.schedule == "plateau":
            return self._factor
        if progress < _WARMUP:
            return (progress + 0.1 * _WARMUP) / (1.1 * _WARMUP)
        decay = 0.5 * (1 + math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP)))
        return _FINAL_RATE + (1 - _FINAL_RATE) * decay

    def validation_due(self, progress: float, step: int, epochs: float) -> bool:
        """Return whether it is time to look at the held-out objects, once for each time."""
        times = self._times
        reached = progress if self._config.validations else min(epochs, step / _EPOCH_STEPS)
        if reached < self._next:
            return False
        self._next = (math.floor(reached * times) + 1) / times
        return True

    def validated(self, iou: float) -> None:
        """Note the held-out objects' IoU."""
        if iou > self._level * (1 + _PLATEAU_THRESHOLD):
            self._level, self._waited = iou, 0
        else:
            self._waited += 1
        if self._waited > _PLATEAU_PATIENCE:
            self._factor, self._waited = self._factor * _PLATEAU_FACTOR, 0
        self._since_best = 0 if iou > self._best else self._since_best + 1
        self._best = max(self._best, iou)
        allowed = self._config.early_stopping
        self.over = allowed is not None and self._since_best > allowed
