"""Sentences for people: what to do next, why something cannot be done, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_peftsam.errors import count_text

if TYPE_CHECKING:
    from napari_peftsam.app.adapters import AdapterEntry
    from napari_peftsam.document import Document, NewObject
    from napari_peftsam.evaluation import Verdict
    from napari_peftsam.models import DownloadProgress
    from napari_peftsam.segmentation.engine import LiveAdapter
    from napari_peftsam.training import Split, TrainingConfig

MIN_OBJECTS = 3
"""Objects that a finetuning needs."""


# --- values of options ---------------------------------------------------------------------

_ALLOWED = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than": "must be less than {lt:g}",
    "multiple_of": "must be divisible by {multiple_of}",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number such as 0.001",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
}


def explain_value(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, from one of pydantic's error details."""
    context: Mapping[str, Any] = problem.get("ctx", {})
    allowed = _ALLOWED.get(problem["type"])
    if allowed is not None:
        return allowed.format(**context)
    return str(context["error"]) if "error" in context else f"{problem['input']!r} is not allowed"


# --- the next step of an annotation ----------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """The state of an annotation, as far as the next step depends on it.

    Attributes
    ----------
    embedding
        State of the shown plane's embedding: ``loading`` (the model), ``embedding``,
        ``ready``, ``stopped``, ``failed`` or ``none``.
    reason
        Why embedding failed.
    progress
        How much is embedded, in words.
    has_image
        True if an image is chosen.
    prompts
        Number of pending objects in the shown plane.
    elsewhere
        The image, or plane of a stack, where objects are pending, if it is not shown.
    has_mask, is_empty
        True if the pending object has a mask, and if that has no pixel.
    tool
        The active tool, e.g. ``point``, or empty.
    objects
        Number of objects in the image.
    painting
        The label that napari's brush paints with; None if it is not in use.
    reopens
        The accepted object that the pending one is to replace, 0 for none.
    blocked
        Why no prompts can be given in the present view, empty if they can.
    point_key
        The key of the point tool, as shown to the user.
    proposal_keys
        Of the proposal that is looked at, the keys that accept it, say that nothing is there, and
        that its outline is wrong; empty if there is none.
    """

    embedding: str
    reason: str = ""
    progress: str = ""
    has_image: bool = True
    prompts: int = 0
    elsewhere: str = ""
    has_mask: bool = False
    is_empty: bool = False
    tool: str = "point"
    objects: int = 0
    painting: int | None = None
    reopens: int = 0
    blocked: str = ""
    point_key: str = ""
    proposal_keys: tuple[str, ...] = ()


def next_step(now: Situation) -> str:
    """Return what the user can do next, in one or two short sentences."""
    if not now.has_image:
        return "Open an image: drag it into the window, or File ▸ Open Sample ▸ PEFT-SAM."
    if now.blocked:
        return f"⚠ {now.blocked}"
    if now.prompts:
        return _next_step_of_prompts(now)
    if now.elsewhere:
        return f"A prompt waits in {now.elsewhere}: Esc discards it, a new one takes its place."
    return _next_step_without_prompts(now)


def _next_step_without_prompts(now: Situation) -> str:
    if now.embedding == "failed":
        return f"⚠ {now.reason}"
    if now.painting is not None:
        return f"Correcting object {now.painting} by hand. {now.point_key} goes back to clicking."
    if now.proposal_keys and now.tool in {"point", "box", ""}:
        accept, nothing, wrong = now.proposal_keys
        return f"The white outline: {accept} an object, {nothing} nothing, {wrong} another outline."
    return _next_step_of_tool(now.tool, now.objects)


def plane_text(name: str, index: Sequence[int]) -> str:
    """Return which plane is meant: the image, and where in it if that is a stack."""
    return f"plane {', '.join(map(str, index))} of {name}" if index else name


def explain_left(left: Sequence[NewObject]) -> str:
    """Return why objects of a queue were not accepted."""
    covered = sum(bool(made.mask.any()) for made in left)
    empty = len(left) - covered
    parts = [f"{covered} covered by accepted objects (Replace or Discard)"] if covered else []
    parts += [f"{empty} without a mask"] if empty else []
    return f"Still queued: {', '.join(parts)}"


def _next_step_of_prompts(now: Situation) -> str:
    if now.prompts > 1:
        return f"{now.prompts} objects are asked for: accept them one by one, or all at once."
    if now.has_mask and now.reopens:
        return f"Object {now.reopens} is open: refine and accept it, or Esc leaves it as it was."
    if now.has_mask and now.is_empty:
        return "Nothing was found there: click on the object, or discard."
    if now.has_mask:
        return "Accept the mask, click again to refine it, or try another candidate."
    return {
        "loading": "Waiting for the model to load. Your prompt is kept.",
        "embedding": f"Waiting for the embedding ({now.progress}). Your prompt is kept.",
        "stopped": "Embedding was stopped. Your prompt is kept.",
        "failed": f"⚠ {now.reason}",
    }.get(now.embedding, "Predicting …")


_TOOLS = {
    "box": "Drag a box around each object.",
    "lasso": "Draw a line around each object.",
    "scribble": "Draw a line on each object, with the right button where it is not.",
    "cut": "Draw a line across an object to cut it in two.",
    "rectangle": "Drag over an area that is done. A click with the right button takes it back.",
    "suggest": "Drag over the part of the image in which to look for objects.",
    "area": "Draw around an area that is done. A click with the right button takes it back.",
    "background": "Draw where no object is. The right button takes it back.",
}


def _next_step_of_tool(tool: str, objects: int) -> str:
    if tool in _TOOLS:
        return _TOOLS[tool]
    if tool != "point":
        return "Choose Point or Box to go on segmenting."
    if not objects:
        return "Click on an object to segment it."
    if objects < MIN_OBJECTS:
        more = MIN_OBJECTS - objects
        return f"Click on the next object. {more} more and you can finetune."
    return "Click on the next object, or finetune the model on these."


# --- training ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingData:
    """Numbers of annotated images and objects."""

    images: int = 0
    objects: int = 0
    names: tuple[str, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, document: Document) -> TrainingData:
        """Count the objects of a document."""
        counts = {image.name: len(image.records) for image in document.images.values()}
        names = tuple(name for name, count in counts.items() if count)
        return cls(len(names), sum(counts.values()), names)

    @property
    def is_enough(self) -> bool:
        """True if a finetuning can start."""
        return self.objects >= MIN_OBJECTS


_WHERE = {"image": "of other images", "region": "of other parts of the images"}


def describe_data(data: TrainingData, split: Split | None = None) -> str:
    """Return what a training would use, or which objects are missing."""
    if not data.objects:
        return f"Accept at least {MIN_OBJECTS} objects to finetune: annotate an image first."
    objects = count_text(data.objects, "object")
    if not data.is_enough:
        missing = count_text(MIN_OBJECTS - data.objects, "more object")
        return f"{objects} so far: accept {missing} to finetune."
    images = f" in {data.images} images" if data.images > 1 else ""
    if split is None:
        return f"Learns from {objects}{images}."
    where = _WHERE.get(split.by, "")
    return f"Learns from {len(split.training)} objects, checks on {len(split.held_out)} {where}."


def why_no_training(
    data: TrainingData, *, has_model: bool, model_error: str, has_options: bool
) -> str:
    """Return why no training can start; empty if one can.

    Parameters
    ----------
    data
        What there is to train on.
    has_model, model_error
        True if a model is loaded, and why the last one was not.
    has_options
        True if the chosen options are valid.
    """
    if not data.is_enough:
        return describe_data(data)
    if not has_model:
        return model_error or "The model is still being loaded."
    return "" if has_options else "Correct the options marked with ⚠ first."


_MANY = 16  # compared objects: with fewer, more of them may show what these could not


def outcome_text(before: str, after: str, verdict: Verdict, steps: int, placement: str) -> str:
    """Return how a training run ended and, if nothing was gained, what to try next.

    `before` is the adapter that was live, `after` the new version, empty without one; `placement`
    is empty if the encoder was not adapted.
    """
    if after:
        return f"{after} is live. {verdict.sentence}."
    if not steps:
        before = "the base model" if before == "base" else before
        return f"Stopped before the first step, so {before} stays live."
    if verdict.outcome == "worse":
        can_narrow = placement in ("all", "late-50%")
        setting = "Placement" if can_narrow else "Learning rate"
        way = "let it change fewer parts of the model" if can_narrow else "let it learn more slowly"
        advice = f"Add objects that it gets wrong, or {way} (Finetune… ▸ {setting})."
    elif verdict.objects < _MANY:
        advice = "Accept more objects, best in other images."
    else:
        advice = "Train longer, or add objects that it gets wrong."
    return f"{verdict.sentence}. {advice}"


def starting_text(seconds: float, config: TrainingConfig, share: float | None = None) -> str:
    """Return what a run does until its first step ends, for how long already, and what follows.

    `share` of that step is done; None before it begins.
    """
    budgets = (("step", config.steps), ("epoch", config.epochs))
    counted = (count_text(number, unit) for unit, number in budgets if number is not None)
    budget = next(counted, format_time(config.seconds or 0))
    doing = "Loading the model and taking the first step"
    if share is not None:
        doing = first_step_text(share)
    return f"{doing}: {format_time(seconds)} so far, then {budget} of training."


def first_step_text(share: float) -> str:
    """Return how much of the first step is done."""
    return f"First step {100 * share:.0f} %"


def format_time(seconds: float) -> str:
    """Return a duration as ``0:34`` or ``1:02:03``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# --- adapters and models ---------------------------------------------------------------------


def describe_adapter(entry: AdapterEntry) -> str:
    """Return an adapter's method and placement."""
    if entry.adapter is None:
        return "the model as it is"
    placement = getattr(entry.adapter.config, "placement", None)
    where = "" if placement is None else f" · {placement}"
    return f"{entry.method.replace('_', '-')}{where}"


def explain_adapter(entry: AdapterEntry) -> str:
    """Return what an adapter is, and how many judged proposals its scores begin with."""
    number = 0 if entry.adapter is None else len(entry.adapter.judged[1])
    brings = f"; it brings {count_text(number, 'judged proposal')} along" if number else ""
    return f"Answer prompts with {describe_adapter(entry)}{brings}"


def iou_text(entry: AdapterEntry, measured: float | None) -> tuple[str, str]:
    """Return an adapter's held-out IoU as text, and what was measured.

    Parameters
    ----------
    measured
        Its IoU on the present held-out objects; None if it was not measured on them.
    """
    iou = entry.iou if measured is None else measured
    text = "" if iou is None else f"{iou:.2f}"
    if entry.from_file and measured is None:
        tip = "IoU on the objects held out when it was trained: not to be compared with others"
        return (f"({text})" if text else ""), tip
    return text, "IoU on held-out objects, as last measured"


def explain_strength(live: LiveAdapter | None) -> str:
    """Return what the strength of the live adapter means, or why there is none to choose."""
    if live is None or live.adapter is None:
        return "The base model has no strength to choose"
    if not live.adapter.scalable:
        return f"{live.adapter.config.method} is not linear in its update and cannot be weakened"
    return "How much of the adapter is used: 100 % as trained, 0 % the base model"


def explain_merging(live: LiveAdapter | None) -> str:
    """Return what merging the live adapter does, or why it cannot be merged."""
    if live is None or live.adapter is None or live.adapter.mergeable:
        return "Write a plain SAM checkpoint with the live adapter built in, at its strength"
    return f"{live.name} cannot be merged into plain weights: save the adapter instead"


def download_text(progress: DownloadProgress | None) -> str:
    """Return how far a download is; None until the server has answered."""
    if progress is None:
        return "◌ connecting"
    if progress.verified is not None:
        return "◌ verifying"
    total = f" of {progress.total / 1e6:,.0f}" if progress.total else ""
    return f"{progress.received / 1e6:,.0f}{total} MB"
