"""What a run of `bench` measures, in which order, and how often."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from _children import PEER, Runner, Work, measure

__all__ = ["PROFILED", "Plan", "ours"]

PROMPTS = 15
MANY = 400
DISPLAY = ("xvfb-run", "-a", "-s", "-screen 0 1400x900x24")
PROFILED = ("embed", "prompt", "training")
METHODS = {
    "lora": {"method": "lora", "rank": 4},
    "late50": {"method": "lora", "rank": 4, "placement": "late-50%"},
    "late25": {"method": "lora", "rank": 4, "placement": "late-25%"},
    "frozen encoder": {"method": "frozen-encoder"},
}


ours = partial(Work, script="_ours.py")
segment_anything = partial(Work, script="_segment_anything.py")
limit = partial(Work, script="_limit.py")


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often.

    Attributes
    ----------
    architecture
        Of the models with random weights.
    repeats
        Of each work within a process, after one that does not count; prompts are
        repeated more often.
    cached_steps
        Steps of a training whose frozen part is cached. The first on each view of the image
        fills the cache; their median must be one that finds it filled.
    rounds
        Processes per work.
    micro_sam
        Interpreter of micro-sam's environment; None where there is none.
    why_not
        Why there is none.
    scene
        What is trained on at once, where it differs from five objects and eight rounds.
    many, frame
        Prompts of the largest batch, and the smaller frame.
    runner
        Does the works.
    """

    architecture: str
    repeats: int
    cached_steps: int
    rounds: int
    precisions: tuple[str, ...] = ("fp32",)
    micro_sam: str | None = None
    why_not: str = ""
    scene: Mapping[str, int] = field(default_factory=dict)
    many: int = MANY
    frame: int = 512
    runner: Runner = measure

    def works(self) -> Iterator[Work]:
        """Yield the works of one round, ours and the peers' in turn."""
        model = {"architecture": self.architecture}
        some = {**model, "repeats": self.repeats}
        many = {**model, "repeats": max(PROMPTS, self.repeats) if self.repeats > 1 else 1}
        for precision in self.precisions:
            name, options = f"embed {precision}", {**some, "precision": precision}
            yield ours(f"ours {name}", work="embed", options=options)
            yield segment_anything(f"{PEER} {name}", work="embed", options=options)
        yield ours("ours prompt", work="prompt", options=many)
        yield segment_anything(f"{PEER} prompt", work="prompt", options=many)
        builtin = {**many, "architecture": "builtin"}
        yield ours("ours prompt builtin", work="prompt", options=builtin)
        yield ours("ours prompts 32", work="prompts", options={**some, "objects": 32})
        yield segment_anything(
            f"{PEER} prompts 32", work="prompts", options={**some, "objects": 32}
        )
        for name, architecture in (("builtin", "builtin"), ("vit_b", self.architecture)):
            options = {**some, "architecture": architecture, "objects": self.many, "crop": True}
            yield ours(f"ours prompts 400 {name}", work="prompts", options=options)
        yield ours(
            "ours embed 512",
            work="embed",
            options={**some, "precision": "auto", "frame": self.frame},
        )
        yield ours("ours start", work="start", options={"source": "builtin"})
        if self.runner is measure:
            yield ours(
                "ours window", script="_window.py", work="window", within=DISPLAY, may_fail=True
            )
        yield ours("ours reload", work="reload", options=some)
        yield from self._trainings(some)

    def _trainings(self, some: Mapping[str, Any]) -> Iterator[Work]:
        for name, method in METHODS.items():
            steps = self.repeats if name == "lora" else self.cached_steps
            options = {**some, **self.scene, "repeats": steps, "method": method}
            yield ours(f"ours {name}", work="training", options=options)
        lora = {**some, "method": METHODS["lora"]}
        for name, scene in (
            ("lora 4 rounds", {"rounds": 4}),
            ("lora all objects", {"rounds": 4, "objects": 30}),
            ("lora 512", {"frame": self.frame, **self.scene}),
        ):
            yield ours(f"ours {name}", work="training", options={**lora, **scene})
        if self.micro_sam is not None:
            yield self._micro_sam("fp32")

    def _micro_sam(self, precision: str) -> Work:
        """Return its training; it alternates points and boxes, so an even number sees both."""
        assert self.micro_sam is not None
        options = {"architecture": self.architecture, "repeats": 2, "precision": precision}
        name = f"{PEER} lora {precision}"
        return Work(name, "_micro_sam.py", "training", options, self.micro_sam)

    def once(self) -> Iterator[Work]:
        """Yield what need not be repeated: the other precision, sizes, limits and profiles."""
        model = {"architecture": self.architecture}
        options = {**model, **self.scene, "repeats": self.repeats, "method": METHODS["lora"]}
        yield ours("ours lora fp32", work="training", options={**options, "precision": "fp32"})
        if self.micro_sam is not None and "bf16" in self.precisions:
            yield self._micro_sam("bf16")
        yield ours("ours adapter", work="adapter", options=model)
        if self.micro_sam is not None:
            yield Work(f"{PEER} adapter", "_micro_sam.py", "adapter", model, self.micro_sam)
        yield segment_anything("operations", work="operations", options=model)
        for precision in self.precisions:
            options = {"precision": precision, "repeats": 1 if self.repeats == 1 else PROMPTS}
            yield limit(f"rate {precision}", work="rate", options=options)
        for work in PROFILED:
            options = {**model, **(self.scene if work == "training" else {}), "work": work}
            yield ours(f"profile {work}", work="profile", options=options)
