"""Files that come into a viewer: images, labels, centres, and the objects of other projects."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from napari_peftsam.app.autosave import ProjectOwner
from napari_peftsam.app.project_controller import ProjectController
from napari_peftsam.app.projects import ObjectImport, read_objects
from napari_peftsam.app.prompt_state import WorkspaceHolder
from napari_peftsam.app.refine import (
    Drawn,
    PlanePredicted,
    added,
    predict_centres,
    refine_objects,
    refined,
)
from napari_peftsam.app.runner import call
from napari_peftsam.app.stacks import Continued, continue_objects, continued_labels
from napari_peftsam.document import (
    AcceptObjects,
    DocumentImage,
    ImageId,
    ImageSource,
    PlaneKey,
    RemoveImage,
)
from napari_peftsam.errors import (
    ConfigurationError,
    ImageError,
    InputFileError,
    PeftSamError,
    UndecidedError,
    count_text,
)
from napari_peftsam.files import ImageFile, find_images, open_image, read_centres
from napari_peftsam.geometry import sizes
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ReadOptions
from napari_peftsam.projects import Imported, read_label_file, source_of

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Undecided:
    """Files that can be read in more than one way.

    Attributes
    ----------
    paths
        The files.
    options
        Those that they were read with.
    error
        What is undecided in the first of them.
    image
        The image that is read again; None for new ones.
    """

    paths: tuple[Path, ...]
    options: ReadOptions
    error: UndecidedError
    image: ImageId | None = None


class ImportOwner(ProjectOwner, WorkspaceHolder, Protocol):
    """A project owner whose viewer shows files, and which has a model."""

    def show_file(self, path: Path, file: ImageFile, *, first: bool) -> None:
        """Show an image file; annotate it if it is the first."""

    def replace_image(self, image: ImageId, file: ImageFile, source: ImageSource) -> None:
        """Show other channels of an image's file under its objects."""


class ImportController:
    """Reads files for a viewer and its project; one at a time, each can be stopped.

    Questions and results are signals of `ProjectController.events`.
    """

    def __init__(self, owner: ImportOwner, projects: ProjectController) -> None:
        self._owner, self._projects, self._document = ref(owner), projects, owner.document
        self._events = projects.events

    # --- images -------------------------------------------------------------------------

    def open_images(self, paths: Iterable[Path], options: ReadOptions = AS_THE_FILE_SAYS) -> None:
        """Read image files, folders and patterns, and show them; returns at once."""
        owner = self._owner()
        if owner is not None:
            workspace = owner.workspace
            channels = "" if workspace is None else workspace.channels
            work = _read_files(tuple(paths), replace(options, default_channels=channels))

            def show(read: _ReadFile) -> str:
                owner.show_file(read.path, read.file, first=read.is_first)
                return f"{read.number} of {read.total}"

            self._projects.work("Reading images…", work, self._opened, show)

    def _opened(self, report: _FilesReport) -> None:
        if report.undecided is not None:
            self._events.undecided.emit(report.undecided)
        if report.errors:
            more = f" ({len(report.errors) - 1} more failed)" if len(report.errors) > 1 else ""
            self._events.failed.emit(InputFileError(f"{report.errors[0]}{more}"))

    def read_again(self, image: ImageId, path: Path, options: ReadOptions) -> None:
        """Read an image's file in another way, as other channels; returns at once."""
        entry, owner = self._document.image(image), self._owner()
        project = self._document.store.path

        def read() -> tuple[ImageFile, ImageSource] | Undecided:
            try:
                file = open_image(path, options)
            except UndecidedError as error:
                return Undecided((path,), options, error, image)
            if file.shape != entry.shape and entry.records:
                raise ImageError(
                    f"{entry.name} would have {sizes(file.shape)} pixels instead of "
                    f"{sizes(entry.shape)}, which its objects have: add the file as another image"
                )
            return file, source_of(path, file, project)

        def done(found: tuple[ImageFile, ImageSource] | Undecided) -> None:
            if isinstance(found, Undecided):
                self._events.undecided.emit(found)
            elif owner is not None and self._is_there(entry):
                file, source = found
                if file.shape == entry.shape:
                    owner.replace_image(image, file, source)
                else:  # it has no objects
                    self._document.do(RemoveImage(image))
                    owner.show_file(path, file, first=True)
                self._check_channels(entry.name, file.metadata.read_with.channels)

        self._projects.work(f"Reading {path.name}…", call(read), done)

    def _check_channels(self, name: str, channels: str) -> None:
        """Warn if an image shows other channels than the live adapter was trained with."""
        owner = self._owner()
        workspace = None if owner is None else owner.workspace
        own = "" if workspace is None else workspace.channels
        if own and channels != own:
            shown = channels or "all channels"
            self._events.warned.emit(f"{name} shows {shown}, the live adapter was trained on {own}")

    # --- objects ------------------------------------------------------------------------

    def import_project(self, path: Path) -> None:
        """Add the objects of a colleague's project, image by image; returns at once."""
        document, number = self._document, self._document.store.next_number

        def done(found: ObjectImport) -> None:
            if number != document.store.next_number:  # objects have changed meanwhile
                self.import_project(path)
                return
            for action in found.actions:
                document.do(action)
            self._events.informed.emit(found.report)

        work = call(lambda: read_objects(document, path))
        self._projects.work(f"Importing {path.name}…", work, done)

    def import_labels(
        self, image: ImageId, path: Path, *, number_pieces: bool | None = None
    ) -> None:
        """Add the objects of a file of labels to an image; returns at once.

        `number_pieces` says whether pieces of a mask with one number are objects; None: ask.
        """
        if path.suffix.lower() == ".csv":
            self.import_centres(image, path)
            return
        document, number = self._document, self._document.store.next_number

        def done(read: tuple[Imported, str]) -> None:
            found, note = read
            if number != document.store.next_number:  # objects have changed meanwhile
                self.import_labels(image, path, number_pieces=number_pieces)
                return
            if found.problem and number_pieces is None:
                self._events.pieces_found.emit(image, path, found.problem)
                return
            if found.action is not None:
                document.do(found.action)
            text = f"{count_text(found.objects, 'object')} imported from {path.name}"
            self._events.informed.emit(f"{text}; {note}" if note else text)

        entry = document.image(image)
        work = call(lambda: read_label_file(entry, path, bool(number_pieces)))
        self._projects.work(f"Importing {path.name}…", work, done)

    def import_centres(self, image: ImageId, path: Path) -> None:
        """Predict and accept an object at each centre of a table; returns at once."""
        entry, workspace = self._document.image(image), self._workspace()

        def predict() -> Generator[Any, None, Any]:
            centres = read_centres(path, entry.shape, entry.info.metadata)
            return (yield from predict_centres(workspace, image, centres))

        def done(predicted: Any) -> None:
            if self._is_there(entry):
                text = f"predicted from {path.name}"
                drawn = added(entry, predicted, self._document.label_set)
                self._draw(drawn, text, "covered by others or empty")

        self._projects.work("Predicting objects…", predict(), done, _plane)

    def refine(self, image: ImageId, labels: Sequence[int] = ()) -> None:
        """Predict objects, all by default, anew from the boxes around them; returns at once."""
        entry = self._document.image(image)
        work = refine_objects(self._workspace(), image, labels)

        def done(predictions: Any) -> None:
            if self._is_there(entry):
                drawn = refined(entry, predictions)
                self._draw(drawn, "refined", "kept, as nothing was found for them")

        self._projects.work("Refining objects…", work, done, _plane)

    def continue_objects(
        self, source: PlaneKey, target: PlaneKey, chosen: Sequence[int] = ()
    ) -> None:
        """Predict and accept objects of one plane in another one; returns at once.

        They keep their numbers. `chosen` are the objects, if any of them is in the first plane and
        not in the other; else all that are.
        """
        entry, workspace = self._document.image(source.image), self._workspace()
        labels = continued_labels(entry, source, target, chosen)

        def done(found: Continued) -> None:
            if self._is_there(entry):
                made = tuple(each for each in found.objects if each.label in entry.records)
                if made:
                    self._document.do(AcceptObjects(target, made))
                text = f"{count_text(len(made), 'object')} continued"
                ended = f"; {found.ended} not found here" if found.ended else ""
                self._events.informed.emit(text + ended)

        work = continue_objects(workspace, source, target, labels)
        self._projects.work("Continuing objects…", work, done)

    def _is_there(self, entry: DocumentImage) -> bool:
        """Return False for an image that was removed, or of another project, meanwhile."""
        return self._document.images.get(entry.id) is entry

    def _draw(self, drawn: Drawn, what: str, why_left: str) -> None:
        """Put masks into an image and say how many."""
        for action in drawn.actions:
            self._document.do(action)
        parts = [f"{count_text(drawn.objects, 'object')} {what}"]
        parts += [f"{drawn.left} {why_left}"] if drawn.left else []
        parts += [f"{drawn.changed} kept, as they were changed meanwhile"] if drawn.changed else []
        self._events.informed.emit("; ".join(parts))

    def _workspace(self) -> Workspace:
        owner = self._owner()
        workspace = None if owner is None or not owner.has_model else owner.workspace
        if workspace is None:
            raise ConfigurationError("no model is loaded yet: wait for it, or choose one")
        return workspace


@dataclass(frozen=True, eq=False)
class _ReadFile:
    """An image file that is open, the `number`-th of `total`; whether it is the first shown."""

    path: Path
    file: ImageFile
    number: int
    total: int
    is_first: bool


@dataclass(frozen=True, eq=False)
class _FilesReport:
    undecided: Undecided | None
    errors: tuple[PeftSamError, ...]


def _read_files(
    paths: Sequence[Path], options: ReadOptions
) -> Generator[_ReadFile, None, _FilesReport]:
    found, errors = list(find_images(paths)), list[PeftSamError]()
    open_ones: list[tuple[Path, UndecidedError]] = []
    is_first = True
    for number, path in enumerate(found, start=1):
        try:
            file = open_image(path, options)
        except UndecidedError as error:
            open_ones.append((path, error))
        except PeftSamError as error:
            errors.append(error)
        else:
            yield _ReadFile(path, file, number, len(found), is_first)
            is_first = False
    undecided = None
    if open_ones:
        undecided = Undecided(tuple(path for path, _ in open_ones), options, open_ones[0][1])
    return _FilesReport(undecided, tuple(errors))


def _plane(event: object) -> str:
    if isinstance(event, PlanePredicted) and event.total > 1:
        return f"plane {event.done} of {event.total}"
    return ""
