"""What the annotate dock tells the user to do next."""

from __future__ import annotations

from dataclasses import dataclass

from napari_peftsam.app.prompting import PromptState
from napari_peftsam.widgets._keys import KEYS

__all__ = ["Situation", "next_step"]

_ENOUGH = 3  # objects that a first finetuning needs


@dataclass(frozen=True)
class Situation:
    """What the next step depends on.

    Attributes
    ----------
    status
        Of the embedding of the shown plane.
    has_image
        Whether an image is chosen.
    prompts
        How many objects are asked for.
    has_mask, is_empty
        Whether the object being made has a mask, and whether no pixel is in it.
    tool
        The active prompt tool.
    objects
        How many objects the image has.
    painting
        The label that napari's brush paints with, None if it is not in use.
    """

    status: PromptState
    has_image: bool = True
    prompts: int = 0
    has_mask: bool = False
    is_empty: bool = False
    tool: str = "point"
    objects: int = 0
    painting: int | None = None


def next_step(now: Situation) -> str:
    """Return one or two short sentences."""
    if not now.has_image:
        return "Open an image: drag it into the window, or File ▸ Open Sample ▸ PEFT-SAM."
    if now.prompts:
        return _prompted(now)
    if now.status.kind == "failed":
        return f"⚠ {now.status.reason}"
    if now.painting is not None:
        back = f"{KEYS['point'].shown} goes back to clicking."
        return f"Correcting object {now.painting} by hand. {back}"
    return _TOOLS[now.tool] if now.tool != "point" else _click(now.objects)


_REFINE = "Accept the mask, click again to refine it, or try another candidate."
_NOTHING = "Nothing was found there: click on the object, or discard."
_TOOLS = {
    "": "Choose Point or Box to go on segmenting.",
    "box": "Drag a box around each object.",
}


def _prompted(now: Situation) -> str:
    if now.prompts > 1:
        return f"{now.prompts} objects are asked for: accept them one by one, or all at once."
    if not now.has_mask:
        return _waiting(now.status)
    return _NOTHING if now.is_empty else _REFINE


def _click(objects: int) -> str:
    if not objects:
        return "Click on an object to segment it."
    if objects < _ENOUGH:
        return f"Click on the next object. {_ENOUGH - objects} more and you can finetune."
    return "Click on the next object, or finetune the model on these."


def _waiting(status: PromptState) -> str:
    kept = "Your prompt is kept."
    return {
        "loading": f"Waiting for the model to load. {kept}",
        "embedding": f"Waiting for the embedding ({status.progress}). {kept}",
        "stopped": f"Embedding was stopped. {kept}",
        "failed": f"⚠ {status.reason}",
    }.get(status.kind, "Predicting …")
