"""What is known about each object: where it is, who made it from which prompts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from napari_peftsam.errors import InputFileError
from napari_peftsam.types import Box, Point, Prompts

__all__ = [
    "IMPORTED",
    "MANUAL",
    "ObjectRecord",
    "PlaneKey",
    "plane_from_dict",
    "prompts_from_dict",
]

MANUAL = "manual"
"""The model name of objects that were painted by hand."""
IMPORTED = "imported"
"""The model name of objects that came in with a label array."""


@dataclass(frozen=True)
class PlaneKey:
    """One 2D plane of an image.

    Attributes
    ----------
    image
        Name of the image in its session.
    index
        Position along the leading axes of a stack, e.g. ``(z,)`` or ``(t, z)``;
        empty for a 2D image.
    """

    image: str
    index: tuple[int, ...] = ()


@dataclass(frozen=True)
class ObjectRecord:
    """Provenance of one accepted object.

    Attributes
    ----------
    label
        Its value in the label array of its image.
    plane
        The plane it was made in.
    prompts
        What the user said; empty for painted, imported and automatic objects.
    model, adapter
        Names of what predicted the mask; `model` is ``"manual"`` for painted and
        ``"imported"`` for imported objects; `adapter` is empty where there was none.
    score
        Predicted IoU in [0, 1] of the accepted candidate, None if unknown.
    candidate
        Which candidate was accepted (0 is the one with the best score).
    corrected
        Whether its pixels were edited by hand (or merged) after it was accepted.
    created, modified
        UTC times in ISO 8601.
    """

    label: int
    plane: PlaneKey
    prompts: Prompts
    model: str
    adapter: str
    score: float | None
    candidate: int
    corrected: bool
    created: str
    modified: str

    @property
    def source(self) -> str:
        """How it came about: box, point, painted, imported or automatic."""
        if self.prompts:
            return "point" if self.prompts.box is None else "box"
        return {MANUAL: "painted", IMPORTED: "imported"}.get(self.model, "automatic")

    def to_dict(self) -> dict[str, Any]:
        """Return only JSON types; `from_dict` reads it back."""
        values = asdict(self)
        values["plane"]["index"] = list(self.plane.index)
        values["prompts"]["points"] = list(values["prompts"]["points"])
        return {**values, "source": self.source}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ObjectRecord:
        """Rebuild a record from `to_dict`; a field that misfits is an `InputFileError`."""
        try:
            score = values["score"]
            return cls(
                label=int(values["label"]),
                plane=plane_from_dict(values["plane"]),
                prompts=prompts_from_dict(values["prompts"]),
                model=str(values["model"]),
                adapter=str(values["adapter"]),
                score=None if score is None else float(score),
                candidate=int(values["candidate"]),
                corrected=bool(values["corrected"]),
                created=str(values["created"]),
                modified=str(values["modified"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputFileError(
                f"an object record cannot be read ({error!r}): it was not written by this "
                "plugin or it is damaged; use an older copy of the file"
            ) from error

    def renamed(self, old: str, new: str) -> ObjectRecord:
        """Return a copy that follows the renaming of an image."""
        if self.plane.image != old:
            return self
        return replace(self, plane=replace(self.plane, image=new))


def plane_from_dict(values: dict[str, Any]) -> PlaneKey:
    """Rebuild a `PlaneKey` from its ``asdict``."""
    return PlaneKey(str(values["image"]), tuple(int(i) for i in values["index"]))


def prompts_from_dict(values: dict[str, Any]) -> Prompts:
    """Rebuild `Prompts` from their ``asdict``."""
    box, edges = values["box"], ("row0", "col0", "row1", "col1")
    return Prompts(
        points=tuple(
            Point(float(p["row"]), float(p["col"]), bool(p["positive"])) for p in values["points"]
        ),
        box=None if box is None else Box(*(float(box[edge]) for edge in edges)),
    )
