"""The goals of the engine, and how near the figures come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "GOALS",
    "KEYS",
    "Goal",
    "figure",
    "judged",
    "missing",
    "shown",
    "text_table",
    "with_goals",
]

KEYS = (
    "embed_bf16", "embed_fp32", "prompt", "lora_iteration", "lora_peak_memory",
    "late50_iteration", "late25_iteration", "frozen_encoder_iteration", "reload_fraction",
    "adapter_megabytes", "lora_iteration_4_rounds", "prompts_32", "prompts_400_builtin",
    "prompts_400_vit_b", "objects_per_second", "frame_512_embed", "frame_512_iteration",
    "train_start_cpu", "open_window",
)  # fmt: skip
"""The figures of `bench.json`."""
JUDGED = "vit_b"


@dataclass(frozen=True)
class Goal:
    """What a figure should reach: a ratio to the peer, a share of the limit, or a value of ours.

    Attributes
    ----------
    key
        The figure.
    title
        What is measured, and beside what.
    unit
        ``s``, ``GB``, ``MB``, ``/s``, or empty for a share.
    ratio
        At least so many times better than the peer.
    share
        At least this share of what the hardware can do.
    most
        Ours is at most this.
    """

    key: str
    title: str
    unit: str
    ratio: float | None = None
    share: float | None = None
    most: float | None = None

    @property
    def text(self) -> str:
        """The goal in words."""
        if self.ratio is not None:
            return f"≥ {self.ratio:g}x"
        if self.share is not None:
            return f"≥ {self.share:.0%} of the limit"
        assert self.most is not None
        return f"≤ {shown(self.most, self.unit)}"

    def reached(self, entry: Mapping[str, Any]) -> bool | None:
        """Return whether a figure reaches it; None if it was not measured."""
        if self.most is not None:
            value, reached = entry["ours"], lambda: value <= self.most
        elif self.share is not None:
            value, reached = entry["limit_share"], lambda: value >= self.share
        else:
            value, reached = entry["ratio"], lambda: value >= self.ratio
        return None if value is None else bool(reached())


GOALS = (
    Goal("embed_bf16", "embed, bf16", "s", share=0.75),
    Goal("embed_bf16", "embed, bf16, beside segment-anything (fp32)", "s", ratio=3.6),
    Goal("embed_fp32", "embed, fp32", "s", share=0.9),
    Goal("prompt", "point → mask, beside segment-anything", "s", ratio=2.5),
    Goal("prompt", "point → mask", "s", most=0.025),
    Goal("prompt_builtin", "point → mask, built-in model", "s", most=0.015),
    Goal("prompts_400_builtin", "400 boxes with points, cropped, built-in model", "s", most=0.8),
    Goal("prompts_400_vit_b", "400 boxes with points, cropped", "s", most=2.5),
    Goal("lora_peak_memory", "peak memory of a LoRA iteration, beside micro-sam", "GB", ratio=3),
    Goal("objects_per_second", "objects learned, LoRA, beside micro-sam", "/s", ratio=8),
    Goal("frozen_encoder_iteration", "frozen-encoder iteration, beside micro-sam's LoRA", "s",
         ratio=16),
    Goal("frame_512_embed", "embed at a frame of 512, beside 1024", "s", ratio=4.5),
    Goal("frame_512_iteration", "LoRA iteration at 512, beside micro-sam's at 1024", "s",
         ratio=10),
    Goal("reload_fraction", "embedding again after late-25 %, share of a full embed", "",
         most=0.35),
    Goal("adapter_megabytes", "adapter file, LoRA r = 4 without decoder; micro-sam's export", "MB",
         most=0.7),
    Goal("train_start_cpu", "*Train* → first step, processor time", "s", most=3.5),
    Goal("open_window", "`napari-peftsam open` → usable window", "s", most=4),
    Goal("help", "`napari-peftsam --help`", "s", most=0.5),
)  # fmt: skip


def figure(
    ours: float | None,
    peer: float | None,
    reason: str | None = None,
    *,
    limit: float | None = None,
    more_is_better: bool = False,
) -> dict[str, Any]:
    """Return an entry of `bench.json`; `ratio` says how many times ours is better.

    Parameters
    ----------
    reason
        Why one of the two is not there.
    limit
        What the hardware can do at best.
    more_is_better
        True for rates; of times and sizes, less is better.
    """
    ratio = share = None
    if ours is not None and peer is not None:
        ratio = ours / peer if more_is_better else peer / ours
    if ours is not None and limit is not None:
        share = limit / ours
    entry = {"ours": ours, "peer": peer, "ratio": ratio, "limit_share": share}
    return entry | ({"reason": reason} if ratio is None and reason else {})


def with_goals(
    figures: Mapping[str, Mapping[str, Any]], architecture: str
) -> dict[str, dict[str, Any]]:
    """Return the figures with ``goal``, in words, and ``reached``; None where there is none."""
    found = {}
    for key, entry in figures.items():
        goals = [goal for goal in GOALS if goal.key == key and architecture == JUDGED]
        verdicts = {goal.reached(entry) for goal in goals}
        found[key] = {
            **entry,
            "goal": " and ".join(goal.text for goal in goals) or None,
            "reached": None if not goals or None in verdicts else False not in verdicts,
        }
    return found


def missing(figures: Mapping[str, Any]) -> list[str]:
    """Return what keeps figures from being a valid `bench.json`."""
    found = [f"{key}: not there" for key in KEYS if key not in figures]
    for key, entry in figures.items():
        for name in ("ours", "peer", "ratio", "limit_share"):
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
                "limit": "-" if entry["limit_share"] is None else f"{entry['limit_share']:.0%}",
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
    return f"{value:.3g}{unit}" if unit == "/s" else f"{value:.3g} {unit}"


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return aligned columns for a terminal."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
