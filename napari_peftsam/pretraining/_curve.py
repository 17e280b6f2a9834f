"""Picture of a run: its losses, and the figures of its validations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.errors import InputFileError

__all__ = ["draw_curve", "read_log"]

_WINDOW = 100  # steps of the running mean: single losses vary by a factor of three
_LABELS = {"box": "box", "click": "one click", "clicks5": "5 clicks"}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the steps of a run's log in their order.

    A step that was done again after an interruption counts once.

    Raises
    ------
    InputFileError
        If there is no log, or a line of it is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        steps = {step["step"]: step for step in map(json.loads, lines)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputFileError(f"{path} is no log of a run of pretraining: {error}") from error
    return [steps[number] for number in sorted(steps)]


def draw_curve(steps: Sequence[dict[str, Any]], picture: Path) -> None:
    """Draw losses and validations over the steps of a run into an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    losses, ious = figure.subplots(1, 2)
    trained = [step for step in steps if step["parts"]]
    numbers = [step["step"] for step in trained]
    for part in trained[0]["parts"] if trained else ():
        values = [step["parts"][part] for step in trained]
        losses.plot(numbers, _running_mean(values), label=part)
    losses.set(xlabel="step", ylabel=f"loss, mean of {_WINDOW} steps")
    validated = [step for step in steps if step.get("validation")]
    numbers = [step["step"] for step in validated]
    for style, name in zip("-:", validated[0]["validation"] if validated else (), strict=False):
        for colour, (key, label) in enumerate(_LABELS.items()):
            values = [step["validation"][name][key] for step in validated]
            ious.plot(
                numbers, values, f"{style}o", color=f"C{colour}", ms=3, label=f"{name}, {label}"
            )
    ious.set(xlabel="step", ylabel="IoU of the averaged weights")
    for axes in (losses, ious):
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(picture, dpi=100)


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Return the mean of the last `_WINDOW` values at each, of fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - _WINDOW, 0)
    mean: np.ndarray = (total[end] - total[start]) / (end - start)
    return mean
