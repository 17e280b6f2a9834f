"""Write the figures of performance.md from performance.json; the words between are the page's own.

``make performance-page`` takes what the benchmarks wrote into the repository's root
(`bench-report.json`, `bench-scaling.json`, `bench-gpu.json`, each where it is there) over into
performance.json, then fills the page. A test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from _tables import filled as filled_page
from _tables import table

DOCS = Path(__file__).parent
PAGE, FIGURES = DOCS / "performance.md", DOCS / "performance.json"
SOURCES = {
    "report": DOCS.parent / "bench-report.json",
    "scaling": DOCS.parent / "bench-scaling.json",
    "gpu": DOCS.parent / "bench-gpu.json",
}
NOT_YET = "Not measured yet."

Content = Mapping[str, Any]


def wrapped(text: str) -> str:
    """Return a paragraph as the page has it."""
    return fill(text, 100, break_long_words=False, break_on_hyphens=False)


def about(content: Content) -> str:
    """Return what the figures were measured on."""
    machine, settings = content["machine"], content["settings"]
    lines = [
        wrapped(
            f"{machine['date'][:10]}: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_gigabytes']:.0f} GB of memory, "
            f"{', '.join(machine['features']) or 'no vector extensions known'}; "
            f"{machine['threads']} threads, torch {machine['torch']}, Python "
            f"{machine['python']}. Architecture `{settings['architecture']}` with random weights, "
            f"seed {settings['seed']}, {settings['rounds']} processes per work with "
            f"{settings['repeats']} repetitions each ({settings['cached_steps']} where a prefix "
            f"is cached). {peers(settings['peers'])}"
        ),
        *(wrapped(f"**Caution:** {warning}.") for warning in content["warnings"]),
    ]
    return "\n\n".join(lines)


def peers(versions: Mapping[str, str]) -> str:
    """Return the versions of the peers."""
    named = ["segment-anything 1.0", *(f"{k.replace('_', '-')} {v}" for k, v in versions.items())]
    return f"Peers: {', '.join(named)}."


def goals(content: Content) -> str:
    """Return the table of goals."""
    head = ("figure", "ours", "peer", "ratio", "goal", "reached")
    names = ("title", "ours", "peer", "ratio", "goal", "reached")
    return table(head, "lrrrrl", ([row[name] for name in names] for row in content["goals"]))


def alike(content: Content) -> str:
    """Return what is left of the ratios when both sides compute in the same precision."""
    figures = content["figures"]
    named = {
        "embed_fp32": "embed, both fp32",
        "embed_both_bf16": "embed, both bf16",
        "lora_iteration_both_fp32": "LoRA iteration, both fp32",
        "lora_iteration_both_bf16": "LoRA iteration, both bf16",
    }

    def row(key: str, title: str) -> Iterable[str]:
        entry = figures[key]
        yield title
        yield from (seconds(entry["ours"]), seconds(entry["peer"]))
        yield "-" if entry["ratio"] is None else f"{entry['ratio']:.1f}x"

    rows = (row(key, title) for key, title in named.items())
    return table(("figure", "ours", "peer", "ratio"), "lrrr", rows)


def seconds(value: float | None) -> str:
    """Return a time."""
    if value is None:
        return "-"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def _error(share: float) -> str:
    return f"{share:.1e}" if share else "none (bit for bit)"


def errors(content: Content) -> str:
    """Return how far our embedding is from the reference."""
    found = content["errors"].items()
    return wrapped(
        "Relative error of the embedding beside that of `segment_anything`, on the same weights "
        f"and the same input: {', '.join(f'{_error(error)} in {name}' for name, error in found)}."
    )


def limits(content: Content) -> str:
    """Return how near an embed is to what the processor can do."""
    head = (
        "precision", "linear layer, GFLOP/s", "operations of an embed", "so at least",
        "at best x segment-anything", "ours", "share of the limit",
    )  # fmt: skip
    rows = []
    for row in content["limits"]:
        name = row["precision"]
        rows.append(
            (
                name,
                f"{row['rate'] / 1e9:.0f}",
                f"{row['operations'] / 1e12:.2g}e12",
                seconds(row["least_seconds"]),
                f"{row['best_ratio']:.1f}x",
                seconds(content["figures"][f"embed_{name}"]["ours"]),
                f"{row['ours_share']:.0%}",
            )
        )
    return table(head, "lrrrrrr", rows)


def profile(content: Content, work: str) -> str:
    """Return the operators that take most of the time."""
    head = ("operator", "share", "time", "calls")
    return table(
        head,
        "lrrr",
        (
            (f"`{op['name']}`", f"{op['share']:.0%}", seconds(op["seconds"]), str(op["calls"]))
            for op in content["profile"][work]
        ),
    )


def memory(content: Content) -> str:
    """Return the peak memory of each process."""
    most: dict[str, float] = {}
    for one in content["measured"]:
        if found := one["answer"].get("gigabytes"):
            most[one["name"]] = max(found, most.get(one["name"], 0.0))
    rows = ((name, f"{value:.2f}") for name, value in most.items())
    return table(("process", "peak, GB"), "lr", rows)


def scaling(content: Content) -> str:
    """Return how time and memory grow."""
    head = ("axis", "value", "time", "peak, GB")
    rows = (
        (row["axis"], row["value"], seconds(row["seconds"]), f"{row['gigabytes']:.2f}")
        for row in content["rows"]
    )
    return table(head, "lrrr", rows)


def gpu(content: Content) -> str:
    """Return what was measured on a GPU."""

    def row(name: str, title: str, entry: Content) -> Iterable[str]:
        unit = "{:.2f} GB".format if "memory" in title else seconds
        yield from (name, title)
        for value in (entry["ours"], entry["peer"]):
            yield "-" if value is None else unit(value)
        yield "-" if entry["ratio"] is None else f"{entry['ratio']:.1f}x"

    rows = (
        row(name, title, entry)
        for name, figures in content["figures"].items()
        for title, entry in figures.items()
    )
    head = ("model", "figure", "ours", "peer", "ratio")
    return f"{content['device']}.\n\n" + table(head, "llrrr", rows)


PARTS: dict[str, tuple[str, Callable[[Content], str]]] = {
    "about": ("report", about),
    "goals": ("report", goals),
    "alike": ("report", alike),
    "errors": ("report", errors),
    "limits": ("report", limits),
    "profile embed": ("report", partial(profile, work="embed")),
    "profile prompt": ("report", partial(profile, work="prompt")),
    "profile training": ("report", partial(profile, work="training")),
    "memory": ("report", memory),
    "scaling": ("scaling", scaling),
    "gpu": ("gpu", gpu),
}
"""By the name of its place: which results it shows, and how."""


def filled(page: str, figures: Content) -> str:
    """Return the page with its figures written anew."""

    def part(source: str, make: Callable[[Content], str]) -> str:
        return make(figures[source]) if source in figures else NOT_YET

    parts = {name: partial(part, *how) for name, how in PARTS.items()}
    return filled_page(page, parts, PAGE.name)


def taken() -> dict[str, Any]:
    """Return the results kept so far, with those of the last benchmarks in their place."""
    kept = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name, path in SOURCES.items():
        if path.exists():
            kept[name] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def main() -> None:
    """Take the results over and write the page."""
    figures = taken()
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    main()
