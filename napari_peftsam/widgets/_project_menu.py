"""The project menu: what a user can do with projects, and what the dock says of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QMenu

from napari_peftsam.document import (
    AutomaticProject,
    DocumentImage,
    delete_automatic,
    list_automatic,
)
from napari_peftsam.widgets._dialogs import ask_open, ask_save, ask_yes, with_ending
from napari_peftsam.widgets._worker import notify, run

if TYPE_CHECKING:
    from qtpy.QtGui import QAction

    from napari_peftsam.widgets._project_row import ProjectRow
    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["ProjectMenu"]

_FILES = "Projects (*.peftsam)"
_ENDING = ".peftsam"
_LISTED = 10  # of the projects without a name


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
        for signal, slot in self._connections():
            signal.connect(slot)
        self._show()
        self._look()

    def release(self) -> None:
        """Listen no more."""
        for signal, slot in self._connections():
            signal.disconnect(slot)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        return (
            (self._row.menu.aboutToShow, self._fill),
            (self._row.go_on.clicked, self._go_on),
            (self._projects.events.changed, self._changed),
            (self._owner.autosave.events.saved, self._show),
        )

    # --- what the user does ---------------------------------------------------------

    def _go_on(self) -> None:
        self._projects.go_on()

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
        suggestion = f"{self._projects.name or _title(self._names())}{_ENDING}"
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
        menu, projects = self._row.menu, self._projects
        menu.clear()
        menu.setToolTipsVisible(True)
        _add(menu, "New…", self.new)
        _add(menu, "Open…", self.open)
        nameless = [(_offer(p), p.path, not p.is_open) for p in self._automatic]
        self._add_list(menu, "Go on with", nameless, projects.open)
        recent = [(path.stem, path, path.exists()) for path in self.recent]
        self._add_list(menu, "Recent projects", recent, projects.open)
        self._add_list(menu, "Delete", nameless, self.delete)
        menu.addSeparator()
        images = self._document.images.values()
        for text, with_images in (("Save project as…", False), ("Save with images…", True)):
            action = _add(menu, text, partial(self.save_as, with_images=with_images))
            action.setEnabled(bool(images))
        _add(menu, "Import project…", self.import_project).setEnabled(bool(images))
        missing = menu.addMenu("Locate image")
        assert missing is not None
        for image in projects.images.missing:
            _add(missing, f"{image.name}…", partial(self.locate, image))
        missing.setEnabled(bool(projects.images.missing))
        menu.addSeparator()
        has_file = self._document.store.path is not None
        _add(menu, "Close project", projects.close).setEnabled(has_file)

    def _add_list(
        self,
        menu: QMenu,
        title: str,
        entries: list[tuple[str, Path, bool]],
        slot: Callable[[Path], object],
    ) -> None:
        listed = menu.addMenu(title)
        assert listed is not None
        listed.setToolTipsVisible(True)
        for text, path, enabled in entries:
            if path != self._document.store.path:
                action = _add(listed, text, partial(slot, path))
                action.setToolTip(str(path))
                action.setEnabled(enabled)
        listed.setEnabled(bool(listed.actions()))

    def _look(self) -> None:
        """Find out in a thread which projects there are: each one is opened for it."""

        def look() -> tuple[list[AutomaticProject], tuple[Path, ...]]:
            from napari_peftsam.projects import recent_projects

            full = [p for p in list_automatic() if p.actions and not p.problem]
            return full[:_LISTED], recent_projects()

        def found(result: tuple[list[AutomaticProject], tuple[Path, ...]]) -> None:
            self._automatic, self.recent = result

        run(look, on_result=found, on_error=lambda _: None, group=self._owner.workers)

    # --- the row --------------------------------------------------------------------

    def _changed(self) -> None:
        self._show()
        self._look()

    def _show(self) -> None:
        row, projects, store = self._row, self._projects, self._document.store
        nameless = "not named yet" if projects.is_automatic else "saved with the first prompt"
        row.name.setText(projects.name or nameless)
        row.name.setToolTip("" if store.path is None else str(store.path))
        time = self._owner.autosave.time
        row.saved.setText("read-only" if store.read_only else f"saved {time}" if time else "")
        row.show_note(self._note())
        offered = projects.offered
        text = "" if offered is None else f"Go on with {_offer(offered)}"
        row.show_offer(text, "" if offered is None else _tip(offered))

    def _note(self) -> str:
        projects, store = self._projects, self._document.store
        if projects.progress:
            return f"◌ {projects.progress}"
        if store.read_only:
            why = store.why_read_only.removeprefix("it is ")
            return f"⚠ Read-only: {why}. Save it under another name."
        missing = [image.name for image in projects.images.missing]
        if missing:
            return f"⚠ Not found: {_title(missing)}. Project ▾ Locate image finds it again."
        return ""

    def _names(self) -> list[str]:
        return [image.name for image in self._document.images.values()]


def _add(menu: QMenu, text: str, slot: Callable[[], object]) -> QAction:
    action = menu.addAction(text.replace("&", "&&"))
    assert action is not None
    action.triggered.connect(lambda _=False: slot())
    return action


def _title(names: list[str]) -> str:
    """Return the first name, and how many there are beside it."""
    if not names:
        return "project"
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def _offer(project: AutomaticProject) -> str:
    objects = f"{project.objects} object{'' if project.objects == 1 else 's'}"
    return f"{_title(list(project.images))} ({_local_time(project.time)}, {objects})"


def _tip(project: AutomaticProject) -> str:
    ended = "ended unexpectedly" if project.is_interrupted else "was closed without a name"
    return f"{', '.join(project.images)}: the last session {ended}, everything is saved"


def _local_time(time: str) -> str:
    try:
        then = datetime.fromisoformat(time).astimezone()
    except ValueError:
        return time
    today = then.date() == datetime.now().astimezone().date()
    return then.strftime("%H:%M" if today else "%d %b %H:%M")
