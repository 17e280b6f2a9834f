"""The rows of `gate_study` as a Markdown page; every figure and every claim is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import mean
from textwrap import fill
from typing import Any
from unittest.mock import patch

from scipy.stats import beta

from napari_peftsam.evaluation import Answers, Trial, Verdict, verdict

Row = dict[str, Any]
MUCH = 0.1  # of the clicks: so much better must not stay out
MOST_WORSE = 0.02  # of the sessions
MOST_LEFT_OUT = 0.1  # of the sessions
PLANNED = 100
ENOUGH = 20  # sessions from which other constants are compared
CHOSEN_ON = 50  # the first ones, on which the level was chosen
LEVELS = (0.7, 0.8, 0.9, 0.95, 0.99)
LEASTS = ((0.0, 0.0), (0.1, 0.01), (0.3, 0.03))
"""Least effects, in clicks and IoU."""

_INTRO = """\
A training makes a new version. The gate decides whether it goes live: trained model and model in
use answer the same prompts for objects that neither was trained on, the person's own prompts and up
to eight simulated clicks. The verdict is one sentence, such as *Saves about 2.1 clicks per object
(1.4–2.9, n = 9)*. `finetune --json` has it with its figures."""

_RULES = """\
- **Objects.** Of held-out images, or of one end of an image, up to 96. Below {enough} the
  others are judged too, in three folds: mask decoders trained for a few steps without the objects
  that they are asked for. Verdict and folds take a tenth of a budget of time at most; before them,
  the comparison of a new head with the present one takes a twentieth, and what scores learn from
  complete labels another.
- **State.** The last one, unless an earlier one is better on held-out objects by more than one
  standard error. Until now it was the one with the highest IoU.
- **Better** is what saves at least {clicks} clicks per object, with a {level:g} % interval above 0
  (bootstrap over images and objects; the sentence has that of 95 %, which may reach below 0), and
  no IoU at the given prompts that is lower by more than {half:g} %. Where the clicks differ by
  less, {iou:g} % IoU more decide in the same way. The objects of the folds count only if the
  trained model does not point the other way on its own.
- **The old one stays** in all other cases, and below {least} objects."""

_STUDY = """\
Sessions simulate a person with the built-in model: a few real images of a domain, good or careless
labels, labels that are wrong, too few objects, objects of one size in one image, or two domains.
They train with frozen encoder (60 steps), LoRA + COBOT or the whole model (20 steps each), at
three learning rates. Then both models are asked for up to 80 objects in ten images that were not
in the session: clicks to 80 % IoU, at most eight. A model is *worse* if it takes more clicks there,
however few."""


@dataclass(frozen=True, eq=False)
class Session:
    """One finished session, and what the hidden images say of its result."""

    row: Row

    @property
    def change(self) -> float:
        """Share of the clicks that the trained model takes more."""
        old, new = (
            mean(Answers((), tuple(curve)).clicks for curve in self.row["hidden"][model])
            for model in ("old", "new")
        )
        return new / old - 1

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All answers that the verdict was made of."""
        return tuple(
            Trial(t["image"], *(Answers(**t[model]) for model in ("old", "new")), t["in_fold"])
            for t in self.row["trials"]
        )


Rule = Callable[[Session], bool]


def gate(level: float = verdict.LEVEL, clicks: float | None = None, iou: float = 0.0) -> Rule:
    """Return the rule of the verdict, with another level or other least effects."""
    leasts = {} if clicks is None else {"LEAST_CLICKS": clicks, "LEAST_IOU": iou}

    def is_live(session: Session) -> bool:
        with patch.multiple(verdict, LEVEL=level, **leasts):
            return Verdict(session.trials).is_better

    return cache(is_live)


def without_folds(session: Session) -> bool:
    return Verdict(tuple(t for t in session.trials if not t.in_fold)).is_better


def higher_iou(session: Session) -> bool:
    """Return the decision of the rule before, on the same trained model."""
    return bool(session.row["iou_after"] > session.row["iou_before"])


@dataclass(frozen=True)
class Rate:
    """Cases of all, with their exact interval (Clopper and Pearson)."""

    cases: int
    all: int

    def __str__(self) -> str:
        if not self.all:
            return "none of 0"
        low = 0.0 if not self.cases else beta.ppf(0.025, self.cases, self.all - self.cases + 1)
        whole = self.cases == self.all
        high = 1.0 if whole else beta.ppf(0.975, self.cases + 1, self.all - self.cases)
        return f"{self.cases} of {self.all} ({100 * low:.0f} to {100 * high:.0f} %)"

    @property
    def share(self) -> float:
        return self.cases / self.all if self.all else 0.0


def rates(sessions: Sequence[Session], rule: Rule) -> tuple[Rate, Rate, Rate]:
    """Return how often it goes live, goes live and is worse, is much better and stays out."""
    live = [s for s in sessions if rule(s)]
    much = [s for s in sessions if s.change <= -MUCH]
    return (
        Rate(len(live), len(sessions)),
        Rate(sum(s.change > 0 for s in live), len(sessions)),
        Rate(sum(not rule(s) for s in much), len(much)),
    )


def page(rows: Sequence[Row]) -> str:
    """Return the page."""
    sessions = [Session(row) for row in rows]
    rules = _RULES.format(
        enough=16, clicks=verdict.LEAST_CLICKS, iou=100 * verdict.LEAST_IOU,
        half=50 * verdict.LEAST_IOU, level=100 * verdict.LEVEL, least=verdict.LEAST,
    )  # fmt: skip
    chosen = {
        "the verdict": gate(),
        "the verdict without folds": without_folds,
        "higher IoU (until now)": higher_iou,
    }
    header = ("rule", "goes live", "worse, and goes live", "better by 10 %, and stays out")
    parts = [
        "# Which model goes live",
        _INTRO,
        rules,
        "## How often it is wrong",
        _STUDY,
        '```sh\nmake gate-study   # goes on where it stopped; GATE_ARGS="--sessions 40"\n```',
        fill(count_text(sessions), 128),
        table(header, ([name, *rates(sessions, rule)] for name, rule in chosen.items())),
        fill(found_text(rates(sessions, gate())), 128),
        "By kind of session:",
        table(
            ("kind", "sessions", "median change of clicks", "worse", "goes live", *header[2:]),
            (kind_row(kind, sessions) for kind in dict.fromkeys(s.row["kind"] for s in sessions)),
        ),
    ]
    if len(sessions) >= ENOUGH:
        parts += choice(sessions)
    return "\n\n".join(parts) + "\n"


def choice(sessions: Sequence[Session]) -> list[str]:
    """Return what other constants of the verdict would have done."""
    return [
        "## Other levels and least effects",
        fill(
            "Decided anew from the answers that were kept: the first sessions to choose on, the "
            "others to report. Each cell has the wrong ones that go live and the much better ones "
            "that stay out.",
            128,
        ),
        table(("level", "least effect", f"the first {CHOSEN_ON}", "the others"), others(sessions)),
    ]


def count_text(sessions: Sequence[Session]) -> str:
    changes = [s.change for s in sessions]
    text = (
        f"{len(sessions)} of {PLANNED} planned sessions were run. In "
        f"{sum(c <= -MUCH for c in changes)} of them the trained model is better by 10 % or more, "
        f"in {sum(c > 0 for c in changes)} it is worse. "
    )
    if len(sessions) < PLANNED:
        text += "So few cannot show a rate of 2 in 100; the 95 % intervals say what they can show. "
    return text + (
        f"The level, and what the IoU decides, were chosen on the first {CHOSEN_ON} sessions: "
        "95 % kept out a model there that was better by 10 %, and IoU that decided where clicks "
        "differed let "
        "a worse one in. The last table has the others apart."
    )


def found_text(found: tuple[Rate, Rate, Rate]) -> str:
    """Say whether the goals are met; too few sessions show nothing."""
    all_sessions, wrong, of_much = found[0].all, found[1], found[2]
    missed = Rate(of_much.cases, all_sessions)  # the goal counts sessions
    goals = (
        ("A worse model goes live in at most 2 of 100", wrong, MOST_WORSE),
        (
            f"One that is better by 10 %, as {of_much.all} are, stays out in at most 10 of 100",
            missed,
            MOST_LEFT_OUT,
        ),
    )
    if all_sessions < PLANNED:
        return " ".join(f"{goal}: **not shown**, {rate} so far." for goal, rate, _ in goals)
    return " ".join(
        f"{goal}: {'met' if rate.share <= most else '**not met**'}, {rate}."
        for goal, rate, most in goals
    )


def kind_row(kind: str, sessions: Sequence[Session]) -> list[object]:
    of = [s for s in sessions if s.row["kind"] == kind]
    changes = sorted(s.change for s in of)
    live, wrong, missed = rates(of, gate())
    worse = sum(change > 0 for change in changes)
    few = [f"{r.cases} of {r.all}" for r in (live, wrong, missed)]
    return [kind, len(of), f"{100 * changes[len(of) // 2]:+.0f} %", worse, *few]


def others(sessions: Sequence[Session]) -> Iterable[list[object]]:
    halves = [
        [s for s in sessions if (s.row["session"] < CHOSEN_ON) == first] for first in (True, False)
    ]
    for level in LEVELS:
        for clicks, iou in LEASTS:
            found = [rates(half, gate(level, clicks, iou)) for half in halves]
            cells = [
                f"{wrong.cases} of {wrong.all}, {missed.cases} of {missed.all}"
                for _, wrong, missed in found
            ]
            yield [f"{100 * level:g} %", f"{clicks:g} clicks, {100 * iou:g} % IoU", *cells]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
