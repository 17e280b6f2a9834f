"""The project of a viewer: open, copy and leave projects, and read their images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any
from weakref import ref

from napari_peftsam.app.autosave import Autosave, ProjectEvents, ProjectOwner
from napari_peftsam.app.projects import (
    ReadImage,
    read_images,
    read_located_image,
)
from napari_peftsam.app.runner import Runner, Slot, call
from napari_peftsam.document import (
    AutomaticProject,
    DocumentImage,
    ImageId,
    LocateImage,
    Store,
    create_project,
    delete_automatic,
    list_automatic,
    newest_automatic,
    open_project,
    prune_automatic,
    save_copy,
)
from napari_peftsam.errors import PeftSamError, ProjectError, count_text
from napari_peftsam.folders import project_folder, resolved
from napari_peftsam.projects import note_recent, recent_projects

_LISTED = 10  # of the projects without a name


class ProjectController:
    """The project of a viewer; everything slow runs in `runner`.

    Attributes
    ----------
    events
        See `ProjectEvents`.
    autosave
        Saves the document.
    offered
        The project without a name to resume; None if there is none.
    unnamed, recent
        Projects without a name that hold something, and the projects opened last; see `look`.
    notes
        Problems of images by their id: missing, unreadable, changed.
    can_stop
        True if `stop` can stop the present work.
    """

    def __init__(self, owner: ProjectOwner, runner: Runner) -> None:
        self._owner, self._document, self._runner = ref(owner), owner.document, runner
        self.events = ProjectEvents()
        self.autosave = Autosave(owner, runner, self.events)
        self.offered: AutomaticProject | None = None
        self.unnamed: tuple[AutomaticProject, ...] = ()
        self.recent: tuple[Path, ...] = ()
        self.notes: dict[ImageId, str] = {}
        self._doing = self._reading = ""
        self.can_stop = False
        self._waiting: list[Callable[[], object]] = []
        self._is_refusal_shown = False
        self._loader, self._worker = Slot(runner), Slot(runner)
        self._document.events.closing.connect(self._closing)
        self._document.events.opened.connect(self._opened)
        self._document.events.image_removed.connect(self._removed)
        self.events.saved.connect(self._saved)

    @property
    def name(self) -> str:
        """The project's name; empty while it has none of its own."""
        path = self._document.store.path
        return "" if path is None or self.is_automatic else path.stem

    @property
    def is_automatic(self) -> bool:
        """True for a project without a name of its own."""
        path = self._document.store.path
        return path is not None and path.parent == resolved(project_folder())

    @property
    def progress(self) -> str:
        """Present work on the project, in words; empty if there is none."""
        return self._doing or self._reading

    @property
    def missing(self) -> tuple[DocumentImage, ...]:
        """The images without pixels."""
        images = self._document.images.values()
        return tuple(image for image in images if image.pixels is None and image.id in self.notes)

    def start(self) -> None:
        """Look for a project to resume; returns at once."""

        def find() -> AutomaticProject | None:
            prune_automatic()
            return newest_automatic()

        def found(project: AutomaticProject | None) -> None:
            if self._document.store.path is None:
                self.offered = project
                self._changed()

        self._runner.start(call(find), on_done=found)

    def look(self) -> None:
        """Update `unnamed` and `recent`; returns at once."""

        def read() -> tuple[tuple[AutomaticProject, ...], tuple[Path, ...]]:
            full = [p for p in list_automatic() if p.actions and not p.problem]
            return tuple(full[:_LISTED]), recent_projects()

        def found(known: tuple[tuple[AutomaticProject, ...], tuple[Path, ...]]) -> None:
            self.unnamed, self.recent = known

        self._runner.start(call(read), on_done=found, on_error=lambda _: None)

    # --- from one project to another ----------------------------------------------------

    def open(self, path: str | Path) -> None:
        """Open a project in place of the present one; returns at once."""
        path = Path(path)
        if resolved(path) == self._document.store.path:
            self.events.informed.emit(f"{path.name} is open already")
            return
        self.work(f"Opening {path.name}…", lambda: open_project(path), self._show)

    def create(self, path: Path) -> None:
        """Begin an empty project; returns at once."""
        self.work(f"Making {path.name}…", lambda: create_project(path), self._show)

    def close(self) -> None:
        """Leave the project; all of it is saved."""
        self._tried(lambda: self._show(Store.in_memory()))

    def resume(self) -> None:
        """Open the project that is offered."""
        if self.offered is not None:
            self.open(self.offered.path)

    def delete(self, path: Path) -> None:
        """Delete a project without a name; returns at once."""
        self._runner.start(call(lambda: delete_automatic(path)), on_done=lambda _: self.look())

    def save_as(self, path: Path, *, with_images: bool = False) -> None:
        """Copy the project to a file and continue there; returns at once."""
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
            elif store.read_only:  # its writer may have changed it meanwhile
                self._show(new)
            elif document.move_to(new):
                self._moved(old)
            else:  # something was done meanwhile
                new.close()
                self.save_as(path, with_images=with_images)

        self.work(f"Saving {path.name}…", copy, copied)

    def _moved(self, automatic: Path | None) -> None:
        """Note that the document is in another file; delete its copy without a name."""
        path = self._document.store.path
        assert path is not None, "it was saved there"
        self._quietly(lambda: note_recent(path))
        self.autosave.keep_pixels()
        if automatic is not None:
            self._quietly(lambda: delete_automatic(automatic))
        self.events.informed.emit(f"Saved to {path}; everything from now on is saved there")

    def _show(self, store: Store) -> None:
        self.autosave.begin()  # nothing of the present project is lost
        try:
            if self.autosave.is_unsaved:
                raise ProjectError(
                    "the present project could not be saved: save it under a name first "
                    "(Save project as…)"
                )
            self._document.open(store)
        except PeftSamError:
            store.close()
            raise

    def _closing(self) -> None:
        self._loader.stop()
        self._reading = ""
        self.notes.clear()

    def _opened(self) -> None:
        store, owner = self._document.store, self._owner()
        self.offered, self._is_refusal_shown = None, False
        path = store.path
        if path is not None:
            self._quietly(lambda: note_recent(path))
            if store.read_only:
                self.events.warned.emit(f"{path.name} can only be read: {store.why_read_only}")
            if owner is not None:
                owner.restore_model()
        self._changed()
        images = tuple(self._document.images.values())
        if images:
            self._load(images)
        else:
            self.events.loaded.emit()

    # --- images -------------------------------------------------------------------------

    def load(self, image: str) -> None:
        """Read an image that came back to the document; returns at once."""
        if not self._loader.is_busy:  # else it is read after the others
            self._load((self._document.image(ImageId(image)),))

    def locate(self, image: ImageId, path: Path) -> None:
        """Read a missing image from where it is now; returns at once."""
        document, store = self._document, self._document.store

        def show(read: ReadImage) -> None:
            if store is not document.store or image not in document.images:
                return
            document.image(image).attach_pixels(read.pixels)
            self.notes.pop(image, None)
            self._show_image(read)
            if not store.read_only and read.source is not None:
                document.do(LocateImage(image, read.source))
            if read.note:
                self.events.warned.emit(read.note)

        entry = document.image(image)
        self.work(f"Reading {path.name}…", lambda: read_located_image(document, entry, path), show)

    def _load(self, images: Iterable[DocumentImage]) -> None:
        """Read images, first the one that was worked on last."""
        document, pending = self._document, self._document.pending.plane
        step = document.store.last_step()
        last = pending.image if pending is not None else None if step is None else step.image
        ordered = sorted(images, key=lambda image: image.id != last)

        def show(read: ReadImage) -> None:
            if read.image.id in document.images:
                self._reading = f"Reading image {read.number} of {len(ordered)}…"
                self._show_image(read)
                self._changed()

        def failed(error: Exception) -> None:
            self._reading = ""
            self.events.failed.emit(error)
            self._changed()

        self._reading = f"Reading {count_text(len(ordered), 'image')}…"
        self._loader.start(
            read_images(document, ordered),
            on_event=show, on_done=lambda _: self._loaded(), on_error=failed,
        )  # fmt: skip

    def _loaded(self) -> None:
        self._reading = ""
        if self.notes:
            self.events.warned.emit("\n".join(self.notes.values()))
        self.events.loaded.emit()
        self._changed()
        unread = [i for i in self._document.images.values() if i.pixels is None]
        late = tuple(i for i in unread if i.id not in self.notes)
        if late:  # they came back by undo meanwhile
            self._load(late)

    def _show_image(self, read: ReadImage) -> None:
        image, owner = read.image, self._owner()
        if read.note:
            self.notes[image.id] = read.note
        if read.pixels is None or owner is None:
            return
        try:
            self._document.image(image.id).attach_pixels(read.pixels)
            owner.show_image(image.id, first=read.number == 1)
        except PeftSamError as error:
            self.notes[image.id] = f"{image.name}: {error}"

    def _removed(self, image: str) -> None:
        if self.notes.pop(ImageId(image), None) is not None:
            self._changed()

    # --- errors -------------------------------------------------------------------------

    def report(self, error: PeftSamError) -> None:
        """Show why an action was refused; a failure to save also as a notification."""
        if isinstance(error, ProjectError) and not self._is_refusal_shown:
            self._is_refusal_shown = True
            text = f"{error}. What you did last is taken back."
            self.events.failed.emit(ProjectError(text))
        path = self._document.store.path
        text = str(error) if path is None else str(error).replace(str(path), path.name)
        self.events.refused.emit(text)

    def _changed(self) -> None:
        self.events.changed.emit()
        self.look()

    def _saved(self) -> None:
        self._is_refusal_shown = False
        if self.offered is not None:
            self.offered = None
            self._changed()

    def _quietly(self, function: Callable[[], object]) -> None:
        self._runner.start(call(function), on_error=lambda _: None)

    def _tried(self, action: Callable[[], object]) -> None:
        try:
            action()
        except PeftSamError as error:
            self.events.failed.emit(error)
        self._changed()

    def work(
        self,
        progress: str,
        work: Callable[[], Any] | Generator[Any, None, Any],
        on_result: Callable[[Any], object],
        on_event: Callable[[Any], str] = lambda _: "",
    ) -> None:
        """Do something slow for the project, one thing at a time; returns at once.

        Parameters
        ----------
        progress
            What is done, in words.
        work
            A function, or a generator, which can be stopped.
        on_result
            Called with the report.
        on_event
            Called with each event of a generator; returns how to go on with `progress`.
        """
        if self._doing:
            self.events.informed.emit(f"{self._doing} Wait until that is done")
            return

        def free() -> None:
            if self._waiting and not self._doing:
                self._tried(self._waiting.pop(0))
                free()

        def ended(result: Any) -> None:
            self._doing = ""
            self.events.changed.emit()  # the user may be asked something now
            self._tried(lambda: on_result(result))
            free()

        def failed(error: Exception) -> None:
            self._doing = ""
            self.events.failed.emit(error)
            self._changed()
            free()

        def heard(event: Any) -> None:
            text = on_event(event)
            if text and f"{progress} {text}" != self._doing:
                self._doing = f"{progress} {text}"
                self.events.changed.emit()

        self._doing, self.can_stop = progress, not callable(work)
        self.events.changed.emit()
        steps = call(work) if callable(work) else work
        self._worker.start(steps, on_event=heard, on_done=ended, on_error=failed)

    def when_free(self, action: Callable[[], object]) -> None:
        """Do something as soon as no other work is under way, in the order of the calls."""
        if self._doing:
            self._waiting.append(action)
        else:
            self._tried(action)

    def stop(self) -> None:
        """Stop the present work, if it can be stopped, and what waits; nothing of it is kept."""
        if self._doing and self.can_stop:
            self._worker.stop()
            self._waiting.clear()
            self._doing = ""
            self._changed()
