"""Files that come into the annotate dock: what is asked about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_peftsam.document import is_project
from napari_peftsam.files import IMAGE_SUFFIXES, OBJECT_SUFFIXES
from napari_peftsam.metadata import ReadOptions
from napari_peftsam.widgets._dialogs import ask_files, ask_one, ask_open, ask_texts
from napari_peftsam.widgets.layers.view import METADATA

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_peftsam.app.importing import Undecided
    from napari_peftsam.document import DocumentImage
    from napari_peftsam.widgets.session import ViewerSession

PROJECTS = "Projects (*.peftsam)"
"""The filter of dialogs for projects."""
_OBJECTS = (*OBJECT_SUFFIXES, ".csv")
_IMAGES = f"Images ({' '.join(f'*{suffix}' for suffix in IMAGE_SUFFIXES)});;All files (*)"
_LABELS = f"Labels ({' '.join(f'*{s}' for s in (*IMAGE_SUFFIXES, *_OBJECTS))});;All files (*)"
_FEW = (2, 3, 4)  # planes that may be channels
_AXES = "one letter each, like ZYX: T time, Z depth, Y rows, X columns, C channels, S colours"
_CHANNELS = (
    "number or name; two or three give red, green and blue, with weights like DAPI:0.5,2:0.5"
)


class FileQuestions:
    """Asks for files, and how to read them."""

    def __init__(self, owner: ViewerSession, parent: QWidget) -> None:
        self.ask_files, self.ask_one, self.ask_open = ask_files, ask_one, ask_open
        self.ask_texts = ask_texts
        self._owner, self._imports, self._parent = owner, owner.imports, parent
        self._document, self._layers = owner.document, owner.layers

    @property
    def image(self) -> DocumentImage | None:
        """The shown image; None if there is none."""
        image = self._layers.image_id
        return None if image is None else self._document.image(image)

    @property
    def file(self) -> Path | None:
        """The file of the shown image; None if it is not known."""
        return None if self.image is None else self._owner.file_of(self.image.id)

    def hint(self) -> None:
        """Tell the user where to say that the planes of the shown image are channels."""
        layer, path = self._layers.image, self.file
        if layer is None or path is None or METADATA in layer.metadata or layer.rgb:
            return
        planes, first = layer.data.shape[:-2], str(layer.axis_labels[0])
        if len(planes) == 1 and planes[0] in _FEW and not first.isalpha():
            self._layers.events.hint.emit(
                f"{layer.name} is shown as a stack of {planes[0]} planes. If they are channels, "
                "say so in Project ▾ Axes and channels…"
            )

    # --- what the user chooses ------------------------------------------------------------

    def add_images(self) -> None:
        """Ask for images and show them."""
        paths = self.ask_files(self._parent, "Add images", _IMAGES)
        if paths:
            self._imports.open_images(paths)

    def read_again(self) -> None:
        """Ask for the axes and channels of the shown image, and read it again."""
        image, path = self.image, self.file
        if image is not None and path is not None:
            metadata = image.info.metadata
            names = [channel.name or str(i) for i, channel in enumerate(metadata.channels)]
            text = f"Axes and channels of {image.name}; empty: as the file says"
            options = self._ask(text, metadata.read_with, {"channels": names})
            if options is not None:
                self._imports.read_again(image.id, path, options)

    def import_project(self) -> None:
        """Ask for a project and add its objects."""
        path = self.ask_open(self._parent, "Import the objects of a project", PROJECTS)
        if path is not None:
            self._imports.import_project(path)

    def import_labels(self) -> None:
        """Ask for a file of labels and add its objects to the shown image."""
        path = None if self.image is None else self.ask_open(
            self._parent, "Import labels, outlines or centres", _LABELS
        )  # fmt: skip
        if path is not None:
            self._import_labels(path)

    def dropped(self, paths: Iterable[Path]) -> None:
        """Open or import files that the user drops: a project, images, then their objects."""
        images, objects = list[Path](), list[Path]()
        for path in paths:
            if is_project(path):
                self._owner.projects.open(path)
            else:
                (objects if path.name.lower().endswith(_OBJECTS) else images).append(path)
        if len(images) == 1 and not objects and self.image is not None:
            question = f"What is {images[0].name}?"
            choices = ("An image", f"Labels of {self.image.name}")
            answer = self.ask_one(self._parent, "Dropped file", question, choices)
            if answer == 1:
                self._import_labels(images[0])
            images = images if answer == 0 else []
        if images:
            self._owner.projects.when_free(partial(self._imports.open_images, images))
        self.import_files(objects)

    def import_files(self, paths: Iterable[Path]) -> None:
        """Import files of objects into the image that is shown once each one's turn has come."""
        for path in paths:
            self._owner.projects.when_free(partial(self._import_labels, path))

    def _import_labels(self, path: Path) -> None:
        image = self.image
        if image is None:
            self._layers.events.hint.emit(f"Open the image of {path.name} first")
            return
        self._layers.attempt(lambda: self._imports.import_labels(image.id, path))

    # --- what the program asks --------------------------------------------------------------

    def decide(self, undecided: Undecided) -> None:
        """Ask how to read files, and read them so."""
        paths, error = undecided.paths, undecided.error
        more = f" The answer holds for {len(paths)} files." if len(paths) > 1 else ""
        first: dict[str, Any] = {error.option: error.answers[0]}
        given, suggested = replace(undecided.options, **first), {error.option: error.answers}
        question = error.question.replace(str(paths[0]), paths[0].name)
        options = self._ask(f"{question}.{more}", given, suggested)
        if options is None:
            return
        if undecided.image is None:
            self._imports.open_images(paths, options)
        elif undecided.image in self._document.images:
            self._imports.read_again(undecided.image, paths[0], options)

    def decide_pieces(self, image: str, path: Path, problem: str) -> None:
        """Ask whether pieces of a mask are objects, and import them so."""
        found = next((i for i in self._document.images if i == image), None)
        question = f"{path.name}: {problem}. Make each piece an object of its own?"
        answer = self.ask_one(self._parent, "Import labels", question, ("Each piece", "All one"))
        if found is not None and answer is not None:
            self._imports.import_labels(found, path, number_pieces=answer == 0)

    def _ask(
        self, text: str, options: ReadOptions, suggested: Mapping[str, Sequence[str]]
    ) -> ReadOptions | None:
        fields = (
            ("Axes", options.axes, suggested.get("axes", ()), _AXES),
            ("Channels", options.channels, suggested.get("channels", ()), _CHANNELS),
        )
        answer = self.ask_texts(self._parent, "Axes and channels", text, *fields)
        return None if answer is None else replace(options, axes=answer[0], channels=answer[1])
