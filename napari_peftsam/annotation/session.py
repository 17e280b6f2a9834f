"""Transitional façade: today's methods as actions of a document."""

from __future__ import annotations

from dataclasses import replace

from napari_peftsam.document import *  # noqa
from napari_peftsam.document import Document
from napari_peftsam.document.pending import Pending
from napari_peftsam.types import Prompts


class _H:
    def __init__(self, d): self._d = d
    def __len__(self): return len(self._d.store.step_labels())
    @property
    def undo_label(self): return self._d.undo_label
    @property
    def redo_label(self): return self._d.redo_label
    @property
    def labels(self): return self._d.store.step_labels()


class Session(Document):
    @property
    def history(self): return _H(self)
    @property
    def can_undo(self): return self.undo_label is not None
    @property
    def can_redo(self): return self.redo_label is not None
    @property
    def pending(self): return self._state.pending.queue[1:]
    def add_point(self, plane, point): self.do(AddPoint(plane, point))
    def set_box(self, plane, box): self.do(SetBox(plane, box))
    def set_prompts(self, plane, prompts): self.do(SetPrompts(plane, prompts))
    def remove_last_prompt(self): self.do(RemoveLastPrompt())
    def clear_prompts(self, *, pending=False): self.do(Discard(pending))
    def queue_boxes(self, plane, boxes): self.do(QueuePrompts.boxes(plane, boxes))
    def queue_prompts(self, plane, prompts): self.do(QueuePrompts(plane, tuple(prompts)))
    def set_queue(self, plane, prompts): self.do(SetQueue(plane, tuple(prompts)))
    def choose(self, index): self.do(ChooseCandidate(index))
    def accept(self, *, model="", adapter="", overlap="keep"):
        shown = None
        if model or adapter:
            shown = self.current.as_new_object()
            shown = replace(shown, model=model or shown.model, adapter=adapter or shown.adapter)
        return self.do(Accept(overlap, shown))
    def accept_objects(self, plane, objects, *, model="", adapter="", overlap="keep"):
        objects = [o if isinstance(o, NewObject) else NewObject(*o) for o in objects]
        objects = tuple(replace(o, model=o.model or model, adapter=o.adapter or adapter) for o in objects)
        return self.do(AcceptObjects(plane, objects, overlap))
    def delete_object(self, image, label): self.do(DeleteObjects(image, (label,)))
    def delete_objects(self, image, labels): self.do(DeleteObjects(image, tuple(labels)))
    def merge_objects(self, image, labels): return self.do(MergeObjects(image, tuple(labels)))
    def record_paint(self, image, indices, old, new): self.record_stroke(image, [PaintAtom(indices, old, new)])
    def record_stroke(self, image, atoms):
        a = paint(self.image(image), atoms)
        if a is not None: self.do(a)
    def set_labels(self, image, labels, *, records=()): self.do(ImportLabels(image, labels, tuple(records)))
    def remove_image(self, image): self.do(RemoveImage(image))
    def rename_image(self, image, name): self.do(RenameImage(image, name))
