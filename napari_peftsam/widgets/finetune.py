"""The dock in which a model is finetuned on the accepted objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_peftsam.app.advice import TrainingData, describe_data, why_no_training
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._finetune_options import FinetuneOptions
from napari_peftsam.widgets._finetune_view import FinetuneView
from napari_peftsam.widgets._parts import stacked, timer
from napari_peftsam.widgets._runner import Worker, notify
from napari_peftsam.widgets._training import Phase, training_of
from napari_peftsam.widgets.keys import KeyBindings, keys_changed, show_changed_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari

    from napari_peftsam.training import Split

_DELAY_MS = 200  # the split is worked out, and a training due begins, when the user pauses


class FinetuneDock(Dock):
    """Choose a method and a budget, train, and see whether it helped."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:  # napari fills in this name
        super().__init__(napari_viewer)
        self.training = training_of(self.viewer_session)
        self.options = FinetuneOptions(self.viewer_session)
        self.view = FinetuneView(self.options, napari_viewer.theme)
        stacked(self.view, inside=self)
        self._split: Split | None = None
        self._counted = TrainingData.of(self.viewer_session.document).objects
        self._splitting: Worker | None = None
        self._timer = timer(self, _DELAY_MS)
        self._keys = KeyBindings()
        self._bind_keys()
        self._timer.timeout.connect(self._find_split)
        self._timer.timeout.connect(self._train_when_due)
        self.view.train.clicked.connect(self.toggle)
        self.view.compare.clicked.connect(self.compare)
        self.options.changed.connect(self._options_changed)
        self.options.every.valueChanged.connect(self._count_anew)
        owner, events = self.viewer_session, self.viewer_session.document.events
        self.listen(
            (keys_changed, self._keys_changed),
            (self.training.signals.changed, self._show_run),
            (self.training.signals.event, self.view.show_event),
            (self.training.signals.ticked, self._show_waiting),
            (events.objects_changed, self._data_changed),
            (events.opened, self._count_anew),
            (events.image_removed, self._data_changed),
            (events.image_renamed, self._data_changed),
            (owner.projects.events.loaded, self._data_changed),
            (owner.events.model_changed, self._model_changed),
            (owner.events.adapters_changed, self._adapters_changed),
            (owner.viewer.events.theme, self._theme_changed),
        )
        self._data_changed()
        self._show_run()
        owner.when_ready(self._ready)

    def release(self) -> None:
        """Stop training (its best state is kept if it is better) and let go of the viewer."""
        owner = self.viewer_session
        owner.events.ready.disconnect(self._ready, missing_ok=True)
        self._keys.release()
        if not owner.is_closed:  # else Qt has destroyed the dock's parts by now
            self._timer.stop()
            self.options.release()
            self.training.abandon()

    def _bind_keys(self) -> None:
        keys = {"finetune": self.toggle, "before": self.compare_while_held}
        self._keys.bind((self.viewer_session.viewer,), keys)

    def _keys_changed(self) -> None:
        self._keys.release()
        self._bind_keys()
        show_changed_keys(self)
        self._show_run()

    def _ready(self) -> None:
        self.options.offer_methods()
        self._timer.start()

    # --- what the user does ------------------------------------------------------------

    def toggle(self) -> None:
        """Start training, or stop it."""
        if self.training.is_running:
            self.training.stop()
            return
        why_not = self._why_not()
        config = self.options.config
        if why_not or config is None:
            self.view.show_outcome(why_not)
            return
        try:
            self.training.start(config)
        except PeftSamError as error:
            notify(error)

    def _count_anew(self) -> None:
        """Count objects from now on: what is there was trained on, or came with a project."""
        self._counted = TrainingData.of(self.viewer_session.document).objects

    def _train_when_due(self) -> None:
        """Start training by itself once enough objects are new, if the user wants that."""
        every, objects = self.options.every.value(), TrainingData.of(self.viewer_session.document)
        self._counted = min(self._counted, objects.objects)  # some were removed
        is_due = every and objects.objects - self._counted >= every
        if is_due and not self.training.is_running and not self._why_not():
            self._count_anew()  # also if it cannot start: it is not tried at every object
            self.toggle()

    def compare(self) -> None:
        """Switch between the adapters before and after the last training, and name the one."""
        workspace, training = self.viewer_session.workspace, self.training
        if workspace is None or not training.after or training.is_running:
            return
        shows_after = workspace.live.name == training.after
        name = training.before if shows_after else training.after
        self.viewer_session.workers.run(lambda: workspace.activate(name))
        training.banner.show("BASE" if name == "base" else name)

    def compare_while_held(self) -> Iterator[None]:
        """Switch as `compare`; the name stays until the key is released, which ends this."""
        self.compare()
        self.training.banner.hold()
        yield
        self.training.banner.let_go()

    def _why_not(self) -> str:
        owner = self.viewer_session
        return why_no_training(
            TrainingData.of(owner.document),
            has_model=owner.has_model,
            model_error=owner.error,
            has_options=self.options.config is not None,
        )

    # --- data --------------------------------------------------------------------------

    def _data_changed(self) -> None:
        self._split = None
        images = self.viewer_session.document.images.items()
        listed = [(str(i), image.name, len(image.records)) for i, image in images if image.records]
        self.options.roles.show_images(listed)
        self.options.images.setVisible(len(listed) > 1)
        self._show_data()
        self._show_button()
        self._timer.start()

    def _options_changed(self) -> None:
        self._show_button()
        self._timer.start()

    def _find_split(self) -> None:
        """Find out how the objects will be split, in a thread: it looks at all labels."""
        document, config = self.viewer_session.document, self.options.config
        if config is None or not TrainingData.of(document).is_enough:
            return
        from napari_peftsam.app.annotated import planned_split

        workspace = self.viewer_session.workspace
        live = None if workspace is None else workspace.live.adapter
        if self._splitting is not None:
            self._splitting.cancel()
        self._splitting = self.viewer_session.workers.run(
            planned_split(document, config, live),
            on_result=self._show_split,
            on_error=lambda error: self.view.summary.setText(f"⚠ {error}"),
        )

    def _show_split(self, split: Split | None) -> None:
        self._split = split
        self._show_data()

    def _show_data(self) -> None:
        if not self.training.is_running:
            data = TrainingData.of(self.viewer_session.document)
            self.view.summary.setText(describe_data(data, self._split))
            self.view.summary.setToolTip(", ".join(data.names))

    # --- the run -----------------------------------------------------------------------

    def _show_run(self) -> None:
        if self.training.phase is Phase.STARTING:
            self.view.curve.clear_curves()
            self._count_anew()
        self.view.show_outcome(self.training.message)
        self._show_button()
        self._show_waiting()
        self._show_data()
        self._show_compare()
        self._timer.start()  # objects may have come while it ran

    def _show_waiting(self) -> None:
        if self.training.waiting:
            self.view.status.setText(self.training.waiting)

    def _show_button(self) -> None:
        self.view.show_phase(self.training.phase, self._why_not())

    def _show_compare(self) -> None:
        workspace, training = self.viewer_session.workspace, self.training
        live = "" if workspace is None else workspace.live.name
        after = "" if training.is_running else training.after
        self.view.show_compare(live, training.before, after)

    def _adapters_changed(self) -> None:
        self._show_compare()
        self._timer.start()  # what the live one was trained on is not held out

    def _model_changed(self) -> None:
        self.options.model_changed()
        self._show_button()
        self._show_compare()

    def _theme_changed(self, event: Any) -> None:
        self.view.curve.set_theme(str(event.value))
