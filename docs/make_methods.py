"""Write the tables of methods.md from the code; the words between them are the page's own.

Run it with ``make methods-page``. A test compares the page with what this writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from _tables import filled as filled_page
from _tables import table

from napari_peftsam.app.choice import MethodOverview, compare_methods
from napari_peftsam.models import architecture
from napari_peftsam.peft import count_parameters, parse_method_config
from napari_peftsam.training import RECIPES, Recipe

PAGE = Path(__file__).parent / "methods.md"
SIZES = ("rank", "bottleneck", "placement")
RANKS = (1, 4, 8, 16, 32, 64)
PLACES = (
    ("q and v, all blocks", "attention", "all"),
    ("q and v, last half", "attention", "late-50%"),
    ("all-linear, all blocks", "all-linear", "all"),
    ("all-linear, last half", "all-linear", "late-50%"),
    ("all-linear, last block", "all-linear", "last"),
)


def all_methods() -> str:
    """Return every method with its default options."""
    large, small = (compare_methods(architecture(name)) for name in ("vit_b", "builtin"))
    return table(
        (
            "method",
            "changes in the encoder",
            "default",
            "ViT-B",
            "built-in",
            "merges",
            "when to use it",
        ),
        "lllrrll",
        (
            (
                f"`{one.name}`",
                one.method.changes,
                size(one),
                f"{one.counts.encoder:,}",
                f"{other.counts.encoder:,}",
                "yes" if one.method.mergeable else "no",
                one.method.use_when,
            )
            for one, other in zip(large, small, strict=True)
            if one.counts and other.counts
        ),
    )


def size(method: MethodOverview) -> str:
    """Return the default of the option that says how large the method is."""
    found = (f"{name} {method.options[name]}" for name in SIZES if name in method.options)
    return next(found, "")


def lora_by_place() -> str:
    """Return LoRA's parameters by rank, placement and matrices."""
    vit_b = architecture("vit_b")

    def row(rank: int) -> Iterable[str]:
        yield str(rank)
        for _, matrices, placement in PLACES:
            options = {"rank": rank, "matrices": matrices, "placement": placement}
            config = parse_method_config({"method": "lora", **options})
            yield f"{count_parameters(vit_b, config).encoder:,}"

    return table(("rank", *(title for title, *_ in PLACES)), "r" * 6, map(row, RANKS))


def all_recipes() -> str:
    """Return the fixed recipes and what they set."""

    def row(each: Recipe) -> Iterable[str]:
        given = each.method.model_dump(mode="json")
        default = type(each.method)().model_dump(mode="json")
        changed = [f"{k} {v}" for k, v in given.items() if v != default[k]]
        changed += [f"{k} {v}" for k, v in each.options.items()]
        rate = "automatic" if each.learning_rate is None else f"{each.learning_rate:g}"
        yield from (f"`{each.name}`", f"`{each.method.method}`", ", ".join(changed), rate)
        yield each.explanation

    head = ("recipe", "method", "options", "learning rate", "why")
    return table(head, "lllll", map(row, RECIPES.values()))


TABLES: dict[str, Callable[[], str]] = {
    "methods": all_methods,
    "lora": lora_by_place,
    "recipes": all_recipes,
}


def filled(page: str) -> str:
    """Return the page with its tables made anew."""
    return filled_page(page, TABLES, PAGE.name)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
