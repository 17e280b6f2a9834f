"""From what was measured to figures, limits, warnings, and the printed table."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from _children import Results, do_here
from _goals import figure, judged, text_table
from _machine import machine
from _plan import PROFILED, Plan

__all__ = ["printed", "report"]

BUSY = 0.15  # of all cores, by others: above it the figures say little
HELP_RUNS = 5

Figures = dict[str, dict[str, Any]]


def figures_of(results: Results, plan: Plan) -> Figures:
    """Return all figures: those of `bench.json`, and some more."""

    def why(name: str) -> str:
        if name in results.failures:
            return results.failures[name]
        lacking = "bf16" in name and "bf16" not in plan.precisions
        return "this processor has no bf16 arithmetic" if lacking else plan.why_not

    def compared(mine: str, peer: str) -> dict[str, Any]:
        reason = why(mine) or why(peer)
        return figure(results.seconds(mine), results.seconds(peer), reason)

    lora, rest = "peer lora fp32", "nothing to compare with"
    reload = results.fraction("ours reload")

    def alone(mine: str, what: str | None = None) -> dict[str, Any]:
        value = results.seconds(mine) if what is None else results.most(mine, what)
        return figure(value, None, why(mine) or rest)

    def embedded(precision: str) -> dict[str, Any]:
        entry = compared(f"ours embed {precision}", "peer embed fp32")
        if precision not in plan.precisions:
            return entry
        limit = least_seconds(results, precision)
        return figure(entry["ours"], entry["peer"], entry.get("reason"), limit=limit)

    def learned(name: str, objects: int) -> float | None:
        seconds = results.seconds(name)
        return None if seconds is None else objects / seconds

    precision = plan.precisions[-1]
    return {
        "embed_bf16": embedded("bf16"),
        "embed_fp32": embedded("fp32"),
        "prompt": compared("ours prompt", "peer prompt"),
        "lora_iteration": compared("ours lora", lora),
        "lora_peak_memory": figure(results.most("ours lora"), results.most(lora), why(lora)),
        "late50_iteration": compared("ours late50", lora),
        "late25_iteration": compared("ours late25", lora),
        "frozen_encoder_iteration": compared("ours frozen encoder", lora),
        # Without a prefix to start from, everybody embeds the whole image again.
        "reload_fraction": figure(reload, 1.0),
        "adapter_megabytes": figure(
            results.most("ours adapter", "megabytes"),
            results.most("peer adapter", "megabytes"),
            why("peer adapter"),
        ),
        "lora_iteration_4_rounds": compared("ours lora 4 rounds", lora),
        "prompts_32": compared("ours prompts 32", "peer prompts 32"),
        "prompts_400_builtin": alone("ours prompts 400 builtin"),
        "prompts_400_vit_b": alone("ours prompts 400 vit_b"),
        "objects_per_second": figure(
            learned("ours lora all objects", 30), learned(lora, 5), why(lora), more_is_better=True
        ),
        "frame_512_embed": compared("ours embed 512", f"ours embed {precision}"),
        "frame_512_iteration": compared("ours lora 512", lora),
        "train_start_cpu": alone("ours start", "cpu_seconds"),
        "open_window": alone("ours window", "window_seconds"),
        "embed_both_bf16": compared("ours embed bf16", "peer embed bf16"),
        "lora_iteration_both_fp32": compared("ours lora fp32", lora),
        "lora_iteration_both_bf16": compared("ours lora", "peer lora bf16"),
        "prompt_builtin": figure(results.seconds("ours prompt builtin"), None, rest),
        "help": figure(_help_seconds(1 if plan.runner is do_here else HELP_RUNS), None, rest),
    }


def _help_seconds(runs: int) -> float:
    """Return how long the command line takes to say what it can do."""
    program = "from napari_peftsam.cli import main; main()"
    command, times = [sys.executable, "-c", program, "--help"], []
    for _ in range(runs):
        began = perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(perf_counter() - began)
    return min(times)


def least_seconds(results: Results, precision: str) -> float:
    """Return how long an embedding's matrix products take at least."""
    [counted] = results.of("operations")
    rate = results.most(f"rate {precision}", "rate")
    assert rate is not None
    seconds: float = counted["operations"] / rate
    return seconds


def limits(results: Results, plan: Plan, figures: Figures) -> list[dict[str, Any]]:
    """Return, by precision, what the hardware can do at most."""
    [counted] = results.of("operations")
    rows = []
    for precision in plan.precisions:
        least, reached = least_seconds(results, precision), figures[f"embed_{precision}"]
        rows.append(
            {
                "precision": precision,
                "rate": results.most(f"rate {precision}", "rate"),
                "operations": counted["operations"],
                "least_seconds": least,
                "ours_share": reached["limit_share"],
                "best_ratio": reached["peer"] / least,
            }
        )
    return rows


def warnings_of(results: Results, plan: Plan) -> list[str]:
    """Return what a reader must know before believing a figure."""
    found = [f"{name} failed: {reason}" for name, reason in results.failures.items()]
    if plan.micro_sam is None:
        found.append(f"micro-sam was not measured: {plan.why_not}")
    shares = [one.busy for one in results.measured if one.busy is not None]
    loaded = [share for share in shares if share > BUSY]
    if loaded:
        found.append(
            f"other work took up to {max(loaded):.0%} of the processor before {len(loaded)} of "
            f"{len(shares)} processes: times are too long, ratios uncertain"
        )
    return found


def report(results: Results, plan: Plan, errors: Mapping[str, float]) -> dict[str, Any]:
    """Return everything there is to know of a run."""
    figures = figures_of(results, plan)
    first = results.measured[0].answer
    return {
        "machine": {**machine(), "torch": first["torch"], "threads": first["threads"]},
        "settings": {
            "architecture": plan.architecture,
            "repeats": plan.repeats,
            "cached_steps": plan.cached_steps,
            "rounds": plan.rounds,
            "seed": 0,
            "peers": _versions(results),
        },
        "warnings": warnings_of(results, plan),
        "errors": dict(errors),
        "figures": figures,
        "goals": judged(figures, plan.architecture),
        "limits": limits(results, plan, figures),
        "profile": {name: results.of(f"profile {name}")[0]["operators"] for name in PROFILED},
        "measured": results.as_rows(),
    }


def _versions(results: Results) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in results.measured:
        found |= one.answer.get("versions", {})
    return found


def printed(content: Mapping[str, Any]) -> str:
    """Return a report as text."""
    about = content["machine"]
    features = ", ".join(about["features"]) or "no vector extensions known"
    lines = [
        "{processor}, {cores} cores ({threads} threads), ".format(**about)
        + f"{features}, torch {about['torch']}",
        "seed {seed}, {rounds} processes of {repeats} repetitions".format(**content["settings"]),
        "embedding beside segment_anything's, relative error: "
        + ", ".join(f"{name} {error:.1e}" for name, error in content["errors"].items()),
        *(f"WARNING: {warning}" for warning in content["warnings"]),
        "",
        text_table(
            ("figure", "ours", "peer", "ratio", "of the limit", "goal", "reached"),
            (
                (r["title"], r["ours"], r["peer"], r["ratio"], r["limit"], r["goal"], r["reached"])
                for r in content["goals"]
            ),
        ),
        "",
        *(
            f"{row['precision']}: {row['rate'] / 1e9:.0f} GFLOP/s in a linear layer, so an embed "
            f"takes at least {row['least_seconds']:.3g} s ({row['best_ratio']:.1f}x the peer); "
            f"ours runs at {row['ours_share']:.0%} of that rate"
            for row in content["limits"]
        ),
    ]
    return "\n".join(lines)
