"""Suggestions in the annotate dock: their buttons, their layer, and what is done to them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial, reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtGui import QIntValidator
from qtpy.QtWidgets import QLineEdit, QSlider, QVBoxLayout, QWidget

from napari_peftsam.app.count_controller import CountController
from napari_peftsam.app.counting import export_count, undrawn
from napari_peftsam.app.review import COUNT_FIRST, ReviewController
from napari_peftsam.app.suggest_run import SuggestController
from napari_peftsam.app.suggesting import planes_of_queue
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.types import Window
from napari_peftsam.widgets._dialogs import ask_folder, ask_number
from napari_peftsam.widgets._parts import (
    ElidedButton,
    ElidedLabel,
    add_entry,
    add_menu,
    beside,
    stacked,
    stop_timers,
    text_label,
    timer,
    tool_button,
)
from napari_peftsam.widgets.keys import KEYS, keyed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_peftsam.document import DocumentImage, PlaneKey
    from napari_peftsam.widgets.session import ViewerSession

_LARGE = 2**22  # pixels around all proposals; of more, those in sight are drawn
_NUMBER = 44  # pixels of a line for four digits
_PREPARE_MS = 50  # the button shows first that a run has begun
_TILE = (
    "Count the objects that are neither outlined nor filled and whose middle is in the white "
    "frame; of several in one outline, all but one. Enter goes on"
)
_TIPS = {
    "accept": ("✓", "Make the proposal an object"),
    "nothing_here": ("∅", "Nothing is here: the place is background from now on"),
    "wrong_outline": ("≠", "An object is here, but its outline is another"),
    "nearest_proposal": ("◎", "Go to the proposal next to the mouse"),
    "next_proposal": ("▸", "Go to the proposal that the model knows least about"),
}


class ReviewView:
    """The buttons of suggestions, by name; they change nothing.

    Attributes
    ----------
    suggest, more
        Begins or ends a search, and a menu with what to look for, and where.
    eager, text
        The slider, and what is known of the proposals above it.
    accept_above
        Accepts these.
    accept, nothing_here, wrong_outline, nearest_proposal, next_proposal
        Judge the current proposal, or go to another one.
    current
        Number of the proposal that is looked at, 0 for none.
    count, counted, seen, save
        Begins or ends a count, says what to look at or what the number is, takes how many objects
        a tile has, and saves the number.
    """

    def __init__(self) -> None:
        self.suggest = ElidedButton()
        self.more = tool_button("…", "Where to look, and for what")
        self.menu = add_menu(self.more)
        self.eager = QSlider(Qt.Orientation.Horizontal)
        self.eager.setRange(0, 100)
        self.eager.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.eager.setToolTip("How eager? To the right, proposals are shown that are less certain")
        self.accept_above = keyed(
            tool_button("", ""), "accept_all", "✓✓", "Accept all that are shown ({})"
        )
        self.text = ElidedLabel(Qt.TextElideMode.ElideRight)
        self.accept, self.nothing_here, self.wrong_outline, self.nearest, self.next = (
            keyed(tool_button(text, ""), name, text, f"{tip} ({{}})")
            for name, (text, tip) in _TIPS.items()
        )
        self.judging, self.counting = QWidget(), QWidget()
        self.current = 0
        self.count = tool_button("#", "")
        self.counted, self.seen = text_label(), QLineEdit()
        self.seen.setValidator(QIntValidator(0, 9999))
        self.seen.setFixedWidth(_NUMBER)
        self.seen.setToolTip(_TILE)
        self.save = tool_button("Save…", "Save the number, and what was looked at, in a folder")

    def column(self) -> QVBoxLayout:
        """Return the parts, laid out."""
        buttons = self.accept, self.nothing_here, self.wrong_outline, self.nearest, self.next
        stacked(
            beside(self.eager, *buttons, self.accept_above, stretch=0, spacing=0),
            self.text,
            inside=self.judging, spacing=2,
        )  # fmt: skip
        layout = beside(self.counted, self.seen, self.save, stretch=0)
        layout.setContentsMargins(0, 0, 0, 0)
        self.counting.setLayout(layout)
        first = beside(self.suggest, self.count, self.more, stretch=0)
        return stacked(first, self.judging, self.counting, spacing=2)

    def show(
        self, run: SuggestController, review: ReviewController, counting: CountController
    ) -> None:
        """Show how far a run is, and what is known of the proposals and their number."""
        item, told = counting.item, counting.text
        is_tile = item is not None and not item.number
        self.counting.setVisible(bool(told))
        self.counted.setText(told)
        self.seen.setVisible(is_tile)
        self.counted.setToolTip(_TILE if is_tile else told)
        self.save.setVisible(counting.count is not None)
        self.count.setText("■" if counting.is_on else "#")
        self.count.setToolTip(
            "Stop looking; the count goes on later"
            if counting.is_on
            else "Count: estimate the number of objects from some proposals and parts of the image "
            "that you look at"
        )
        key, shown, number = KEYS["suggest"].shown, review.visible, len(review.expected)
        running = run.is_running
        self.suggest.setText(
            f"■ Stop ({run.progress})  {key}" if running else f"✧ Suggest the rest  {key}"
        )
        self.suggest.setToolTip(
            "Stop, and show what was found until now"
            if running
            else f"Let the model propose all objects that are not annotated yet ({key})"
        )
        self.judging.setVisible(number > 0 or is_tile)
        current = review.expected.get(review.current)
        self.current = 0 if current is None else review.current
        self.wrong_outline.setEnabled(current is not None)
        for button in (self.accept, self.nothing_here):
            button.setEnabled(current is not None or is_tile)
        self.eager.setEnabled(not counting.is_on)
        self.accept_above.setEnabled(bool(shown) and not counting.is_on)
        if not number:
            self.text.setText("")
            return
        with QSignalBlocker(self.eager):
            self.eager.setValue(round(100 * review.eager))
        precision = review.precision
        text = f"{len(shown)} of {number}, {precision.text}"
        if not shown:
            text = f"0 of {number}: move the slider to the right"
        self.text.setText(text if current is None else f"White {current.score:.2f}; {text}")
        self.text.setToolTip(
            f"{text}, as far as {precision.judged} judged ones tell. White: the IoU that is "
            "expected of the white one"
        )


class Reviewing:
    """What the keys and buttons of suggestions do."""

    def __init__(self, owner: ViewerSession, view: ReviewView) -> None:
        self._owner, self._view = owner, view
        self._document, self._layers = owner.document, owner.layers
        self.run = SuggestController(owner, owner.layers, owner.workers)
        self.counting = CountController(self._document, owner.layers)
        self.review = ReviewController(owner, owner.layers, self.run, self.counting)
        self.ask_number, self.ask_folder = ask_number, ask_folder
        self._later = timer(None, 0)
        self._later.timeout.connect(self._draw)
        self._soon = timer(None, _PREPARE_MS)
        self._soon.timeout.connect(self._prepare)
        self._was = 0  # the current proposal that was shown last
        view.count.clicked.connect(lambda _: self._layers.attempt(self._count_or_stop))
        view.save.clicked.connect(lambda _: self._layers.attempt(self._save))
        view.eager.valueChanged.connect(self._set_eager)
        for button, name in (
            (view.suggest, "suggest"), (view.accept_above, "accept_above"),
            (view.accept, "accept_proposal"), (view.nothing_here, "nothing_here"),
            (view.wrong_outline, "wrong_outline"), (view.nearest, "nearest_proposal"),
            (view.next, "next_proposal"),
        ):  # fmt: skip
            action = self._actions()[name]
            button.clicked.connect(lambda _, action=action: self._layers.attempt(action))
        self._fill_menu()
        self._layers.tools.find_proposal = self.review.proposal_at
        self.show()

    def _fill_menu(self) -> None:
        menu, tools = self._view.menu, self._layers.tools
        for text, tip, action in (
            ("In a part…", "Drag over the part of the image to look in",
             partial(tools.choose, "suggest")),
            ("In all images", "Look in all images that are not done", self._suggest_everywhere),
            ("Count in all images", "Estimate the number of objects in images that are not done",
             self._count_everywhere),
            ("Largest object…", "Leave out what is larger", self._ask_largest),
        ):  # fmt: skip
            add_entry(menu, text, partial(self._layers.attempt, action), tip)
        for text, tip, name in (
            ("Fast", "Look at one threshold instead of five: sooner, and less is found", "fast"),
            ("Whole objects only", "Leave out what touches the border of the image", "whole"),
        ):
            added = add_entry(menu, text, tip=tip)
            added.setCheckable(True)
            added.toggled.connect(partial(self._choose, name))

    def connections(
        self, hint: Callable[[str], None], news: Callable[[str], None]
    ) -> tuple[tuple[Any, Callable[..., Any]], ...]:
        """Return the signals to listen to, and what they call."""
        owner, layers, review = self._owner.events, self._layers.events, self.review.events
        run, follow = self.run.events, self.review.follow
        return (
            (owner.ready, follow),
            (owner.model_changed, self.run.model_changed),
            (owner.adapters_changed, self.run.model_changed),
            (owner.model_changed, follow),  # its adapter brings judgements along
            (owner.adapters_changed, follow),
            (layers.plane_changed, follow),
            (layers.own_layers_changed, self._draw_soon),
            (layers.view_moved, self._draw_large),
            (layers.proposal_picked, self._open),
            (layers.part_drawn, self._suggest_in),
            (review.changed, self.show),
            (review.hint, hint),
            (self.counting.events.hint, hint),
            (self.counting.events.changed, self._go_on),
            (run.state_changed, self._show_run),
            (run.ended, news),
            (run.failed, lambda error: hint(str(error))),
        )

    def release(self) -> None:
        """Stop, and listen no more."""
        stop_timers(self._later, self._soon)
        self._layers.tools.find_proposal = lambda *_: 0
        self.run.release()
        self.counting.release()
        self.review.release()

    def keys(self) -> dict[str, Callable[[], object]]:
        """Return what keys do that belong to suggestions alone."""
        others = ("accept_proposal", "accept_above")
        return {name: each for name, each in self._actions().items() if name not in others}

    def _actions(self) -> dict[str, Callable[[], object]]:
        review = self.review
        return {
            "suggest": self._suggest_or_stop,
            "accept_proposal": self.accept,
            "accept_above": review.accept_above,
            "nothing_here": self._nothing_here,
            "wrong_outline": partial(review.reject, "wrong outline"),
            "nearest_proposal": self._go_to_nearest,
            "next_proposal": review.next,
        }

    # --- what the user does ---------------------------------------------------------

    def _suggest_or_stop(self) -> None:
        if self.run.is_running:
            self.run.stop()
        else:
            self._suggest()

    def _suggest(self, planes: Sequence[PlaneKey] = (), part: Window | None = None) -> None:
        if self.counting.is_on:
            self.review.events.hint.emit(COUNT_FIRST)
        else:
            self.run.suggest(planes, part)

    def _suggest_in(self, part: Window) -> None:
        self._layers.tools.choose("point")
        self._suggest(part=part)

    def _suggest_everywhere(self) -> None:
        self._adopt_all()
        self._suggest(planes_of_queue(self._document))

    def _adopt_all(self) -> None:
        for layer in self._layers.image_layers:
            if self._layers.image_of(layer) is None:  # it was never shown
                self._layers.attempt(partial(self._layers.adopt, layer))
                self._layers.tools.choose("point")  # its layer of objects took the keys

    @property
    def is_at_tile(self) -> bool:
        """True while the objects of a tile are counted."""
        item = self.counting.item
        return item is not None and not item.number

    def accept(self) -> None:
        """Accept the current proposal, or say how many objects the tile has."""
        if self.is_at_tile:
            self._see()
        else:
            self.review.accept()

    def _nothing_here(self) -> None:
        if self.is_at_tile:
            self.counting.see(0)
        else:
            self.review.reject("nothing here")

    def _see(self) -> None:
        self._layers.attempt(partial(self.counting.see, int(self._view.seen.text() or 0)))

    def _count_or_stop(self) -> None:
        if self.counting.is_on:
            self.counting.stop()
        else:
            self._count([] if self._layers.plane is None else [self._layers.plane])

    def _count(self, planes: Sequence[PlaneKey]) -> None:
        if self.run.is_running:
            self.review.events.hint.emit("Wait until all is suggested, or stop that, then count")
        else:
            self.counting.begin(planes)

    def _count_everywhere(self) -> None:
        self._adopt_all()
        self._count(planes_of_queue(self._document))

    def _save(self) -> None:
        folder = self.ask_folder(self._view.save, "Save the count")
        if folder is not None:
            export_count(self._document, folder)

    def _go_on(self) -> None:
        """Show what is to be looked at."""
        item, layers, had_focus = self.counting.item, self._layers, self._view.seen.hasFocus()
        if item is not None:
            if item.plane != layers.plane:
                layers.select_image(layers.layer_of(item.plane.image))
                layers.show_plane(item.plane)
            if not item.number:
                self._view.seen.setText("0")
                middle = (
                    a + n / 2
                    for a, n in zip(
                        (item.window.row, item.window.col), item.window.shape, strict=True
                    )
                )
                layers.look_at(*middle)
            self.review.go_to(self.counting.number or 0)
        self.show()
        if item is not None and not item.number:
            self._view.seen.setFocus()
            self._view.seen.selectAll()
        elif had_focus and (window := self._view.seen.window()) is not None:
            window.setFocus()  # which hands its keys on to the canvas

    def _choose(self, name: str, chosen: bool) -> None:
        self.run.options = replace(self.run.options, **{name: chosen})

    def _ask_largest(self) -> None:
        question = "Pixels of the largest object (0: objects of any size):"
        present = self.run.options.largest
        number = self.ask_number(self._view.suggest, "Largest object", question, present, 0)
        if number is not None:
            self.run.options = replace(self.run.options, largest=number)

    def _set_eager(self, value: int) -> None:
        self.review.eager = value / 100

    def _go_to_nearest(self) -> None:
        view, plane = self._layers.view, self._layers.plane
        if view is not None and plane is not None:
            self.review.next(view.position(plane, self._owner.viewer.cursor.position))

    def _open(self, number: int) -> None:
        self._layers.attempt(partial(self.review.open, number))

    # --- what is shown --------------------------------------------------------------

    def show(self) -> None:
        """Show the state of a run and of the proposals, and bring the current one into sight."""
        self._show_run()
        current, self._was, before = self.review.current, self.review.current, self._was
        if current and current != before:
            self._layers.look_at(*self.review.middle(current))
        self._draw_soon()

    def _show_run(self) -> None:
        self._view.show(self.run, self.review, self.counting)
        if self.run.is_running:
            self._soon.start()

    def _prepare(self) -> None:
        """Add the layers of a review, which takes a moment, before it begins: one at a time."""
        layers = self._layers.tools.layers
        overlays = () if layers is None else (layers.proposals, layers.background)
        missing = next((each for each in overlays if each.layer is None), None)
        if missing is not None:
            missing.need()
            self._soon.start()

    def _draw_soon(self) -> None:
        self._later.start()

    def _draw_large(self) -> None:
        if self._is_large:
            self._later.start()

    _is_large = False

    def _draw(self) -> None:
        """Show the proposals above the slider, and the tile that is counted."""
        layers, plane, shown = self._layers.tools.layers, self._layers.plane, self.review.visible
        image = None if plane is None else self._document.images.get(plane.image)
        if layers is None:
            return
        item, frames = self.counting.item, list[Window]()
        if plane is not None and item is not None and not item.number and item.plane == plane:
            # What is counted already has an outline, or its place has.
            places = undrawn(self._document, plane)
            frames = [*(each for each in places if each & item.window), item.window]
        layers.show_frames(frames)
        if plane is None or image is None or not shown:
            layers.show_proposals(None, {})
            return
        window = self._window(image, list(shown))
        scores = {number: each.score for number, each in shown.items()}
        labels = image.plane_labels(plane, PROPOSALS)[window.slices]
        layers.show_proposals(labels, scores, self.review.current, (window.row, window.col))

    def _window(self, image: DocumentImage, numbers: list[int]) -> Window:
        window = reduce(or_, map(image.proposal_window, numbers))
        self._is_large = window.height * window.width > _LARGE
        seen = self._layers.visible
        return window & seen if self._is_large and seen is not None else window
