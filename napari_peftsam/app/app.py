"""A project in Python: a thin front of document and workspace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from napari_peftsam.app.choice import ModelChoice, absolute_model
from napari_peftsam.app.counting import ToLookAt, count_by
from napari_peftsam.app.exchange import export_image
from napari_peftsam.app.finetuning import FinetuneReport, finetune_document
from napari_peftsam.app.prompting import PromptController
from napari_peftsam.app.refine import added, predict_centres, refine_objects, refined
from napari_peftsam.app.review import ReviewController
from napari_peftsam.app.runner import InlineRunner, run
from napari_peftsam.app.suggest_run import SuggestController
from napari_peftsam.app.suggesting import SuggestOptions, planes_of_queue
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.counting import Count
from napari_peftsam.document import (
    Accept,
    AddPoint,
    Discard,
    Document,
    ImageId,
    ObjectRecord,
    Overlap,
    PendingObject,
    PlaneKey,
    ProposalRecord,
    Rejection,
    SetBox,
    SetPrompts,
)
from napari_peftsam.errors import ConfigurationError, PromptError
from napari_peftsam.files import read_centres
from napari_peftsam.folders import expanded
from napari_peftsam.metadata import ImageMetadata, ReadOptions
from napari_peftsam.models import device_memory
from napari_peftsam.projects import (
    add_image,
    import_label_file,
    locate_image,
    open_document,
)
from napari_peftsam.segmentation.automatic import ProposalScorer
from napari_peftsam.training import RECOMMENDED, TrainEvent, TrainingConfig, recipe
from napari_peftsam.types import Box, LabelArray, Point, Prediction, Prompts

Position = tuple[float, float]


class App:
    """A project with its model. Each call is saved when it returns.

    Parameters
    ----------
    project
        The project file, which is created unless it exists; None works in memory. One that is
        open elsewhere can be read, not changed.
    embeddings
        Folder to keep embeddings in; None keeps the latest ones in memory.

    Attributes
    ----------
    document
        Images, objects and history; `document.do` takes any action.
    workspace
        The live model and the adapters.
    notes
        What is wrong with the project: images that are missing, unreadable or changed, and
        why it can only be read.
    """

    def __init__(
        self, project: str | Path | None = None, embeddings: str | Path | None = None
    ) -> None:
        self.document, self.notes = (Document(), ()) if project is None else open_document(project)
        folder = None if embeddings is None else expanded(embeddings)
        self.workspace = Workspace(self.document, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the project; nothing is left to save."""
        self.document.store.close()

    def load_model(
        self,
        source: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        frame: int | None = None,
    ) -> None:
        """Load a model with the adapters that the project holds for it; slow.

        The first prompt or training does so by itself.

        Parameters
        ----------
        source
            Registry name or checkpoint path; None is the model that the project was last used
            with, or else ``"builtin"``.
        device, precision, frame
            As of `napari_peftsam.app.ModelChoice`.
        """
        chosen = source or self.document.live.model or "builtin"
        choice = ModelChoice(chosen, None, device, precision, frame)
        self.workspace.load_model(absolute_model(choice.model), device, precision)

    @property
    def images(self) -> dict[str, ProjectImage]:
        """The images by name, in the order in which they were added."""
        return {i.name: ProjectImage(self, i.id) for i in self.document.images.values()}

    def add_image(
        self,
        given: Any,
        name: str | None = None,
        *,
        axes: str = "",
        channels: str = "",
        series: int | None = None,
        allow_missing: bool = False,
    ) -> ProjectImage:
        """Add an image file or an array; one that is there already is returned.

        Parameters
        ----------
        given
            Path of a file, or pixels ``(..., H, W)`` or ``(..., H, W, 3)``, which are stored.
        name
            What people call it; default: the file's name without suffix, or ``"image"``.
        axes, channels, series, allow_missing
            Answers to what a file leaves open, see `napari_peftsam.metadata.ReadOptions`.
        """
        options = ReadOptions(axes, channels, self.workspace.channels, series, allow_missing)
        return ProjectImage(self, add_image(self.document, given, name, options))

    def undo(self) -> str | None:
        """Undo the last step and return what it was, None if there is none."""
        return self.document.undo()

    def redo(self) -> str | None:
        """Redo the last undone step and return what it was, None if there is none."""
        return self.document.redo()

    def count(
        self,
        judge: Callable[[ToLookAt], int | Rejection],
        planes: Sequence[PlaneKey] | None = None,
        **sample: int,
    ) -> Count:
        """Estimate the number of objects from a random sample of proposals and tiles.

        Accepted objects count as they are; see `ProjectImage.segment` for proposals.

        Parameters
        ----------
        judge
            Looks at a proposal, or at a tile (whose `number` is 0), and returns of a proposal 1 (an
            object), 0 or ``"nothing here"``, or ``"wrong outline"`` (an object with another
            outline); of a tile, how many objects whose middle is in it were none of these: not
            accepted, not proposed, and not judged ``"wrong outline"``; of several in one outline,
            all but one.
        planes
            Where to count; default: in all images that are not complete.
        sample
            `proposals`, `tiles` and `seed` of the sample instead of 30, 5 and 0.

        Raises
        ------
        ConfigurationError
            If nothing has been proposed yet.
        LabelError
            If `judge` returns anything else.
        """
        chosen = planes_of_queue(self.document) if planes is None else planes
        return count_by(self.document, chosen, judge, **sample)

    def finetune(
        self,
        seconds: float = 60.0,
        config: TrainingConfig | None = None,
        watch: Callable[[TrainEvent], bool | None] = lambda _: None,
    ) -> FinetuneReport:
        """Train on all objects; the new version is live if it is better. Slow.

        Parameters
        ----------
        seconds
            Time for training and validation.
        config
            Method, budget and the rest instead of the default, which is the recipe
            `napari_peftsam.training.RECOMMENDED` for the model.
        watch
            Called with every event; if it returns True the run ends early.

        Raises
        ------
        ConfigurationError
            If `seconds` is no time to train.
        """
        if config is None and not 0 < seconds < float("inf"):
            raise ConfigurationError(
                f"seconds is {seconds!r}: give the time to train as a positive number"
            )
        _need_model(self)
        if config is None:
            model = self.workspace.engine.model
            memory = device_memory(str(model.device))
            settings = recipe(RECOMMENDED, model.architecture, memory).settings()
            config = TrainingConfig(seconds=seconds, **settings)
        return finetune_document(self.workspace, config, watch)


class ProjectImage:
    """One image of an `App`; `id` identifies it in the document."""

    def __init__(self, app: App, image: ImageId) -> None:
        self._app = app
        self.id = image

    def __repr__(self) -> str:
        return f"<image {self.name!r}, {len(self.objects)} objects>"

    @property
    def name(self) -> str:
        """The image's name; a label for people."""
        return self._app.document.image(self.id).name

    @property
    def pixels(self) -> Any:
        """``(..., H, W)`` or ``(..., H, W, 3)``, perhaps on disk; None while they are missing."""
        return self._app.document.image(self.id).pixels

    @property
    def labels(self) -> LabelArray:
        """``(..., H, W)``: the objects' labels, a read-only view that follows all changes."""
        view = self._app.document.image(self.id).labels.view()
        view.flags.writeable = False
        return view

    @property
    def objects(self) -> tuple[ObjectRecord, ...]:
        """The records of the accepted objects, by label."""
        return self._app.document.records(self.id)

    def prompt(
        self,
        points: Sequence[Position] = (),
        negatives: Sequence[Position] = (),
        box: tuple[float, float, float, float] | None = None,
        plane: tuple[int, ...] = (),
        smooth: int = 0,
    ) -> Prediction:
        """Prompt an object and return the predicted candidates, best first; slow.

        As with clicks in the viewer, prompts add to the pending object if it lies in the same
        plane: points refine its mask, a box takes the place of its box. In another plane or
        image they start a new object in place of the pending one. `accept` or `discard` ends
        an object.

        Parameters
        ----------
        points, negatives
            ``(row, col)`` of pixels on the object, and of pixels that are not.
        box
            ``(row0, col0, row1, col1)`` around the object.
        plane
            Position along the leading axes of a stack, as ``(z,)``.
        smooth
            Radius in pixels below which bumps and notches of the mask are rounded off; 0: not.
        """
        document, key = self._app.document, PlaneKey(self.id, tuple(plane))
        given = _prompts(points, negatives, box)
        if not given:
            raise PromptError("there is no prompt: give points, negatives or a box")
        document.pixels(key)
        _need_model(self._app)
        current = document.current
        if current is None or current.plane != key:
            document.do(SetPrompts(key, given))
        else:
            if given.box is not None:
                document.do(SetBox(key, given.box))
            for point in given.points:
                document.do(AddPoint(key, point))
        return predict_pending(self._app.workspace, smooth)

    def accept(self, overlap: Overlap = "keep") -> int:
        """Make the pending object's best candidate an object and return its label.

        Parameters
        ----------
        overlap
            Rule for pixels of existing objects, see `napari_peftsam.document.Overlap`.
        """
        if self._pending().mask is None:  # it was prompted before the project was closed
            _need_model(self._app)
            predict_pending(self._app.workspace)
        label: int = self._app.document.do(Accept(overlap))
        return label

    def import_labels(self, path: str | Path, *, number_pieces: bool = False) -> str:
        """Add the objects of a file of labels, outlines or ROIs; existing ones keep their pixels.

        Return a note about objects that were covered or left out; nothing if all is well. Files
        are as of `napari_peftsam.files.read_objects`. With `number_pieces`, each connected piece
        of a mask with one number is an object.
        """
        return import_label_file(self._app.document, self.id, path, number_pieces)[1]

    def import_centres(self, path: str | Path) -> int:
        """Predict and accept an object at each centre of a table; return how many; slow.

        The table is as of `napari_peftsam.files.read_centres`. Existing objects keep their
        pixels.
        """
        entry = self._app.document.image(self.id)
        centres = read_centres(path, entry.shape, self.metadata)
        _need_model(self._app)
        predicted = run(predict_centres(self._app.workspace, self.id, centres))
        drawn = added(entry, predicted, self._app.document.label_set)
        for action in drawn.actions:
            self._app.document.do(action)
        return drawn.objects

    def refine(self, labels: Sequence[int] = ()) -> int:
        """Predict objects, all by default, anew from the boxes around them; slow.

        Return the number of new masks; objects for which the model found no pixel stay.
        """
        _need_model(self._app)
        predictions = run(refine_objects(self._app.workspace, self.id, labels))
        drawn = refined(self._app.document.image(self.id), predictions)
        for action in drawn.actions:
            self._app.document.do(action)
        return drawn.objects

    def segment(
        self,
        plane: tuple[int, ...] = (),
        options: SuggestOptions | None = None,
        scorer: ProposalScorer | None = None,
    ) -> tuple[ProposalRecord, ...]:
        """Propose the objects of a plane that are not annotated, by falling score; slow.

        They take the place of earlier proposals of the plane; objects and background stay as
        they are.

        Parameters
        ----------
        plane
            Position along the leading axes of a stack, as ``(z,)``.
        options
            What is looked for.
        scorer
            What is known without this project's judgements; default: what the live adapter brings.
        """
        _need_model(self._app)
        run, review = self._reviewed(plane, scorer)
        errors = list[Exception]()
        run.events.failed.connect(errors.append)
        run.options, review.eager = options or SuggestOptions(), 1.0
        run.suggest()
        if errors:
            raise errors[0]
        return tuple(review.records[number] for number in review.visible)

    def accept_proposals(
        self,
        eager: float | None = None,
        plane: tuple[int, ...] = (),
        scorer: ProposalScorer | None = None,
    ) -> tuple[int, ...]:
        """Accept the proposals of a plane whose expected IoU is at least 1 - `eager`.

        Return the labels of the objects that they are now. Parameters are as of `segment` and of
        `napari_peftsam.configs.AutomaticConfig`; `ConfigurationError` unless `eager` is in [0, 1].
        """
        _, review = self._reviewed(plane, scorer)
        if eager is not None:
            if not 0 <= eager <= 1:
                raise ConfigurationError(f"eager is from 0 to 1, got {eager:g}")
            review.eager = eager
        return tuple(label for label in review.accept_above() if label)

    def count(
        self,
        judge: Callable[[ToLookAt], int | Rejection],
        plane: tuple[int, ...] = (),
        **sample: int,
    ) -> Count:
        """Estimate the number of objects of a plane; parameters as of `App.count`."""
        return self._app.count(judge, [PlaneKey(self.id, tuple(plane))], **sample)

    def _reviewed(
        self, plane: tuple[int, ...], scorer: ProposalScorer | None
    ) -> tuple[SuggestController, ReviewController]:
        key = PlaneKey(self.id, tuple(plane))
        self._app.document.image(self.id).check_plane(key)
        script = _Script(self._app.workspace, key)
        run = SuggestController(script, script, InlineRunner(), scorer)
        review = ReviewController(script, script, run)
        review.follow()
        return run, review

    @property
    def metadata(self) -> ImageMetadata:
        """Axes, pixel size and channels."""
        return self._app.document.image(self.id).info.metadata

    def locate(self, path: str | Path) -> str:
        """Say where the image's file is now; return what differs, nothing if all is well."""
        return locate_image(self._app.document, self.id, Path(path))

    def discard(self) -> None:
        """Discard the pending object."""
        self._pending()
        self._app.document.do(Discard())

    def export(self, path: str | Path, format_name: str | None = None) -> Path:
        """Write the labels with their provenance and return what was written.

        Parameters are as of `napari_peftsam.export.export_labels`.
        """
        return export_image(self._app.document, self.id, Path(path), format_name)

    def _pending(self) -> PendingObject:
        current = self._app.document.current
        if current is None or current.plane.image != self.id:
            raise PromptError(f"nothing is prompted in {self.name}: prompt an object first")
        return current


class _Script:
    """A workspace with a model and without a viewer."""

    loading = error = ""
    has_model = True
    visible = None

    def __init__(self, workspace: Workspace, plane: PlaneKey | None = None) -> None:
        self.workspace, self.document, self.plane = workspace, workspace.document, plane


def predict_pending(workspace: Workspace, smooth: int = 0) -> Prediction:
    """Predict the pending object at once, embedding its plane if need be; slow.

    Raises
    ------
    ConfigurationError
        If nothing is prompted or no model is loaded.
    """
    document, errors = workspace.document, list[Exception]()
    if document.current is None:
        raise ConfigurationError("there is no prompt: add a point or a box first")
    workspace.engine.live  # noqa: B018  # raises while no model is loaded
    script = _Script(workspace)
    controller = PromptController(script, script, InlineRunner())
    controller.clean_masks(True, smooth)
    controller.events.failed.connect(errors.append)
    controller.follow()
    controller.release()
    if errors:
        raise errors[0]
    candidates = document.current.candidates
    assert candidates is not None  # nothing is swapped meanwhile in one thread
    return candidates


def _prompts(
    points: Sequence[Position],
    negatives: Sequence[Position],
    box: tuple[float, float, float, float] | None,
) -> Prompts:
    try:
        clicks = [Point(float(row), float(col)) for row, col in points]
        clicks += [Point(float(row), float(col), positive=False) for row, col in negatives]
        return Prompts(tuple(clicks), None if box is None else Box(*map(float, box)))
    except (TypeError, ValueError) as error:
        raise PromptError(
            f"prompts must be points=[(row, col), ...] and box=(row0, col0, row1, col1), "
            f"got {points!r}, {negatives!r} and {box!r}"
        ) from error


def _need_model(app: App) -> None:
    if not app.workspace.has_model:
        app.load_model()
