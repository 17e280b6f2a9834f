"""Opens, copies and leaves projects in a viewer, and brings their images into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from napari.utils.notifications import show_error, show_info, show_warning
from psygnal import Signal

from napari_peftsam.app.projects import ObjectImport, read_objects
from napari_peftsam.document import (
    AutomaticProject,
    ImageId,
    Store,
    create_project,
    delete_automatic,
    newest_automatic,
    open_project,
    prune_automatic,
    save_copy,
)
from napari_peftsam.errors import PeftSamError, ProjectError
from napari_peftsam.folders import project_folder
from napari_peftsam.widgets._project_images import ProjectImages
from napari_peftsam.widgets._runner import Worker, notify, run

if TYPE_CHECKING:
    from napari_peftsam.widgets.session import ViewerSession

__all__ = ["Projects"]


class Projects:
    """The project of a viewer; GUI thread only, all that is slow runs in workers.

    Parameters
    ----------
    owner
        The viewer's session.

    Attributes
    ----------
    offered
        The project without a name to go on with; None if there is none.
    images
        Reads and shows the project's images.
    """

    changed = Signal()
    """There is another project, or other news of it."""

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self._document, self._workers = owner.document, owner.workers
        self.offered: AutomaticProject | None = None
        self.images = ProjectImages(owner)
        self._doing = ""
        self._is_refusal_shown = False
        self._at_work: Worker[Any] | None = None
        self.images.changed.connect(self.changed.emit)
        self._document.events.opened.connect(self._opened)
        owner.autosave.saved.connect(self._saved)

    @property
    def owner(self) -> ViewerSession:
        """The viewer's session."""
        owner = self._owner()
        assert owner is not None, "it keeps this"
        return owner

    @property
    def name(self) -> str:
        """The project's name; empty while it has none of its own."""
        path = self._document.store.path
        return "" if path is None or self.is_automatic else path.stem

    @property
    def is_automatic(self) -> bool:
        """Whether the project has no name of its own."""
        path = self._document.store.path
        return path is not None and path.parent == project_folder().resolve()

    @property
    def progress(self) -> str:
        """Present work on the project, in words; empty if there is none."""
        return self._doing or self.images.progress

    def start(self) -> None:
        """Look for a project to go on with; returns at once."""

        def look() -> AutomaticProject | None:
            prune_automatic()
            return newest_automatic()

        def found(project: AutomaticProject | None) -> None:
            if self._document.store.path is None:
                self.offered = project
                self.changed.emit()

        run(look, on_result=found, group=self._workers)

    # --- from one project to another ----------------------------------------------------

    def open(self, path: str | Path) -> None:
        """Open a project in place of the present one; returns at once."""
        if Path(path).expanduser().resolve() == self._document.store.path:
            show_info(f"{Path(path).name} is open already")
            return
        self._work(f"Opening {Path(path).name}…", lambda: open_project(path), self._show)

    def create(self, path: Path) -> None:
        """Begin an empty project; returns at once."""
        self._work(f"Making {path.name}…", lambda: create_project(path), self._show)

    def close(self) -> None:
        """Leave the project; all of it is saved."""
        self._show(Store.in_memory())

    def go_on(self) -> None:
        """Open the project that is offered."""
        if self.offered is not None:
            self.open(self.offered.path)

    def save_as(self, path: Path, *, with_images: bool = False) -> None:
        """Copy the project to a file and go on there; returns at once."""
        document, store = self._document, self._document.store
        old = store.path if self.is_automatic else None
        pixels = {
            image.id: image.pixels
            for image in document.images.values()
            if image.pixels is not None and with_images
        }

        def copy() -> Store:
            save_copy(store, path, pixels)
            return open_project(path, must_write=True)

        def copied(new: Store) -> None:
            if store is not document.store:  # another project was opened meanwhile
                new.close()
            elif store.read_only:  # what is open elsewhere may have gone on
                self._show(new)
            elif document.move_to(new):
                self._moved(old)
            else:  # something was done meanwhile
                new.close()
                self.save_as(path, with_images=with_images)

        self._work(f"Saving {path.name}…", copy, copied)

    def _moved(self, automatic: Path | None) -> None:
        """Note that the document is in another file; a copy without a name goes."""
        path = self._document.store.path
        self._note_recent()
        self.owner.autosave.keep_pixels()
        if automatic is not None:
            run(lambda: delete_automatic(automatic), on_error=lambda _: None, group=self._workers)
        show_info(f"Saved to {path}; everything from now on is saved there")
        self.changed.emit()

    def _show(self, store: Store) -> None:
        self.owner.autosave.begin()  # nothing of the present project is lost
        try:
            if self.owner.autosave.is_unsaved:
                raise ProjectError(
                    "the present project could not be saved: save it under a name first "
                    "(Save project as…)"
                )
            self._document.open(store)
        except PeftSamError as error:
            store.close()
            self._failed(error)

    def _opened(self) -> None:
        store, owner = self._document.store, self.owner
        self.offered, self._is_refusal_shown = None, False
        if store.path is not None:
            self._note_recent()
            if store.read_only:
                show_warning(f"{store.path.name} can only be read: {store.why_read_only}")
            owner.restore_model()
        self.changed.emit()
        self.images.load_all()

    def _note_recent(self) -> None:
        path = self._document.store.path

        def note() -> None:
            from napari_peftsam.projects import note_recent

            if path is not None:
                note_recent(path)

        run(note, group=self._workers)

    # --- images -------------------------------------------------------------------------

    def locate(self, image: ImageId, path: Path) -> None:
        """Read a missing image from where it is now; returns at once."""
        self._work(f"Reading {path.name}…", *self.images.locating(image, path))

    # --- objects of others --------------------------------------------------------------

    def import_from(self, path: Path) -> None:
        """Add the objects of a colleague's project, image by image; returns at once."""
        document, number = self._document, self._document.store.next_number

        def done(found: ObjectImport) -> None:
            if number != document.store.next_number:  # objects have changed meanwhile
                self.import_from(path)
                return
            for action in found.actions:
                document.do(action)
            show_info(found.report)

        self._work(f"Importing {path.name}…", lambda: read_objects(document, path), done)

    # --- what goes wrong ----------------------------------------------------------------

    def report(self, error: PeftSamError) -> None:
        """Show why an action was refused; a failure to save also as a notification."""
        if isinstance(error, ProjectError) and not self._is_refusal_shown:
            self._is_refusal_shown = True
            show_error(f"{error}. What you did last is taken back.")
        path = self._document.store.path
        text = str(error) if path is None else str(error).replace(str(path), path.name)
        self.owner.layers.events.hint.emit(text)

    def _saved(self) -> None:
        self._is_refusal_shown = False
        if self.offered is not None:
            self.offered = None
            self.changed.emit()

    def _failed(self, error: Exception) -> None:
        self._doing = ""
        notify(error)
        self.changed.emit()

    def _work(
        self, progress: str, work: Callable[[], Any], on_result: Callable[[Any], object]
    ) -> None:
        """Do something slow with projects; one at a time."""
        if self._at_work is not None and self._at_work.is_running:
            show_info(f"{self.progress} Wait until that is done")
            return

        def ended(result: Any) -> None:
            self._at_work, self._doing = None, ""
            try:
                on_result(result)
            except PeftSamError as error:
                notify(error)
            self.changed.emit()

        def failed(error: Exception) -> None:
            self._at_work = None
            self._failed(error)

        self._doing = progress
        self._at_work = run(work, on_result=ended, on_error=failed, group=self._workers)
        self.changed.emit()
