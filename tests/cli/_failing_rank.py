"""The program as torchrun starts it, in one process of which the training fails."""

from __future__ import annotations

import os
import sys
from typing import Any
from unittest.mock import patch

from napari_peftsam.cli import main
from napari_peftsam.errors import TrainingError
from napari_peftsam.training.step import Trainer

_gradients = Trainer.gradients


def gradients(self: Trainer, number: int, *others: Any) -> float:
    if number == 1 and os.environ["RANK"] == os.environ["FAILING_RANK"]:
        raise TrainingError("this one has failed")
    return _gradients(self, number, *others)


if __name__ == "__main__":
    with patch.object(Trainer, "gradients", gradients):
        sys.exit(main())
