"""The project of the annotate dock: its menu, its name, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QLabel,
    QMenu,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QWidget,
)

from napari_peftsam.app.projects import (
    describe_offer,
    explain_offer,
    known_projects,
    project_note,
    project_title,
)
from napari_peftsam.document import AutomaticProject, DocumentImage, delete_automatic
from napari_peftsam.widgets._dialogs import ask_open, ask_save, ask_yes, with_ending
from napari_peftsam.widgets._parts import beside, stacked, text_label
from napari_peftsam.widgets._runner import notify, run

if TYPE_CHECKING:
    from qtpy.QtGui import QAction

    from napari_peftsam.widgets.session import ViewerSession

__all__ = ["ProjectMenu", "ProjectRow"]

_FILES = "Projects (*.peftsam)"
_ENDING = ".peftsam"


class ProjectRow(QWidget):
    """The project's menu and name, when it was saved, and what is wrong with it.

    Attributes
    ----------
    menu
        Opens below the button.
    name, saved, note
        Texts.
    go_on
        Opens the project that the last session left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.menu = QMenu(self)
        self.button = QToolButton()
        self.button.setText("Project ▾")
        self.button.setToolTip("New, open, save under a name, import, locate images")
        self.button.setAutoRaise(True)
        self.button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.button.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        self.button.setMenu(self.menu)
        self.name, self.saved, self.note = _ElidedLabel(), QLabel(), text_label()
        self.go_on = QPushButton()
        self.go_on.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.go_on.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        row = beside(self.button, self.name, self.saved, stretch=1)
        stacked(row, self.go_on, self.note, inside=self, spacing=3)

    def show_note(self, text: str) -> None:
        """Show a text below the row; an empty one takes no room."""
        self.note.setText(text)
        self.note.setVisible(bool(text))

    def show_offer(self, text: str, tip: str = "") -> None:
        """Offer to go on with a project; an empty text takes the offer back."""
        self.go_on.setText(text)
        self.go_on.setToolTip(tip)
        self.go_on.setVisible(bool(text))


class _ElidedLabel(QLabel):
    """A label that is cut off where the dock is too narrow, instead of widening it."""

    def minimumSizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        return QSize(24, super().minimumSizeHint().height())

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802
        painter = QPainter(self)
        text = self.fontMetrics().elidedText(
            self.text(), Qt.TextElideMode.ElideMiddle, self.width()
        )
        painter.drawText(self.rect(), int(Qt.AlignmentFlag.AlignVCenter), text)


class ProjectMenu:
    """Fills the menu and the texts of a `ProjectRow`.

    Parameters
    ----------
    row
        The parts to fill.
    owner
        The viewer's session.

    Attributes
    ----------
    ask_open, ask_save, ask_yes
        The dialogs.
    recent
        The projects opened lately, the newest first.
    """

    def __init__(self, row: ProjectRow, owner: ViewerSession) -> None:
        self.ask_open, self.ask_save, self.ask_yes = ask_open, ask_save, ask_yes
        self._row, self._owner = row, owner
        self._projects, self._document = owner.projects, owner.document
        self._automatic: list[AutomaticProject] = []
        self.recent: tuple[Path, ...] = ()
        row.menu.aboutToShow.connect(self._fill)
        row.go_on.clicked.connect(self._projects.go_on)
        self._projects.changed.connect(self._changed)
        owner.autosave.saved.connect(self._show)
        self._changed()

    def release(self) -> None:
        """Listen no more."""
        self._projects.changed.disconnect(self._changed)
        self._owner.autosave.saved.disconnect(self._show)

    # --- what the user does ---------------------------------------------------------

    def new(self) -> None:
        """Ask for a name and begin an empty project."""
        path = self._ask_save("New project", "project.peftsam")
        if path is not None:
            self._projects.create(path)

    def open(self) -> None:
        """Ask for a project and open it."""
        path = self.ask_open(self._row, "Open a project", _FILES)
        if path is not None:
            self._projects.open(path)

    def save_as(self, *, with_images: bool = False) -> None:
        """Ask for a name and save the project under it."""
        names = [image.name for image in self._document.images.values()]
        suggestion = f"{self._projects.name or project_title(names)}{_ENDING}"
        path = self._ask_save("Save project as", suggestion)
        if path is not None:
            self._projects.save_as(path, with_images=with_images)

    def delete(self, path: Path) -> None:
        """Delete a project without a name, if the user is sure."""
        question = "Its objects and adapters are lost. Delete the project?"
        if self.ask_yes(self._row, "Delete project", question):
            run(
                lambda: delete_automatic(path),
                on_result=lambda _: self._look(),
                on_error=notify,
                group=self._owner.workers,
            )

    def import_project(self) -> None:
        """Ask for a project and add its objects."""
        path = self.ask_open(self._row, "Import the objects of a project", _FILES)
        if path is not None:
            self._projects.import_from(path)

    def locate(self, image: DocumentImage) -> None:
        """Ask where the file of a missing image is."""
        path = self.ask_open(self._row, f"Where is {image.name}?", "Images (*)")
        if path is not None:
            self._projects.locate(image.id, path)

    def _ask_save(self, title: str, suggestion: str) -> Path | None:
        return self.ask_save(self._row, title, suggestion, _FILES, with_ending(_ENDING))

    # --- the menu -------------------------------------------------------------------

    def _fill(self) -> None:
        menu, projects, path = self._row.menu, self._projects, self._document.store.path
        has_images, missing = bool(self._document.images), projects.images.missing
        unnamed = [(describe_offer(p), p.path, not p.is_open) for p in self._automatic]
        recent = [(path.stem, path, path.exists()) for path in self.recent]
        menu.clear()
        menu.setToolTipsVisible(True)
        _add(menu, "New…", self.new)
        _add(menu, "Open…", self.open)
        self._add_list(menu, "Go on with", unnamed, projects.open)
        self._add_list(menu, "Recent projects", recent, projects.open)
        self._add_list(menu, "Delete", unnamed, self.delete)
        menu.addSeparator()
        _add(menu, "Save project as…", self.save_as, has_images)
        _add(menu, "Save with images…", partial(self.save_as, with_images=True), has_images)
        _add(menu, "Import project…", self.import_project, has_images)
        listed = _add_menu(menu, "Locate image")
        for image in missing:
            _add(listed, f"{image.name}…", partial(self.locate, image))
        listed.setEnabled(bool(missing))
        menu.addSeparator()
        _add(menu, "Close project", projects.close, path is not None)

    def _add_list(
        self,
        menu: QMenu,
        title: str,
        entries: Iterable[tuple[str, Path, bool]],
        slot: Callable[[Path], object],
    ) -> None:
        listed = _add_menu(menu, title)
        for text, path, enabled in entries:
            if path != self._document.store.path:
                _add(listed, text, partial(slot, path), enabled).setToolTip(str(path))
        listed.setEnabled(bool(listed.actions()))

    def _look(self) -> None:
        """Find out in a thread which projects there are: each one is opened for it."""

        def found(result: tuple[list[AutomaticProject], tuple[Path, ...]]) -> None:
            self._automatic, self.recent = result

        group = self._owner.workers
        run(known_projects, on_result=found, on_error=lambda _: None, group=group)

    # --- the row --------------------------------------------------------------------

    def _changed(self) -> None:
        self._show()
        self._look()

    def _show(self) -> None:
        row, projects, store = self._row, self._projects, self._document.store
        unnamed = "not named yet" if projects.is_automatic else "saved with the first prompt"
        row.name.setText(projects.name or unnamed)
        row.name.setToolTip("" if store.path is None else str(store.path))
        time = self._owner.autosave.time
        row.saved.setText("read-only" if store.read_only else f"saved {time}" if time else "")
        missing = [image.name for image in projects.images.missing]
        row.show_note(project_note(store, projects.progress, missing))
        if projects.offered is None:
            row.show_offer("")
        else:
            offered = projects.offered
            row.show_offer(f"Go on with {describe_offer(offered)}", explain_offer(offered))


def _add(menu: QMenu, text: str, slot: Callable[[], object], enabled: bool = True) -> QAction:
    action = menu.addAction(text.replace("&", "&&"))
    assert action is not None
    action.triggered.connect(lambda _=False: slot())
    action.setEnabled(enabled)
    return action


def _add_menu(menu: QMenu, title: str) -> QMenu:
    added = menu.addMenu(title)
    assert added is not None
    added.setToolTipsVisible(True)
    return added
