"""The project of the annotate dock: its menu, its name, and its problems."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QLabel, QWidget

from napari_peftsam.app.projects import (
    describe_offer,
    explain_offer,
    project_note,
    project_title,
)
from napari_peftsam.widgets._dialogs import ask_open, ask_save, ask_yes, with_ending
from napari_peftsam.widgets._imports import PROJECTS, FileQuestions
from napari_peftsam.widgets._parts import (
    ElidedButton,
    ElidedLabel,
    add_entry,
    add_menu,
    beside,
    push_button,
    stacked,
    text_label,
    tool_button,
)

if TYPE_CHECKING:
    from napari_peftsam.document import DocumentImage
    from napari_peftsam.widgets.session import ViewerSession

_ENDING = ".peftsam"


class ProjectMenu(QWidget):
    """A project's menu and name, the time it was saved, and its problems.

    Attributes
    ----------
    menu
        Opens below the button.
    files
        Asks for files and how to read them.
    name, saved, note
        Texts.
    go_on
        Opens the project that the last session left.
    stop
        Stops what is being read.
    ask_open, ask_save, ask_yes
        The dialogs.
    """

    def __init__(self, owner: ViewerSession) -> None:
        super().__init__()
        self.ask_open, self.ask_save, self.ask_yes = ask_open, ask_save, ask_yes
        self._projects, self._document = owner.projects, owner.document
        self.files = FileQuestions(owner, self)
        tip = "New, open, save under a name, import, locate images"
        self.button = tool_button("Project ▾", tip)
        self.menu = add_menu(self.button)
        self.name, self.saved, self.note = ElidedLabel(), QLabel(), text_label()
        self.go_on = ElidedButton()
        self.stop = push_button("✕", "Stop it; nothing of it is kept")
        row = beside(self.button, self.name, self.saved, stretch=1)
        note = beside(self.note, self.stop, stretch=0)
        stacked(row, self.go_on, note, inside=self, spacing=3)
        self.menu.aboutToShow.connect(self._fill)
        self.go_on.clicked.connect(self._projects.resume)
        self.stop.clicked.connect(self._projects.stop)
        self.show_project()
        self._projects.look()

    # --- actions of the user --------------------------------------------------------

    def new(self) -> None:
        """Ask for a name and begin an empty project."""
        path = self._ask_save("New project", "project.peftsam")
        if path is not None:
            self._projects.create(path)

    def open(self) -> None:
        """Ask for a project and open it."""
        path = self.ask_open(self, "Open a project", PROJECTS)
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
        if self.ask_yes(self, "Delete project", question):
            self._projects.delete(path)

    def locate(self, image: DocumentImage) -> None:
        """Ask for the file of a missing image."""
        path = self.ask_open(self, f"Where is {image.name}?", "Images (*)")
        if path is not None:
            self._projects.locate(image.id, path)

    def _ask_save(self, title: str, suggestion: str) -> Path | None:
        return self.ask_save(self, title, suggestion, PROJECTS, with_ending(_ENDING))

    # --- the menu -------------------------------------------------------------------

    def _fill(self) -> None:
        menu, projects, path = self.menu, self._projects, self._document.store.path
        files = self.files
        has_images, missing = bool(self._document.images), projects.missing
        unnamed = [(describe_offer(p), p.path, not p.is_open) for p in projects.unnamed]
        recent = [(path.stem, path, path.exists()) for path in projects.recent]
        menu.clear()
        add_entry(menu, "New…", self.new)
        add_entry(menu, "Open…", self.open)
        self._add_list("Go on with", unnamed, projects.open)
        self._add_list("Recent projects", recent, projects.open)
        self._add_list("Delete", unnamed, self.delete)
        menu.addSeparator()
        save_with_images = partial(self.save_as, with_images=True)
        add_entry(menu, "Save project as…", self.save_as).setEnabled(has_images)
        add_entry(menu, "Save with images…", save_with_images).setEnabled(has_images)
        add_entry(menu, "Import project…", files.import_project).setEnabled(has_images)
        menu.addSeparator()
        add_entry(menu, "Add images…", files.add_images)
        add_entry(menu, "Import labels…", files.import_labels).setEnabled(files.image is not None)
        add_entry(menu, "Axes and channels…", files.read_again).setEnabled(files.file is not None)
        listed = add_menu(menu, "Locate image")
        for image in missing:
            add_entry(listed, f"{image.name}…", partial(self.locate, image))
        listed.setEnabled(bool(missing))
        menu.addSeparator()
        add_entry(menu, "Close project", projects.close).setEnabled(path is not None)

    def _add_list(
        self,
        title: str,
        entries: Iterable[tuple[str, Path, bool]],
        slot: Callable[[Path], object],
    ) -> None:
        listed = add_menu(self.menu, title)
        for text, path, enabled in entries:
            if path != self._document.store.path:
                add_entry(listed, text, partial(slot, path), str(path)).setEnabled(enabled)
        listed.setEnabled(bool(listed.actions()))

    # --- the texts ------------------------------------------------------------------

    def show_project(self) -> None:
        """Show the present project: its name, its problems, and the one to resume."""
        projects, store = self._projects, self._document.store
        unnamed = "unnamed" if projects.is_automatic else "saved with the first prompt"
        self.name.setText(projects.name or unnamed)
        self.name.setToolTip("" if store.path is None else str(store.path))
        time = projects.autosave.time
        self.saved.setText("read-only" if store.read_only else f"saved {time}" if time else "")
        missing = [image.name for image in projects.missing]
        note, offered = project_note(store, projects.progress, missing), projects.offered
        self.note.setText(note)
        self.note.setVisible(bool(note))
        self.stop.setVisible(bool(projects.progress) and projects.can_stop)
        self.go_on.setVisible(offered is not None)
        if offered is not None:
            self.go_on.setText(f"Go on with {describe_offer(offered)}")
            self.go_on.setToolTip(f"{self.go_on.text()}\n{explain_offer(offered)}")
