"""The rows of `peft_study` as a Markdown page; every figure and every claim is computed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, variance
from textwrap import fill
from typing import Any

Row = dict[str, Any]
Name = tuple[str, float | None]
"""A case and its learning rate."""

_BASE: Name = ("base", None)
_FIGURES = ("noc80", "point_iou", "box_iou")
_NONE = "-"


@dataclass(frozen=True, eq=False)
class Results:
    """All finished runs, by domain and case; runs of the same case differ in their seed."""

    rows: Sequence[Row]

    @property
    def domains(self) -> list[str]:
        """In the order of the study."""
        return list(dict.fromkeys(row["domain"] for row in self.rows))

    @property
    def names(self) -> list[Name]:
        """All cases, the base first."""
        return list(dict.fromkeys((row["case"], row["learning_rate"]) for row in self.rows))

    def of(self, name: Name, domain: str | None = None) -> list[Row]:
        """Return the runs of a case, in one domain or all."""
        return [
            row
            for row in self.rows
            if (row["case"], row["learning_rate"]) == name and domain in (None, row["domain"])
        ]

    def values(self, name: Name, domain: str, figure: str) -> list[float]:
        """Return an evaluated figure, one value per seed."""
        return [row["evaluation"][figure] for row in self.of(name, domain)]

    def averages(self, name: Name, figure: str) -> list[float]:
        """Return the mean over all domains, for every seed that has them all."""
        found: dict[int | None, list[float]] = {}
        for row in self.of(name):
            found.setdefault(row["seed"], []).append(row["evaluation"][figure])
        return [mean(v) for v in found.values() if len(v) == len(self.domains)]

    def gains(self, name: Name) -> list[float]:
        """Return how many clicks fewer than the base, mean over the domains, per seed."""
        base = self.averages(_BASE, "noc80")
        return [base[0] - value for value in self.averages(name, "noc80")] if base else []

    def ranked(self) -> list[Name]:
        """Return the cases that have all domains, the largest gain first."""
        whole = [name for name in self.names if self.gains(name)]
        return sorted(whole, key=lambda name: mean(self.gains(name)), reverse=True)

    def label(self, name: Name) -> str:
        """Return what to call a case in a sentence."""
        case, rate = name
        several = sum(case == other for other, _ in self.names) > 1
        return f"{case} at {rate:g}" if several else case

    def noise(self) -> float | None:
        """Return the pooled standard deviation of a gain over seeds; None with one seed."""
        samples = [g for g in map(self.gains, self.names) if len(g) > 1]
        if not samples:
            return None
        freedom = sum(len(sample) - 1 for sample in samples)
        pooled = sum((len(sample) - 1) * variance(sample) for sample in samples) / freedom
        return float(pooled**0.5)


def page(rows: Iterable[Row]) -> str:
    """Return the page.

    Parameters
    ----------
    rows
        The newest row of every run, all with the same settings.
    """
    everything = list(rows)
    results = Results([row for row in everything if "error" not in row])
    failed = [row for row in everything if "error" in row]
    parts = [_heading(everything), _average(results), _noise(results)]
    parts += [_domain(results, domain) for domain in results.domains]
    return "\n\n".join([*parts, *_failures(failed)]) + "\n"


def _heading(rows: Sequence[Row]) -> str:
    settings = rows[0]["settings"]
    seeds = sorted({row["seed"] for row in rows if row["seed"] is not None})
    given = " ".join(str(seed) for seed in seeds)
    rates = {row["learning_rate"] for row in rows if row["learning_rate"] is not None}
    dates = sorted({row["date"] for row in rows})
    command = (
        f"python tests/benchmarks/peft_study.py --steps {settings['steps']} "
        f"--validations {settings['validations']} --max-objects {settings['max_objects']} "
        f"--seeds {given or 0}"
    )
    asked = sorted({rate for row in rows for rate in row["learning_rates"]})
    if asked:
        command += " --learning-rates " + " ".join(f"{rate:g}" for rate in asked)
    about = (
        "Written by `tests/benchmarks/peft_study.py --write`; do not edit. The model "
        f"`{settings['model']}` (weights `{settings['weights'][:8]}`) is finetuned on eight images "
        "of a domain and evaluated on the others, no field of view being on both sides. Every case "
        f"has the same budget, {settings['steps']} steps of up to eight objects, the same images "
        "and the same evaluated objects. All cases train the mask decoder and the prompt encoder, "
        "too."
    )
    points = (
        (
            f"Seeds of the training: {', '.join(map(str, seeds)) or 'none yet'}. A seed decides "
            "the start of the weights, the order of the objects, the prompts, and which two of "
            "the eight images are held out."
        ),
        (
            "What is evaluated is the state that is best on these two images, of "
            f"{settings['validations']} taken during and at the end of the training and the "
            'untrained start ("best step" 0).'
        ),
        (
            f"Peak learning rate: {', '.join(f'{r:g}' for r in sorted(rates)) or 'none yet'}. It "
            "was not tuned for any case; another one may suit a case better."
        ),
        (
            "NoC80: simulated clicks to reach an IoU of 0.8, at most 10, lower is better; an "
            'object that never reaches it counts with 10. "Gain": clicks fewer than the base. '
            "One-click and box IoU: after one click, and with the tight box."
        ),
        "Means over the seeds; of several seeds the smallest and the largest in brackets.",
        (
            "Seconds are CPU time of the process; those of a training include its validations. "
            '"Wall" is the clock\'s time, and the machine may have had other work.'
        ),
        *_machines(rows),
        "Measured " + (dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}") + ".",
    )
    items = "\n".join(_wrapped(f"- {point}", "  ") for point in points)
    return (
        f"# PEFT methods on real data\n\n{_wrapped(about)}\n\n```sh\n{command}\n```\n\n"
        f"{items}\n\n{_images(rows)}"
    )


def _machines(rows: Iterable[Row]) -> list[str]:
    return sorted(
        {
            "{processor}, {cores} cores, {threads} of torch's threads, device {device}, "
            "torch {torch}, Python {python}.".format(**row["machine"])
            for row in rows
        }
    )


def _images(rows: Sequence[Row]) -> str:
    chosen: dict[str, list[int]] = rows[0]["settings"]["training_images"]
    found = {row["domain"]: row["evaluation"] for row in rows if "evaluation" in row}
    lines = [
        (
            domain,
            ", ".join(f"{number:03}" for number in chosen[domain]),
            f"{evaluation['objects']} in {evaluation['images']} images",
        )
        for domain, evaluation in found.items()
    ]
    return _table(("domain", "trained on, by number", "evaluated objects"), lines)


def _average(results: Results) -> str:
    header = (
        "case", "rate", "seeds", "gain in NoC80", "NoC80", "one-click IoU", "box IoU",
        "encoder parameters", "all parameters", "file, MB", "s per step", "wall s per step",
    )  # fmt: skip
    lines = []
    for name in results.ranked():
        rows = results.of(name)
        gains = results.gains(name)
        lines.append(
            (
                *_names(name),
                _NONE if name == _BASE else str(len(gains)),
                _spread(gains, "{:+.2f}") if name != _BASE else "0",
                *(_spread(results.averages(name, f), "{:.2f}" if f == "noc80" else "{:.3f}")
                  for f in _FIGURES),
                _mean(rows, "trainable_encoder", "{:,.0f}"),
                _mean(rows, "trainable", "{:,.0f}"),
                _mean(rows, "file_mb", "{:.2f}"),
                _mean(rows, "step_cpu", "{:.2f}"),
                _mean(rows, "step_wall", "{:.2f}"),
            )
        )  # fmt: skip
    missing = [results.label(name) for name in results.names if name not in results.ranked()]
    text = f"## Average of the {len(results.domains)} domains\n\n{_table(header, lines)}"
    more = f"\n\nNot finished in all domains, so not averaged: {', '.join(missing)}."
    return text + (more if missing else "")


def _domain(results: Results, domain: str) -> str:
    header = (
        "case", "rate", "seeds", "NoC80", "one-click IoU", "box IoU", "steps", "best step",
        "training, s", "wall, s",
    )  # fmt: skip
    ranked = results.ranked()
    lines = []
    for name in ranked + [name for name in results.names if name not in ranked]:
        rows = results.of(name, domain)
        if not rows:
            continue
        lines.append(
            (
                *_names(name),
                _NONE if name == _BASE else str(len(rows)),
                *(_spread(results.values(name, domain, f), "{:.2f}" if f == "noc80" else "{:.3f}")
                  for f in _FIGURES),
                _mean(rows, "steps", "{:.0f}"),
                ", ".join(str(row.get("best_step", _NONE)) for row in rows),
                _mean(rows, "training_cpu", "{:.1f}"),
                _mean(rows, "training_wall", "{:.1f}"),
            )
        )  # fmt: skip
    return f"## `{domain}`\n\n{_table(header, lines)}"


def _noise(results: Results) -> str:
    """Say which differences mean nothing."""
    caution = (
        "The evaluated objects are the same for all cases; others would give other figures, and "
        "that spread is not in these tables."
    )
    noise = results.noise()
    trained = [name for name in results.ranked() if name != _BASE]
    if not trained:
        return "No case is finished in all domains yet."
    if noise is None:
        return _wrapped(
            "There is one seed only, so nothing is known of the noise: small differences, and "
            f"the order of neighbours, mean nothing. {caution}"
        )
    found = {name: (mean(results.gains(name)), len(results.gains(name))) for name in trained}
    best, seeds = found[trained[0]]
    near = [
        results.label(name)
        for name, (gain, n) in found.items()
        if name != trained[0] and best - gain < 2 * noise * (1 / seeds + 1 / n) ** 0.5
    ]
    idle = [results.label(n) for n, (gain, k) in found.items() if abs(gain) < 2 * noise / k**0.5]
    return _wrapped(
        f"The gain of one case varies from seed to seed by a standard deviation of {noise:.2f} "
        "clicks (pooled over all cases). Differences of means of less than twice their standard "
        f"error are taken as noise. By that, no different from {results.label(trained[0])}: "
        f"{', '.join(near) or 'none'}. No different from the base: {', '.join(idle) or 'none'}. "
        f"With so many comparisons, some beyond that limit are chance, too. {caution}"
    )


def _wrapped(text: str, indent: str = "") -> str:
    return fill(text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _failures(failed: Sequence[Row]) -> list[str]:
    if not failed:
        return []
    lines = [
        f"- {row['case']}, {row['domain']}, seed {row['seed']}: {row['error'].splitlines()[0]}"
        for row in failed
    ]
    return ["## Failed\n\n" + "\n".join(lines)]


def _names(name: Name) -> tuple[str, str]:
    case, rate = name
    return (f"**{case}** (untrained)", _NONE) if rate is None else (case, f"{rate:g}")


def _spread(values: Sequence[float], form: str) -> str:
    """Format a mean and, of several values, the smallest and the largest."""
    middle = form.format(mean(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


def _mean(rows: Iterable[Row], name: str, form: str) -> str:
    values = [row[name] for row in rows if name in row]
    return form.format(mean(values)) if values else _NONE


def _table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))
