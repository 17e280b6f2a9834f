"""What the finetuning dock says about a run, in full sentences."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Outcome", "format_time", "verdict"]

_MOST_DIGITS = 6


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    before
        Name of the adapter that was live.
    after
        Name of the new version, empty if there is none.
    iou_before, iou_best, iou_last
        Held-out IoU of `before`, of the best and of the last state of the run.
    steps
        How many were done.
    placement
        Where the adapter sat, as text; empty if the encoder was not adapted.
    """

    before: str
    after: str
    iou_before: float
    iou_best: float
    iou_last: float
    steps: int
    placement: str = ""


def verdict(outcome: Outcome) -> str:
    """Return what happened and, if nothing was gained, what to try next."""
    before = "the base model" if outcome.before == "base" else outcome.before
    if outcome.after:
        change = _change(outcome.iou_before, outcome.iou_best)
        return f"{outcome.after} is better on held-out objects ({change}): live."
    if not outcome.steps:
        return f"Stopped before the first step, so {before} stays live."
    if _shown(outcome.iou_last) == _shown(outcome.iou_before):
        start = f"Held-out IoU stayed at {outcome.iou_before:.2f}"
        advice = "Train longer, or add objects that it gets wrong."
    elif outcome.iou_last > outcome.iou_before:  # a rise that is below any display
        start = f"Held-out IoU did not rise above {outcome.iou_before:.2f}"
        advice = "Train longer, or add objects that it gets wrong."
    else:
        change = f"{outcome.iou_before:.2f} to {outcome.iou_last:.2f}"
        start = f"Held-out IoU fell from {change}"
        narrower = outcome.placement in ("all", "late-50%")
        other = "or try late-25 %." if narrower else "or lower the learning rate."
        advice = f"Add objects from the new image, {other}"
    return f"{start}, so {before} stays live. {advice}"


def format_time(seconds: float) -> str:
    """Return a duration as ``0:34`` or ``1:02:03``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _shown(iou: float) -> str:
    return f"{iou:.2f}"


def _change(before: float, after: float) -> str:
    digits = 2
    while digits < _MOST_DIGITS and round(before, digits) == round(after, digits):
        digits += 1
    return f"{before:.{digits}f} → {after:.{digits}f}"
