"""Random sequences of all actions, and a model of what they must lead to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from napari_peftsam.document import (
    Audit,
    AuditPlane,
    AuditTile,
    CompleteRegion,
    Document,
    ImageId,
    ImageInfo,
    ImageSource,
    NewObject,
    NewProposal,
    ObjectPlane,
    ObjectRecord,
    PlaneKey,
    Run,
    StoredAdapter,
    compare,
    create_project,
    open_project,
    replay,
)
from napari_peftsam.document import actions as act
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.errors import PeftSamError, ProjectError
from napari_peftsam.types import BoolArray, Box, Point, Prediction, Prompts, Window
from tests.document._cases import (
    CELLS,
    SETS,
    SHAPE,
    STACK,
    TINY,
    check_invariants,
    make_document,
    new_objects,
    prediction,
    rectangle,
    ticking_clock,
)

NO_STEPS = (
    act.AddImage, act.RenameImage, act.ReplacePixels, act.LocateImage, act.ChooseCandidate,
    act.AddAdapter, act.UseAdapter, act.UseCategory, act.AddRun,
)  # fmt: skip
NAMES = ("cells", "stack", "nuclei", "new")


class Source:
    """Draws parts of actions that mostly fit a document."""

    def __init__(self, draw: Callable[[Any], Any], document: Document) -> None:
        self.draw, self.document = draw, document

    def number(self, low: int, high: int) -> int:
        """Draw an integer, both ends included."""
        drawn: int = self.draw(st.integers(low, high))
        return drawn

    def one_of(self, *values: Any) -> Any:
        return values[self.number(0, len(values) - 1)]

    def image(self) -> ImageId:
        """Draw an image: mostly one that is there."""
        here = sorted(self.document.images, key=lambda i: -len(self.document.records(i)))
        return self.one_of(*here, *here, *here, ImageId("gone"))

    def plane(self) -> PlaneKey:
        """Draw a plane: mostly the one of the pending object."""
        current = self.document.current
        if current is not None and self.number(0, 3):
            return current.plane
        image = self.image()
        entry = self.document.images.get(image)
        leading = () if entry is None else entry.shape[:-2]
        return PlaneKey(image, tuple(self.number(0, n - 1) for n in leading))

    def mask(self) -> BoolArray:
        row, col = self.number(0, 20), self.number(0, 28)
        return rectangle(row, col, row + self.number(0, 9), col + self.number(1, 9))

    def point(self) -> Point:
        return Point(self.number(0, 46) / 2, self.number(0, 62) / 2, bool(self.number(0, 1)))

    def box(self) -> Box:
        row, col = self.number(0, 40) / 2, self.number(0, 50) / 2
        return Box(row, col, row + 3, col + 4.5)

    def prompts(self) -> Prompts:
        points = tuple(self.point() for _ in range(self.number(0, 2)))
        return Prompts(points, self.box() if self.number(0, 1) else None)

    def many_prompts(self) -> tuple[Prompts, ...]:
        return tuple(self.prompts() for _ in range(self.number(0, 3)))

    def labels(self, image: ImageId) -> tuple[int, ...]:
        """Draw labels, mostly of objects that are there."""
        entry = self.document.images.get(image)
        known = [] if entry is None else sorted(entry.records)
        first = self.number(0, max(0, len(known) - 1))
        chosen = known[first : first + self.number(1, 3)]
        return (*chosen[::-1], 99) if self.number(0, 9) == 9 else tuple(chosen[::-1])

    def where(self, image: ImageId) -> Any:
        entry = self.document.images.get(image)
        size = 9 if entry is None else entry.labels.size
        start = self.number(0, size - 1)
        stop = min(size, start + self.number(1, 70))
        return np.arange(start, stop, self.number(1, 3))

    def paint(self) -> act.Paint:
        """Draw a stroke, as of a viewer that writes into the labels first, or as of a script."""
        image = self.image()
        entry, where = self.document.images.get(image), self.where(image)
        label = self.one_of(1 if entry is None else entry.next_label, 0, *self.labels(image))
        new: Any = label
        if self.number(0, 1):
            new = np.where(np.arange(len(where)) % 5 < 3, label, self.number(0, 3))
        label_set = self.one_of("", *SETS)
        if entry is None or self.number(0, 1):
            return act.Paint(image, where, new, label_set=label_set)
        old = np.take(entry.array(label_set), where)
        return act.Paint(image, where, new, old, label_set=label_set)

    def new_objects(self) -> act.AcceptObjects:
        plane, queue = self.plane(), self.document.queue
        given = [*queue[:2], Prompts()] if self.number(0, 1) else [Prompts()] * self.number(0, 2)
        made = [NewObject(each, self.mask(), 0.5) for each in given]
        if made and self.number(0, 1):  # an object that is there, or is in another plane
            label = self.one_of(99, *self.labels(plane.image))
            made[0] = replace(made[0], label=label)
        if self.number(0, 1):
            made.append(NewObject(Prompts(), np.ones((4, 5), bool), None, (self.number(0, 21), 3)))
        return act.AcceptObjects(plane, tuple(made), self.one_of("keep", "overwrite", "replace"))

    def suggest(self) -> act.Suggest:
        found = []
        for score in (0.9, 0.5, 0.25)[: self.number(0, 3)]:
            mask = np.ones((self.number(1, 9), self.number(1, 9)), np.bool_)
            offset = self.number(-2, 20), self.number(-2, 28)
            found.append(NewProposal(self.prompts(), mask, offset, score, (score, 1.5)))
        return act.Suggest(self.plane(), tuple(found), self.one_of(None, Window(0, 0, 9, 32)))

    def count(self) -> act.BeginCount:
        plane, numbers = self.proposals()
        known = self.document.images.get(plane.image)
        here = [] if known is None else [n for n in numbers if n in known.proposals]
        tiles = (AuditTile(plane, Window(0, 0, 9, 9)),) * self.number(0, 2)
        sample = tuple((plane.image, number) for number in here)
        return act.BeginCount(Audit((AuditPlane(plane, 9, 9),), (0.5,), sample, tiles, 4))

    def proposals(self) -> tuple[PlaneKey, tuple[int, ...]]:
        """Draw a plane, mostly one with proposals, and some of them."""
        images = self.document.images.values()
        planes = [PlaneKey(i.id, r.index) for i in images for r in i.proposals.values()]
        plane = self.one_of(self.plane(), *planes, *planes)
        entry = self.document.images.get(plane.image)
        known = [] if entry is None else sorted(entry.open_proposals(plane))
        return plane, (*known[: self.number(0, 2)], *([99] if self.number(0, 9) == 9 else []))

    def record(self, label: int, image: ImageId) -> ObjectRecord:
        entry = self.document.images.get(image)
        index = (0,) * (0 if entry is None else len(entry.shape) - 2)
        planes = (ObjectPlane(index, self.prompts()),)
        return ObjectRecord(
            label, planes, "other", category=self.one_of("", "nucleus"), label_set="more"
        )

    def import_labels(self) -> act.ImportLabels:
        image = self.image()
        entry = self.document.images.get(image)
        label_set = self.one_of("", *SETS)
        labels = np.zeros(SHAPE, int) if entry is None else entry.array(label_set).copy()
        new = self.one_of(60, 0, *self.labels(image))
        labels[..., 3 : 3 + self.number(1, 6), 3:9] = new
        records = (self.record(new, image),) if new and self.number(0, 1) else ()
        return act.ImportLabels(image, labels, records, label_set)

    def add_image(self) -> act.AddImage:
        shape = self.one_of(SHAPE, (2, *SHAPE))
        kind = self.one_of("int32", "uint8")
        info = ImageInfo(self.one_of(*NAMES), shape, label_type=kind)
        image, labels = ImageId(f"{info.name}{self.number(0, 3)}"), None
        if self.number(0, 1):
            labels = np.zeros(shape, kind)
            labels[..., 2:6, 3:7] = self.number(0, 2)
            labels[..., 1, 1] = 3
        return act.AddImage(image, info, labels)

    def region(self, image: ImageId) -> CompleteRegion:
        entry = self.document.images.get(image)
        known = () if entry is None else entry.info.complete
        if known and self.number(0, 1):
            return self.one_of(*known)
        index = self.one_of(None, (), (0,), (1,))
        corners = tuple((p.row, p.col) for p in (self.point() for _ in range(3)))
        return CompleteRegion(index, self.one_of(None, self.box()), self.one_of((), corners))

    def source(self) -> ImageSource:
        return ImageSource(self.one_of("a.tif", "b/ä.tif"), self.number(0, 9))


def _on_image(kind: type[Any], *parts: str) -> Callable[[Source], act.Action]:
    def make(s: Source) -> act.Action:
        image = s.image()
        action: act.Action = kind(image, *(getattr(s, part)(image) for part in parts))
        return action

    return make


MAKERS: dict[type[Any], Callable[[Source], act.Action]] = {
    act.AddImage: Source.add_image,
    act.RemoveImage: _on_image(act.RemoveImage),
    act.RenameImage: lambda s: act.RenameImage(s.image(), s.one_of(*NAMES)),
    act.ReplacePixels: lambda s: act.ReplacePixels(s.image(), s.one_of(None, s.source())),
    act.LocateImage: lambda s: act.LocateImage(s.image(), s.source()),
    act.AddPoint: lambda s: act.AddPoint(s.plane(), s.point()),
    act.SetBox: lambda s: act.SetBox(s.plane(), s.one_of(None, s.box(), s.box())),
    act.SetPrompts: lambda s: act.SetPrompts(s.plane(), s.prompts()),
    act.Reopen: lambda s: act.Reopen(p := s.plane(), s.one_of(9, *s.labels(p.image))),
    act.RemoveLastPrompt: lambda s: act.RemoveLastPrompt(),
    act.QueuePrompts: lambda s: act.QueuePrompts(s.plane(), s.many_prompts()),
    act.SetQueue: lambda s: act.SetQueue(s.plane(), (*s.document.queue[1:2], *s.many_prompts())),
    act.Discard: lambda s: act.Discard(everything=bool(s.number(0, 1))),
    act.ChooseCandidate: lambda s: act.ChooseCandidate(s.number(0, 3)),
    act.Accept: lambda s: act.Accept(s.one_of("keep", "overwrite", "replace")),
    act.AcceptObjects: Source.new_objects,
    act.Suggest: Source.suggest,
    act.AcceptProposals: lambda s: act.AcceptProposals(*s.proposals()),
    act.RejectProposals: lambda s: act.RejectProposals(
        *s.proposals(), s.one_of("nothing here", "wrong outline")
    ),
    act.BeginCount: Source.count,
    act.CountTile: lambda s: act.CountTile(s.number(0, 2), s.number(-1, 3)),
    act.DeleteObjects: _on_image(act.DeleteObjects, "labels"),
    act.MergeObjects: _on_image(act.MergeObjects, "labels"),
    act.Categorize: lambda s: act.Categorize(
        i := s.image(), s.labels(i), s.one_of("", "nucleus", "cell")
    ),
    act.UseCategory: lambda s: act.UseCategory(s.one_of("", "nucleus")),
    act.Paint: Source.paint,
    act.PaintBackground: lambda s: act.PaintBackground(
        i := s.image(), s.where(i), bool(s.number(0, 2))
    ),
    act.MarkComplete: lambda s: act.MarkComplete(i := s.image(), s.region(i), bool(s.number(0, 2))),
    act.ImportLabels: Source.import_labels,
    act.AddAdapter: lambda s: act.AddAdapter(StoredAdapter(s.one_of("v1", "v2"), "abc", "", 0.5)),
    act.UseAdapter: lambda s: act.UseAdapter(s.one_of("v1", ""), s.number(0, 3) / 2, "tiny"),
    act.AddRun: lambda s: act.AddRun(Run("v1", {"steps": s.number(1, 9)}, {"curve": [0.5, None]})),
    act.Undo: lambda s: act.Undo(),
    act.Redo: lambda s: act.Redo(),
}


# Without repeats, so that a few sequences do something of every kind.
KINDS = st.lists(st.sampled_from(list(MAKERS)), min_size=6, max_size=12, unique=True)


def image_content(document: Document, image: ImageId) -> tuple[Any, ...]:
    """What actions on an image change and undo restores."""
    entry = document.images[image]
    strokes = entry.background
    return (
        replace(entry.info, name="", source=None),
        *(entry.array(each).tobytes() for each in SETS),
        document.records(image),
        dict(entry.proposals),
        entry.array(PROPOSALS).tobytes(),
        None if strokes is None or not strokes.any() else strokes.tobytes(),
    )


def undoable(document: Document) -> dict[str, Any]:
    """Everything that undo and redo restore."""
    content = {i: image_content(document, i) for i in document.images}
    return content | {"": document.pending, "count": document.audit}


def others(document: Document) -> dict[str, Any]:
    """Everything that they leave alone, by image or kind."""
    images = {i: (image.name, image.info.source) for i, image in document.images.items()}
    return images | {"": (document.adapters, document.live, document.runs)}


def shown(document: Document) -> tuple[Any, ...]:
    """Candidates and choice, which are shown but not part of the project."""
    current = document.current
    if current is None:
        return ()
    found, refined = current.candidates, current.mask_prompt
    return (
        current.plane,
        current.prompts,
        current.choice,
        found and (found.masks.tobytes(), found.scores.tobytes(), found.logits.tobytes()),
        refined and refined.logits.tobytes(),
    )


def stored(document: Document) -> tuple[Any, ...]:
    """Everything that a project brings back."""
    return (
        list(document.images),
        undoable(document),
        others(document),
        document.steps,
        document.undo_label,
        document.redo_label,
    )


class AnySequence(RuleBasedStateMachine):
    """Does actions, and knows what undo and redo must lead to."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "any.peftsam")
        self.clock = ticking_clock()
        self.document = make_document(create_project(self.path), self.clock)
        self.states, self.labels, self.position = [undoable(self.document)], [""], 0
        self.done: set[type[Any]] = set()
        self.answers: dict[int, Prediction] = {}
        self.choices: dict[int, int] = {}
        self.listen()
        for plane in (CELLS, STACK):
            masks = (rectangle(row, 3 * row, row + 4, 3 * row + 5) for row in (1, 5, 7))
            self.do(new_objects(*((Prompts(), mask, 0.5) for mask in masks), plane=plane))

    def listen(self) -> None:
        self.heard: list[str] = []
        self.document.events.connect(lambda info: self.heard.append(info.signal.name))

    # --- rules ----------------------------------------------------------------------

    @rule(data=st.data(), kinds=KINDS)
    def do_anything(self, data: st.DataObject, kinds: list[type[Any]]) -> None:
        for kind in kinds:
            self.do(MAKERS[kind](Source(data.draw, self.document)))

    @rule(
        data=st.data(),
        kind=st.sampled_from([act.AddPoint, act.SetPrompts, act.QueuePrompts, act.SetQueue]),
    )
    def make_an_object(self, data: st.DataObject, kind: type[Any]) -> None:
        source = Source(data.draw, self.document)
        for each in (kind, act.AddPoint):
            self.do(MAKERS[each](source))
        self.predict(source)
        for each in (act.ChooseCandidate, act.Accept):
            self.do(MAKERS[each](source))

    @rule(data=st.data(), kinds=KINDS)
    def fail_to_save(self, data: st.DataObject, kinds: list[type[Any]]) -> None:
        for kind in kinds[:4]:
            self.fail(MAKERS[kind](Source(data.draw, self.document)))

    def fail(self, action: act.Action) -> None:
        commit = self.document.store.commit

        def full(*args: Any, **options: Any) -> None:
            raise ProjectError("the disk is full")

        self.document.store.commit = full  # type: ignore[method-assign]
        before, number = self.everything(), self.document.store.next_number
        try:
            self.paint_first(action)
            self.document.do(action)
        except PeftSamError:
            self.paint_back(action)
        else:  # it would have changed nothing, or there was nothing to undo
            assert self.document.store.next_number == number
        finally:
            self.document.store.commit = commit  # type: ignore[method-assign]
        assert self.everything() == before
        assert self.heard == []

    @rule(data=st.data())
    def candidates_arrive(self, data: st.DataObject) -> None:
        self.predict(Source(data.draw, self.document))

    def predict(self, source: Source) -> None:
        current = self.document.current
        if current is None:
            return
        found = prediction(*(source.mask() for _ in range(source.number(1, 3))))
        number = self.document.store.next_number
        assert self.document.set_candidates(found, current.revision, TINY)
        choice = self.choices.get(current.revision, 0)
        if current.revision in self.answers or choice >= len(found):
            self.choices[current.revision] = 0
        assert self.document.store.next_number - number == self.heard.count("saved") <= 1
        self.answers[current.revision] = found.trimmed()
        assert not self.document.set_candidates(found, current.revision + 1000)
        self.heard.clear()
        self.check()

    @rule(steps=st.integers(1, 4))
    def there_and_back(self, steps: int) -> None:
        steps = min(steps, self.position)
        for action in (*[act.Undo()] * steps, *[act.Redo()] * steps):
            self.do(action, reread=False)

    @rule()
    def reopen(self) -> None:
        before = stored(self.document)
        pixels = {i: image.pixels for i, image in self.document.images.items()}
        self.document.store.close()
        self.document = Document(open_project(self.path, must_write=True), self.clock)
        assert stored(self.document) == before
        for image, array in pixels.items():
            if array is not None:
                self.document.image(image).attach_pixels(array)
        self.answers = {}
        self.listen()
        self.check()

    # --- the model ------------------------------------------------------------------

    def do(self, action: act.Action, *, reread: bool = True) -> None:
        """Do an action and compare what it leads to with the model."""
        document, number = self.document, self.document.store.next_number
        before = self.everything() if reread else None
        fixed = others(document)
        self.paint_first(action)
        try:
            document.do(action)
        except PeftSamError:
            self.paint_back(action)
            assert self.everything() == before
            assert self.heard == []
            return
        if document.store.next_number == number:
            assert self.everything() == before
            assert self.heard == []
            return
        assert document.store.next_number == number + 1
        assert self.heard[-1] == "saved"
        assert self.heard.count("saved") == 1
        self.heard.clear()
        self.done.add(type(action))
        if isinstance(action, NO_STEPS):
            self.note(action)
        elif isinstance(action, act.Undo | act.Redo):
            self.position += 1 if isinstance(action, act.Redo) else -1
            now = others(document)
            assert all(now[key] == fixed[key] for key in now.keys() & fixed.keys())
        else:
            self.position += 1
            self.states[self.position :] = [undoable(document)]
            self.labels[self.position :] = [document.undo_label or ""]
            assert undoable(document) != self.states[self.position - 1]
            kept = others(document)
            assert all(kept[key] == fixed[key] for key in kept)
        self.check(reread=reread)

    def note(self, action: act.Action) -> None:
        """Enter what undo steps over: it holds before and after every step."""
        if isinstance(action, act.AddImage):
            for state in self.states:
                state[action.image] = image_content(self.document, action.image)
        if isinstance(action, act.ChooseCandidate):
            self.choices[self.document.pending.revision] = action.index

    def paint_first(self, action: act.Action) -> None:
        """Write a viewer's stroke into the shared labels, as napari does."""
        if isinstance(action, act.Paint) and action.old is not None:
            labels = self.document.images[action.image].array(action.label_set)
            labels[np.unravel_index(action.where, labels.shape)] = action.new

    def paint_back(self, action: act.Action) -> None:
        """Take a stroke back that the document refused, as a viewer does."""
        if isinstance(action, act.Paint) and action.old is not None:
            labels = self.document.images[action.image].array(action.label_set)
            labels[np.unravel_index(action.where, labels.shape)] = action.old

    def everything(self) -> tuple[Any, ...]:
        pixels = {i: id(image.pixels) for i, image in self.document.images.items()}
        return stored(self.document), shown(self.document), pixels

    def check(self, *, reread: bool = True) -> None:
        """Compare the document with the model, and with itself reopened."""
        document = self.document
        check_invariants(document)
        assert undoable(document) == self.states[self.position]
        assert len(document.steps) == self.position
        assert document.undo_label == (self.labels[self.position] or None)
        later = self.labels[self.position + 1 : self.position + 2]
        assert document.redo_label == (later[0] if later else None)
        names = [image.name for image in document.images.values()]
        assert len({*names}) == len(names)
        self.check_shown()
        if reread:
            assert stored(Document(document.store)) == stored(document)

    def check_shown(self) -> None:
        current = self.document.current
        if current is None:
            return
        answer = self.answers.get(current.revision)
        assert (current.candidates is None) == (answer is None)
        if answer is not None and current.candidates is not None:
            assert current.choice == self.choices.get(current.revision, 0)
            assert current.candidates.masks.tobytes() == answer.masks.tobytes()

    # --- at the end -----------------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "document"):
            self.go_through_all_steps()
            self.check_replay()
            self.document.store.close()
            self.folder.cleanup()

    def go_through_all_steps(self) -> None:
        for _ in self.states[self.position + 1 :]:
            self.do(act.Redo(), reread=False)
        end = stored(self.document)
        for _ in self.states[1:]:
            self.do(act.Undo(), reread=False)
        assert self.document.undo() is None
        assert undoable(self.document) == self.states[0]
        for _ in self.states[1:]:
            self.do(act.Redo(), reread=False)
        assert self.document.redo() is None
        self.check()
        assert stored(self.document) == end

    def check_replay(self) -> None:
        """Rebuild the document from its log alone."""
        time = ""
        again = Document(clock=lambda: time)
        for logged in self.document.store.actions():
            time, action = logged.time, act.decode_action(logged.kind, logged.data, logged.payload)
            if not isinstance(action, act.ChooseCandidate):  # candidates are not in the log
                again.do(action)
        assert rebuilt(again) == rebuilt(self.document)
        assert compare(replay(self.document.store), self.document.store) == []


def rebuilt(document: Document) -> tuple[Any, ...]:
    """What the log rebuilds: all but the revision of the pending prompts."""
    order, content, *rest = stored(document)
    pending = content.pop("")
    return (order, content, pending.plane, pending.queue, *rest)
