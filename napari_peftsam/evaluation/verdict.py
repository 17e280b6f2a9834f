"""The verdict on a trained model: it and the model in use answer the same prompts.

A verdict is a function of the answers to single objects, which it keeps, so that another rule can
be tried on them without a training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from napari_peftsam.errors import count_text
from napari_peftsam.evaluation.intervals import intervals_at

__all__ = ["Answers", "Difference", "Trial", "Verdict"]

TARGET = 0.8
"""IoU at which a user is assumed to accept a mask."""
SHOWN = 0.95
"""Level of the intervals that are reported, two-sided."""
LEVEL = 0.7
"""Of those that decide. Chosen, with the part of the IoU, on the first 50 sessions of the study
in docs/gate.md: 0.95 kept out a model that was better by 10 %, and let in no fewer worse ones.
"""
LEAST = 5
"""Objects below which nothing is judged."""
LEAST_CLICKS, LEAST_IOU = 0.1, 0.01
"""Mean differences below which models are equal for a user, however sure they are.

One click for ten objects, and a hundredth of the pixels of an object.
"""
_WITHIN = 0.5  # of these differences: so much the other figure may fall


@dataclass(frozen=True)
class Answers:
    """IoU of one object's masks by one model.

    Attributes
    ----------
    given
        After each of a person's prompts for it, in their order; without any after simulated ones.
    clicked
        After 1, 2, … simulated clicks, until the mask is good.
    """

    given: tuple[float, ...]
    clicked: tuple[float, ...]

    @property
    def iou(self) -> float:
        """The mean over the given prompts."""
        return float(np.mean(self.given))

    @property
    def clicks(self) -> float:
        """Clicks to the `TARGET`, read off between two clicks; all of them if it is not reached."""
        before = 0.0
        for count, iou in enumerate(self.clicked):
            if iou >= TARGET:
                return max(1.0, count + (TARGET - before) / (iou - before))
            before = iou
        return float(len(self.clicked))


@dataclass(frozen=True)
class Trial:
    """Answers to one object by two models that were not trained on it.

    Attributes
    ----------
    image
        Of several objects in one image, the figures are alike.
    old, new
        By the model in use, and by the one that is to take its place.
    in_fold
        True if the new one is a stand-in for the trained model, trained on other objects only.
    """

    image: str
    old: Answers
    new: Answers
    in_fold: bool = False


@dataclass(frozen=True)
class Difference:
    """Mean of a paired difference.

    Attributes
    ----------
    interval
        Of the level `SHOWN`; None below two objects.
    sign
        1 or -1 if the whole interval of the level `LEVEL` is above or below 0, else 0.
    """

    mean: float
    interval: tuple[float, float] | None
    sign: int = 0

    def scaled(self, factor: float) -> Difference:
        """Return it in another unit."""
        ends = self.interval
        interval = None if ends is None else (ends[0] * factor, ends[1] * factor)
        return Difference(self.mean * factor, interval, self.sign)


@dataclass(frozen=True)
class Verdict:
    """The comparison of a trained model with the one in use; without trials the old one stays.

    The figures are paired: means over objects of the difference between the two models, with
    bootstrap intervals over images and their objects (`intervals_at`). The trained model
    is better if the whole interval of the clicks that it saves is above 0, their mean is at least
    `LEAST_CLICKS`, and it loses no more than half of `LEAST_IOU` at the given prompts on average.
    Where clicks differ by less, the IoU decides in the same way. In a tie the old one stays.
    """

    trials: tuple[Trial, ...] = ()

    @property
    def objects(self) -> int:
        """Number of objects that were compared."""
        return len(self.trials)

    @property
    def is_better(self) -> bool:
        """True if the trained model should go live."""
        return self.outcome == "better"

    @cached_property
    def outcome(self) -> Literal["better", "no difference", "worse"]:
        """The result in a word."""
        sign = self._signs[0] or self._signs[1]
        return "no difference" if sign == 0 else "better" if sign > 0 else "worse"

    @cached_property
    def _signs(self) -> tuple[int, int]:
        """What clicks and IoU show: 1 for a better model, -1 for a worse one, 0 for neither.

        The IoU shows nothing where clicks differ, and neither figure does if the other one, or the
        trained model itself on its objects, clearly points the other way.
        """
        if self.objects < LEAST:
            return 0, 0
        clicks, iou = self._differences
        own = [Verdict(tuple(t for t in self.trials if not t.in_fold))] if self._has_folds else []
        means = np.array([(e.clicks_saved.mean, e.iou_gain.mean) for e in (self, *own)])
        noise = _WITHIN * np.array((LEAST_CLICKS, LEAST_IOU))

        def sign(of: Difference, least: float) -> int:
            agreed = bool((means * np.sign(of.mean) >= -noise).all())
            return of.sign if agreed and abs(of.mean) >= least else 0

        if abs(clicks.mean) >= LEAST_CLICKS:
            return sign(clicks, LEAST_CLICKS), 0
        return 0, sign(iou, LEAST_IOU)

    @property
    def _has_folds(self) -> bool:
        return any(trial.in_fold for trial in self.trials)

    @property
    def sentence(self) -> str:
        """The verdict for people, without a full stop."""
        if not self.trials:
            return "No object was held out to compare the models on: the old one stays"
        if self.outcome == "no difference":
            few = count_text(self.objects, "object")
            return f"No difference that {few} could show: the old one stays"
        if self._signs[0]:
            found = "Saves about {} clicks per object", "Costs about {} more clicks per object"
            text = self._shown(self.clicks_saved, found)
        else:
            found = (
                "Better masks from the same prompts, {} % IoU more",
                "Worse masks from the same prompts, {} % IoU less",
            )
            text = self._shown(self.iou_gain.scaled(100), found)
        return text if self.is_better else f"{text}: the old one stays"

    def _shown(self, difference: Difference, texts: tuple[str, str]) -> str:
        assert difference.interval is not None
        towards = 1 if difference.mean > 0 else -1
        low, high = sorted(towards * end for end in difference.interval)
        digits = 1 if abs(low) >= 0.05 else 2
        mean, *ends = (f"{x:.{digits}f}" for x in (towards * difference.mean, low, high))
        text = texts[0 if towards > 0 else 1].format(mean)
        return f"{text} ({('–' if low >= 0 else ' to ').join(ends)}, n = {self.objects})"

    @cached_property
    def clicks_saved(self) -> Difference:
        """Clicks to 80 % IoU that the trained model saves per object."""
        return self._differences[0]

    @cached_property
    def iou_gain(self) -> Difference:
        """IoU that the trained model gains at the given prompts."""
        return self._differences[1]

    @cached_property
    def _differences(self) -> tuple[Difference, Difference]:
        if not self.trials:
            return Difference(0.0, None), Difference(0.0, None)
        values = np.array(
            [(t.old.clicks - t.new.clicks, t.new.iou - t.old.iou) for t in self.trials]
        )
        images = [trial.image for trial in self.trials]
        groups = [images.index(image) for image in images]
        means, found = values.mean(axis=0).tolist(), intervals_at(values, groups, (SHOWN, LEVEL))
        if found is None:
            clicks, iou = (Difference(mean, None) for mean in means)
        else:
            clicks, iou = (
                Difference(mean, interval, int(low > 0) - int(high < 0))
                for mean, interval, (low, high) in zip(means, *found, strict=True)
            )
        return clicks, iou

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        values: dict[str, Any] = {
            "sentence": self.sentence,
            "outcome": self.outcome,
            "objects": self.objects,
            "images": len({trial.image for trial in self.trials}),
            "in_folds": sum(trial.in_fold for trial in self.trials),
        }
        for name, difference in (("clicks_saved", self.clicks_saved), ("iou_gain", self.iou_gain)):
            interval = difference.interval
            values[name] = difference.mean
            values[f"{name}_interval"] = None if interval is None else list(interval)
        return values
