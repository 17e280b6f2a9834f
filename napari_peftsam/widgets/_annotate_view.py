"""The widgets of the annotate dock, and the state that they show; they change none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QFrame,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)

from napari_peftsam.app.advice import Situation, next_step, plane_text
from napari_peftsam.document import ImageId
from napari_peftsam.widgets._correct_view import CorrectView
from napari_peftsam.widgets._downloads import downloads
from napari_peftsam.widgets._images_view import ImagesView
from napari_peftsam.widgets._parts import (
    DOCK_WIDTH,
    MARGINS,
    beside,
    push_button,
    scrolled,
    set_style,
    stacked,
    timer,
    tool_button,
)
from napari_peftsam.widgets._project_menu import ProjectMenu
from napari_peftsam.widgets._review import ReviewView
from napari_peftsam.widgets._sources_view import SourcesView
from napari_peftsam.widgets._training import training_of
from napari_peftsam.widgets._training_line import TrainingLine
from napari_peftsam.widgets.keys import KEYS, keyed, keys_changed, show_changed_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_peftsam.app.prompting import PromptController
    from napari_peftsam.document import PendingObject
    from napari_peftsam.widgets._dock import Dock

_HINT_TIME = 4000  # ms
_HINT_LINES = 2
_PADDING = 10  # pixels that napari's style puts around a text
_TABLE_PART = 11  # of the column
_READY = "●"
_BLOCKED = "QLabel { background: #a3211b; color: white; }"
_NEGATIVE = "QPushButton { background: #a3211b; color: white; }"
_PANELS = {
    "Models": ("⋯", "Other models, to be downloaded"),
    "Adapters": ("⋯", "Choose, weaken, save and load finetuned adapters"),
    "Finetune": ("Finetune…", "How the model is finetuned, on which images, and how it went"),
    "Export": ("Export…", "Write the objects to files"),
}
"""Buttons of the panels: their texts and tips."""
_MARKS = {
    "none": "",
    "loading": "◌",
    "ready": _READY,
    "predicting": _READY,
    "accepting": _READY,
    "stopped": "◌",
    "failed": "⚠",
}


class AnnotateView:
    """The parts of the dock, by name, laid out in the dock and kept up to date."""

    def __init__(self, dock: Dock, prompting: PromptController, project: ProjectMenu) -> None:
        self._owner = owner = dock.viewer_session
        self._prompting = prompting
        self._document, self._layers = owner.document, owner.layers
        self._hint, self._proposal = "", 0  # the proposal that was shown last
        self._hint_timer = timer(None, _HINT_TIME)
        self.project, self.images = project, ImagesView(owner)
        self.sources = sources = SourcesView(owner)
        self.model, self.adapter = sources.model, sources.adapter
        self.correct, self.review = CorrectView(owner), ReviewView()
        self.table = self.correct.table
        self.training = TrainingLine(training_of(owner))
        self.panels = {title: tool_button(text, tip) for title, (text, tip) in _PANELS.items()}
        self.layers = tool_button("Layers", "Show napari's lists of layers and their settings")
        self.layers.setCheckable(True)
        self.layers.setChecked(True)
        self.keys = tool_button("?", "All keys (?)")
        self.next_step = _hint_label()
        self.point = _button("● Point", "point", "Click on objects to segment them")
        self.box = _button("▭ Box", "box", "Drag a box around each object")
        self.sign = _button("+", "sign", "The next points are on the object, or not on it")
        self.lasso = _tool_button("◌", "lasso", "Lasso: draw a line around each object")
        self.scribble = _tool_button("∿", "scribble", "Scribble: draw a line on each object")
        for tool in (self.point, self.box, self.lasso, self.scribble):
            tool.setCheckable(True)
        self.previous_candidate = _tool_button("◂", "previous_candidate", "Previous candidate")
        self.next_candidate = _tool_button("▸", "next_candidate", "Next candidate")
        self.candidate, self.score = QLabel(), QLabel()
        self.candidate.setToolTip("Which of the model's candidates is shown")
        self.score.setToolTip("IoU that the model predicts: a hint, not a verdict")
        self.clean = QCheckBox("clean")
        self.clean.setChecked(True)
        self.clean.setToolTip("Keep the piece that was clicked on, and fill its small holes")
        self.clean.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.preview = QCheckBox("hover")
        self.preview.setToolTip("Show the mask of a click before it is made, under the mouse")
        self.preview.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.accept = _button("✓ Accept", "accept", "Make the mask an object")
        self.discard = _button("✕ Discard", "discard", "Throw the prompts and the mask away")
        self.accept_all = _button("✓✓ Accept all", "accept_all", "Accept one object per box")
        self.replace = keyed(
            push_button(), "replace", "Replace",
            "Accept the mask in place of the objects that share half of its area, or it of theirs "
            "({})",
        )  # fmt: skip
        self.cut_out = keyed(
            push_button(), "cut_out", "Cut out",
            "Accept the mask and cut it out of other objects ({})",
        )  # fmt: skip
        self.undo = _button("↶ Undo", "undo", "")
        self.redo = _button("↷ Redo", "redo", "")
        self._lay_out(dock)
        self._hint_timer.timeout.connect(self._forget_hint)
        dock.listen(*self._connections())
        self.show_all()

    def release(self) -> None:
        """Forget the hint."""
        self._hint_timer.stop()

    def _lay_out(self, parent: QWidget) -> None:
        mask = beside(
            self.previous_candidate, self.candidate, self.next_candidate, self.score,
            self.preview, self.clean, stretch=3,
        )  # fmt: skip
        tools = beside(self.point, self.box, self.lasso, self.scribble, self.sign)
        for part in (2, 3):  # narrow ones
            tools.setStretch(part, 0)
        self._inner = inner = QWidget()
        layout = stacked(
            self.project, self.images.column(), _line(), self.next_step,
            tools, mask,
            beside(self.accept, self.discard),
            beside(self.accept_all, self.replace, self.cut_out),
            beside(self.undo, self.redo), self.review.column(),
            _line(), self.correct.column(), _line(),
            self.sources.grid(self.panels["Models"], self.panels["Adapters"]), self.training,
            beside(self.panels["Finetune"], self.panels["Export"], self.layers, self.keys),
            inside=inner, spacing=4,
        )  # fmt: skip
        layout.setContentsMargins(*MARGINS)
        layout.setStretch(_TABLE_PART, 1)
        stacked(scrolled(inner), inside=parent)
        parent.setFixedWidth(DOCK_WIDTH)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        owner, document, layers = self._owner.events, self._document.events, self._layers.events
        return (
            (owner.ready, self.sources.show),
            (owner.status_changed, self.sources.show),
            (owner.model_changed, self.sources.show),
            (downloads().arrived, self.sources.show),
            (owner.adapters_changed, self.sources.show),
            (keys_changed, self.show_keys),
            (layers.images_changed, self.images.show),
            (document.background_changed, self.images.show),
            (layers.image_changed, self.show_all),
            (layers.tool_changed, self.show_tool),
            (layers.hint, self.show_hint),
            (document.prompts_changed, self._prompts_changed),
            (layers.plane_changed, self.show_current),
            (document.candidates_changed, self.show_current),
            (document.choice_changed, self.show_current),
            (document.image_removed, self.show_current),
            (document.opened, self.show_all),
            (document.history_changed, self.show_history),
            (document.objects_changed, self.show_objects),
            (self._prompting.events.state_changed, self.show_status),
            (self.training.training.signals.changed, self.training.show_run),
            (self.training.training.signals.event, self.training.show_event),
            (self.training.training.signals.ticked, self.training.show_waiting),
        )

    def show_all(self) -> None:
        """Show everything anew."""
        self.images.show()
        self.sources.show()
        self.show_status()
        self.show_tool()
        self.show_current()
        self.show_history()
        self.show_objects()

    def show_keys(self) -> None:
        """Show the keys after some have changed."""
        show_changed_keys(self._inner)
        self.training.show_run()
        self.show_all()

    def show_status(self) -> None:
        """Show how far the embedding is."""
        state = self._prompting.state
        self.preview.setChecked(self._prompting.preview.is_wanted)
        is_mark = state.kind in _MARKS and not state.tiles
        self.images.status.setText(_MARKS[state.kind] if is_mark else f"◌ {state.progress}")
        self.images.status.setToolTip(state.reason or "Embedding of the shown plane")
        can_cancel = state.can_be_cancelled
        self.images.cancel.setVisible(can_cancel or state.kind in ("stopped", "failed"))
        self.images.cancel.setText("✕" if can_cancel else "↻")
        self.images.cancel.setToolTip("Stop embedding" if can_cancel else "Embed now")
        self.show_next_step()

    def show_tool(self) -> None:
        """Show the active tool and the sign of the next points."""
        tools = self._layers.tools
        shown: dict[str, QAbstractButton] = {
            "point": self.point, "box": self.box, "lasso": self.lasso, "scribble": self.scribble,
            "cut": self.correct.cut,
        }  # fmt: skip
        sign = "+" if tools.positive else "\N{MINUS SIGN}"
        self.sign.setText(f"{sign}  {KEYS['sign'].shown}")
        set_style(self.sign, "" if tools.positive else _NEGATIVE)
        for name, button in shown.items():
            button.setChecked(tools.tool == name)
        for mode, brush in self.correct.brushes.items():
            brush.setChecked(tools.brush == mode)
        for each in (*shown.values(), self.sign, *self.correct.brushes.values()):
            each.setEnabled(self._layers.image is not None)
        self.show_next_step()

    def show_current(self) -> None:
        """Show the candidates of the object being made."""
        current = self._current
        candidates = None if current is None else current.candidates
        number = 0 if candidates is None else len(candidates)
        choice = 0 if current is None else current.choice
        self.candidate.setText(f"{choice + 1}/{number}" if number else "")
        score = None if current is None else current.score
        self.score.setText("" if score is None else f"{score:.2f}")
        for button in (self.previous_candidate, self.next_candidate):
            button.setEnabled(number > 1)
        for answer in (self.accept, self.replace, self.cut_out):
            answer.setEnabled(number > 0)
        if self._document.current is None and self.review.accept.isEnabled():
            self.accept.setEnabled(True)
        self.discard.setEnabled(self._document.current is not None)
        queued = 0 if current is None else len(self._document.queue)
        self.accept_all.setEnabled(queued > 1)
        self.accept_all.setText(f"✓✓ All {queued or ''}  {KEYS['accept_all'].shown}")
        self.show_next_step()

    @property
    def _current(self) -> PendingObject | None:
        """The pending object, if it lies in the shown plane."""
        current = self._document.current
        is_here = current is not None and current.plane == self._layers.plane
        return current if is_here else None

    def show_history(self) -> None:
        """Show whether there is something to undo and to redo, and what."""
        document = self._document
        for button, verb, label in (
            (self.undo, "undo", document.undo_label),
            (self.redo, "redo", document.redo_label),
        ):
            button.setEnabled(label is not None)
            key = KEYS[verb].shown
            button.setToolTip(f"{verb.title()} {label} ({key})" if label else f"Nothing to {verb}")

    def show_objects(self, image: str | None = None) -> None:
        """Show the objects of the chosen image."""
        shown = self._layers.image_id
        if image is None or image == shown:
            self.table.objects.show_image(shown)
            self.images.show()
            self.correct.show_objects(self._objects)
            self.show_buttons()
            self.show_next_step()

    @property
    def _objects(self) -> int:
        """The number of objects of the annotated image."""
        image = self._document.images.get(self._layers.image_id or ImageId(""))
        return 0 if image is None else len(image.records)

    def show_buttons(self) -> None:
        """Show what can be done to the selected objects."""
        plane = self._layers.plane
        self.correct.show_selection(is_stack=plane is not None and bool(plane.index))

    def show_hint(self, hint: str) -> None:
        """Show for some seconds why something was not done."""
        self.show_news(f"⚠ {hint}")

    def show_news(self, news: str) -> None:
        """Show for some seconds what was done."""
        self._hint = news
        self._hint_timer.start()
        self.show_next_step()

    def show_next_step(self) -> None:
        """Show the hint if there is one, else what to do next."""
        current, elsewhere = self._current, ""
        if current is None and self._document.current is not None:
            plane = self._document.current.plane
            elsewhere = plane_text(self._document.image(plane.image).name, plane.index)
        mask = None if current is None else current.mask
        state = self._prompting.state
        situation = Situation(
            state.kind,
            state.reason,
            state.progress,
            has_image=self._layers.image is not None,
            prompts=0 if current is None else len(self._document.queue),
            elsewhere=elsewhere,
            has_mask=mask is not None,
            is_empty=mask is not None and not mask.any(),
            tool=self._layers.tools.tool,
            objects=self._objects,
            painting=self._layers.tools.painting,
            reopens=0 if current is None else current.reopens,
            blocked=self._layers.why_no_plane,
            point_key=KEYS["point"].shown,
            proposal_keys=self._proposal_keys,
        )
        set_style(self.next_step, _BLOCKED if situation.blocked else "")
        text = self._hint or next_step(situation)
        if text != self.next_step.text():
            self.next_step.setText(text)
            self.next_step.setToolTip(text)

    def _prompts_changed(self) -> None:
        """Show the prompts; a hint about earlier ones is out of date."""
        self._hint = ""
        self.show_current()

    def show_proposal(self) -> None:
        """Show what keys do to the proposal that is looked at; with another one, news are old."""
        if self.review.current not in {0, self._proposal}:
            self._hint = ""
        self._proposal = self.review.current
        self.show_current()

    @property
    def _proposal_keys(self) -> tuple[str, ...]:
        """The keys that judge the proposal that is looked at."""
        names = ("accept", "nothing_here", "wrong_outline") if self.review.current else ()
        return tuple(KEYS[name].shown for name in names)

    def _forget_hint(self) -> None:
        self._hint = ""
        self.show_next_step()


def _button(text: str, action: str, tip: str) -> QPushButton:
    return keyed(push_button(), action, f"{text}  {{}}", f"{tip} ({{}})".strip())


def _tool_button(text: str, action: str, tip: str) -> QToolButton:
    return keyed(tool_button(text, ""), action, text, f"{tip} ({{}})")


def _hint_label() -> QLabel:
    """Return a label of one height whatever it says, so that no button moves below the mouse."""
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    label.setAlignment(Qt.AlignmentFlag.AlignTop)
    label.setFixedHeight(_HINT_LINES * label.fontMetrics().lineSpacing() + _PADDING)
    return label


def _line() -> QFrame:
    line = QFrame()
    line.setFrameShape(QFrame.Shape.HLine)
    return line
