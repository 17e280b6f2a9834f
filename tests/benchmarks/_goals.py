"""The goals of the engine, and how near the figures come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["GOALS", "KEYS", "Goal", "figure", "judged", "missing", "shown", "text_table"]

KEYS = (
    "embed_bf16", "embed_fp32", "prompt", "lora_iteration", "lora_peak_memory",
    "late50_iteration", "late25_iteration", "frozen_encoder_iteration", "reload_fraction",
    "adapter_megabytes",
)  # fmt: skip
"""The figures of `bench.json`."""
JUDGED = "vit_b"


@dataclass(frozen=True)
class Goal:
    """What a figure should reach: a ratio to the peer, or a value of our own.

    Attributes
    ----------
    key
        The figure.
    title
        What is measured, and beside what.
    unit
        ``s``, ``GB``, ``MB``, or empty for a share.
    ratio
        At least so many times better than the peer.
    most
        Ours is at most this.
    """

    key: str
    title: str
    unit: str
    ratio: float | None = None
    most: float | None = None

    @property
    def text(self) -> str:
        """The goal in words."""
        if self.ratio is not None:
            return f"≥ {self.ratio:g}x"
        assert self.most is not None
        return f"≤ {shown(self.most, self.unit)}"

    def reached(self, entry: Mapping[str, Any]) -> bool | None:
        """Return whether a figure reaches it; None if it was not measured."""
        value = entry["ratio"] if self.ratio is not None else entry["ours"]
        if value is None:
            return None
        return bool(value >= self.ratio if self.ratio is not None else value <= self.most)


GOALS = (
    Goal("embed_bf16", "embed, bf16, beside segment-anything (fp32)", "s", ratio=8),
    Goal("embed_fp32", "embed, fp32, beside segment-anything", "s", ratio=2.5),
    Goal("prompt", "point → mask, beside segment-anything", "s", ratio=2.5),
    Goal("prompt", "point → mask", "s", most=0.025),
    Goal("prompt_builtin", "point → mask, built-in model", "s", most=0.015),
    Goal("lora_iteration", "LoRA iteration, beside micro-sam", "s", ratio=6),
    Goal("lora_peak_memory", "peak memory of it, beside micro-sam", "GB", ratio=3),
    Goal("late50_iteration", "late-50 % iteration, beside micro-sam's LoRA on all blocks", "s",
         ratio=9),
    Goal("late25_iteration", "late-25 % iteration, beside the same", "s", ratio=12),
    Goal("frozen_encoder_iteration", "frozen-encoder iteration, beside the same", "s", ratio=20),
    Goal("reload_fraction", "embedding again after late-25 %, share of a full embed", "",
         most=0.35),
    Goal("adapter_megabytes", "adapter file, LoRA r = 4 without decoder; micro-sam's export", "MB",
         most=0.7),
    Goal("help", "`napari-peftsam --help`", "s", most=0.5),
)  # fmt: skip


def figure(ours: float | None, peer: float | None, reason: str | None = None) -> dict[str, Any]:
    """Return an entry of `bench.json`; `ratio` says how many times ours is better (less).

    Parameters
    ----------
    reason
        Why one of the two is not there.
    """
    entry: dict[str, Any] = {
        "ours": ours,
        "peer": peer,
        "ratio": None if ours is None or peer is None else peer / ours,
    }
    if entry["ratio"] is None and reason:
        entry["reason"] = reason
    return entry


def missing(figures: Mapping[str, Any]) -> list[str]:
    """Return what keeps figures from being a valid `bench.json`."""
    found = [f"{key}: not there" for key in KEYS if key not in figures]
    for key, entry in figures.items():
        for name in ("ours", "peer", "ratio"):
            value = entry.get(name)
            if name not in entry or not (value is None or isinstance(value, float)):
                found.append(f"{key}.{name}: {value!r} is neither a number nor null")
        if entry.get("ratio") is None and not entry.get("reason"):
            found.append(f"{key}: no ratio and no reason")
    return found


def judged(figures: Mapping[str, Mapping[str, Any]], architecture: str) -> list[dict[str, Any]]:
    """Return the table of goals, row by row, as text and with its verdict.

    The goals are those for a ViT-B; of another architecture nothing is said.
    """
    verdicts = {True: "yes", False: "no", None: "not measured"}
    rows = []
    for goal in GOALS:
        entry = figures.get(goal.key)
        if entry is None:
            continue
        rows.append(
            {
                "key": goal.key,
                "title": goal.title,
                "ours": shown(entry["ours"], goal.unit),
                "peer": shown(entry["peer"], goal.unit),
                "ratio": "-" if entry["ratio"] is None else f"{entry['ratio']:.1f}x",
                "goal": goal.text,
                "reached": verdicts[goal.reached(entry)] if architecture == JUDGED else "-",
            }
        )
    return rows


def shown(value: float | None, unit: str) -> str:
    """Return a value with its unit, short."""
    if value is None:
        return "-"
    if not unit:
        return f"{value:.0%}"
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} {unit}"


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return aligned columns for a terminal."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
