"""The part of a session that makes an object: prompts, queue and candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from napari_peftsam.annotation._image_session import ImageSession
from napari_peftsam.annotation.current import Answerer, CurrentObject, Draft
from napari_peftsam.annotation.edits import ChangeDraft
from napari_peftsam.annotation.records import PlaneKey
from napari_peftsam.errors import PromptError
from napari_peftsam.types import Box, Point, Prediction, Prompts, Window

__all__ = ["PromptSession"]

_ANYONE = Answerer()


class PromptSession(ImageSession):
    """The part of `Session` that holds the object being made; see there."""

    @property
    def current(self) -> CurrentObject | None:
        """The object being made, None before the first prompt."""
        return self._state.draft.current

    @property
    def pending(self) -> tuple[Prompts, ...]:
        """Prompts of the objects that follow the current one in its plane."""
        return self._state.draft.pending

    @property
    def queue(self) -> tuple[Prompts, ...]:
        """Prompts of the current object and of those that follow it."""
        return self._state.draft.prompts[1]

    def add_point(self, plane: PlaneKey, point: Point) -> None:
        """Add a point to the object being made; the shown mask will be refined.

        In another plane than the current object's, this starts a new object there.
        """
        prompts = self._prompts_in(plane).with_point(point)
        self._check_prompts(plane, prompts)
        here = self._state.draft.on(plane)
        revision = next(self._revisions)
        if here.current is None:
            draft = Draft(CurrentObject(plane, prompts, revision))
        else:
            draft = replace(here, current=here.current.refined(prompts, revision))
        self._change_draft("add point", plane, draft)

    def set_box(self, plane: PlaneKey, box: Box | None) -> None:
        """Set or remove (None) the box of the object being made."""
        label = "remove box" if box is None else "set box"
        self._set_prompts(label, plane, self._prompts_in(plane).with_box(box))

    def set_prompts(self, plane: PlaneKey, prompts: Prompts) -> None:
        """Replace all prompts of the object being made; no prompts discard it."""
        self._set_prompts("change prompts", plane, prompts)

    def remove_last_prompt(self) -> None:
        """Remove the newest point or, without points, the box; nothing if there is none."""
        current = self.current
        if current is None:
            return
        points, box = current.prompts.points, current.prompts.box
        left = Prompts(points[:-1], box if points else None)
        self._set_prompts("remove last prompt", current.plane, left)

    def clear_prompts(self, *, pending: bool = False) -> None:
        """Discard the object being made, and those that follow it if `pending`."""
        current = self.current
        if current is None:
            return
        draft = Draft() if pending else self._state.draft.advanced(next(self._revisions))
        self._change_draft("discard", current.plane, draft)

    def queue_boxes(self, plane: PlaneKey, boxes: Sequence[Box]) -> None:
        """Ask for one object per box, after those already asked for in this plane.

        Answer them one after another (`set_candidates`, `accept`), or all at once
        by predicting for each of `queue` and calling `accept_objects`.
        """
        label = "queue 1 box" if len(boxes) == 1 else f"queue {len(boxes)} boxes"
        self._queue(label, plane, [Prompts(box=box) for box in boxes])

    def queue_prompts(self, plane: PlaneKey, prompts: Sequence[Prompts]) -> None:
        """Ask for one object per `Prompts`; otherwise as `queue_boxes`."""
        label = "queue 1 object" if len(prompts) == 1 else f"queue {len(prompts)} objects"
        self._queue(label, plane, prompts)

    def set_queue(self, plane: PlaneKey, prompts: Sequence[Prompts]) -> None:
        """Replace the prompts of the object being made and of all that follow it.

        The first belongs to the object being made; if it stays the same, so does its
        mask. Empty ones are left out, e.g. to remove an object from the queue.
        """
        for each in prompts:
            self._check_prompts(plane, each)
        asked = tuple(each for each in prompts if each)
        here = self._state.draft.on(plane)
        if asked == here.prompts[1]:
            return
        draft = Draft()
        if asked:
            same = here.current is not None and here.current.prompts == asked[0]
            current = here.current if same else None
            draft = Draft(
                current or CurrentObject(plane, asked[0], next(self._revisions)), asked[1:]
            )
        self._change_draft("change prompts", plane, draft)

    def set_candidates(
        self, prediction: Prediction, revision: int, made_by: Answerer = _ANYONE
    ) -> bool:
        """Show the answer to the current prompts.

        Parameters
        ----------
        prediction
            Of this plane or of a part of it, K >= 1 masks, best first; what is kept is
            `Prediction.trimmed`.
        revision
            `CurrentObject.revision` of the prompts it was made for.
        made_by
            What made it; goes into the object's record.

        Returns
        -------
        bool
            False if the prompts changed since, and the answer was ignored.

        Raises
        ------
        PromptError
            If there are no masks or they have another size than the plane.
        """
        current = self.current
        if current is None or current.revision != revision:
            return False
        shape = self.image(current.plane.image).plane_shape
        _check_candidates(prediction, shape)
        candidates = prediction.trimmed()
        self._show(replace(current, candidates=candidates, choice=0, made_by=made_by))
        return True

    def choose(self, index: int) -> None:
        """Show another candidate; an index out of range is a `PromptError`."""
        number = 0 if (c := self.current) is None or c.candidates is None else len(c.candidates)
        if self.current is None or not 0 <= index < number:
            raise PromptError(f"there is no candidate {index}: there are {number} to choose from")
        self._show(replace(self.current, choice=index))

    def cycle(self, step: int = 1) -> None:
        """Show the next (or the `step`-th next) candidate, round and round; none, nothing."""
        current = self.current
        if current is not None and current.candidates is not None:
            self.choose((current.choice + step) % len(current.candidates))

    # --- helpers --------------------------------------------------------------------

    def _queue(self, label: str, plane: PlaneKey, prompts: Sequence[Prompts]) -> None:
        for each in prompts:
            self._check_prompts(plane, each)
        asked = [each for each in prompts if each]
        if asked:
            draft = self._state.draft.queued(plane, asked, next(self._revisions))
            self._change_draft(label, plane, draft)

    def _prompts_in(self, plane: PlaneKey) -> Prompts:
        current = self._state.draft.on(plane).current
        return Prompts() if current is None else current.prompts

    def _check_prompts(self, plane: PlaneKey, prompts: Prompts) -> None:
        image = self.image(plane.image)
        image.check_plane(plane)
        prompts.check_inside(image.plane_shape)

    def _set_prompts(self, label: str, plane: PlaneKey, prompts: Prompts) -> None:
        self._check_prompts(plane, prompts)
        if prompts == self._prompts_in(plane):
            return
        here, revision = self._state.draft.on(plane), next(self._revisions)
        # A mask to refine belongs to the prompts it was made from: it is not carried over.
        current = CurrentObject(plane, prompts, revision)
        draft = replace(here, current=current) if prompts else here.advanced(revision)
        self._change_draft(label, plane, draft)

    def _change_draft(self, label: str, plane: PlaneKey, draft: Draft) -> None:
        with self._step(label, plane.image) as apply:
            apply(ChangeDraft(draft))

    def _show(self, current: CurrentObject) -> None:
        self._state.set_draft(replace(self._state.draft, current=current))
        self._tell(history=False)


def _check_candidates(prediction: Prediction, shape: tuple[int, int]) -> None:
    count, window = len(prediction), prediction.window
    inside = window & Window(0, 0, *shape) == window
    is_one = prediction.masks.shape == (count, *window.shape)
    if count < 1 or not is_one or not inside or prediction.plane_shape != shape:
        where = "" if prediction.part_of is None else f" at {prediction.offset}"
        raise PromptError(
            f"the candidates have shape {prediction.masks.shape}{where}, expected (K, "
            f"{shape[0]}, {shape[1]}) with K >= 1, or a part of it: predict them from this plane"
        )
