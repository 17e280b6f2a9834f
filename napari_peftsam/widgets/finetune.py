"""The dock in which a model is finetuned on the accepted objects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout

from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._finetune_view import BUDGETS, FinetuneView
from napari_peftsam.widgets._form import fields_of
from napari_peftsam.widgets._keys import KEYS, KeyBindings
from napari_peftsam.widgets._training import Phase, training_of
from napari_peftsam.widgets._training_data import TrainingData, annotated_planes, describe
from napari_peftsam.widgets._verdict import format_time
from napari_peftsam.widgets._worker import Worker, notify, run

if TYPE_CHECKING:
    import napari

    from napari_peftsam.peft import MethodInfo, ParameterCounts
    from napari_peftsam.training import Split, TrainEvent, TrainingConfig

__all__ = ["FinetuneDock"]

_PLACEMENTS = ("all", "late-50%", "late-25%", "last")
_DELAY_MS = 200  # counting waits until the user pauses


class FinetuneDock(Dock):
    """Choose a method and a budget, train, and see whether it helped.

    Parameters
    ----------
    viewer
        The viewer whose accepted objects are trained on.
    """

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__(viewer)
        self.run = training_of(self.viewer_session)
        self.view = FinetuneView(viewer.theme)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.view)
        self._methods: dict[str, MethodInfo] = {}
        self._amounts = {unit: amount for unit, (_, amount) in BUDGETS.items()}
        self._split: Split | None = None
        self._config: TrainingConfig | None = None
        self._counting: Worker[Any] | None = None
        self._splitting: Worker[Any] | None = None
        self._data_timer, self._option_timer = _timer(self), _timer(self)
        self._keys = KeyBindings()
        self._connect()
        self._show_data()
        self._show_run()
        self.viewer_session.when_ready(self._offer_methods)

    def release(self) -> None:
        """Stop training (keeping its best state) and let go of the viewer."""
        self._data_timer.stop()
        self._option_timer.stop()
        self._keys.release()
        self.run.signals.changed.disconnect(self._show_run)
        self.run.signals.event.disconnect(self._show_event)
        owner, events = self.viewer_session, self.viewer_session.session.events
        for signal in (events.objects_changed, events.image_added, events.image_removed):
            signal.disconnect(self._data_changed)
        owner.events.model_changed.disconnect(self._model_changed)
        owner.events.adapters_changed.disconnect(self._show_compare)
        owner.events.status_changed.disconnect(self._show_run)
        owner.events.ready.disconnect(self._offer_methods, missing_ok=True)
        if not owner.is_closed:
            owner.viewer.events.theme.disconnect(self._theme_changed)
            self.run.abandon()

    # --- connections -------------------------------------------------------------------

    def _connect(self) -> None:
        view, owner = self.view, self.viewer_session
        view.train.clicked.connect(self.toggle)
        view.compare.clicked.connect(self.compare)
        view.method.currentIndexChanged.connect(self._method_changed)
        for form in (view.placement, view.options, view.rate):
            form.changed.connect(self._options_changed)
        view.unit.currentIndexChanged.connect(self._unit_changed)
        view.budget.valueChanged.connect(self._budget_changed)
        view.budget.setValue(self._amounts["seconds"])
        self._data_timer.timeout.connect(self._count_data)
        self._option_timer.timeout.connect(self._count_parameters)
        self.run.signals.changed.connect(self._show_run)
        self.run.signals.event.connect(self._show_event)
        events = owner.session.events
        for signal in (events.objects_changed, events.image_added, events.image_removed):
            signal.connect(self._data_changed, max_args=0)
        owner.events.model_changed.connect(self._model_changed)
        owner.events.adapters_changed.connect(self._show_compare)
        owner.events.status_changed.connect(self._show_run)
        owner.viewer.events.theme.connect(self._theme_changed)
        self._keys.bind(owner.viewer, (), {"finetune": self.toggle, "before": self.compare})

    def _theme_changed(self, event: Any) -> None:
        self.view.curve.set_theme(str(event.value))

    # --- what the user does ------------------------------------------------------------

    def toggle(self) -> None:
        """Start training, or stop it."""
        if self.run.is_running:
            self.run.stop()
            return
        if not self.view.train.isEnabled() or self._config is None:
            return
        try:
            self.view.curve.clear_curves()
            self.run.start(self._config)
        except PeftSamError as error:
            notify(error)

    def compare(self) -> None:
        """Switch between the adapter before and after the last training."""
        workspace, training = self.viewer_session.workspace, self.run
        if workspace is None or not training.after or training.is_running:
            return
        shows_after = workspace.adapters.live.name == training.after
        name = training.before if shows_after else training.after
        run(lambda: workspace.activate(name), group=self.viewer_session.workers)

    # --- method and options ------------------------------------------------------------

    def _offer_methods(self) -> None:
        """Fill in what needed torch; by now it is imported."""
        from napari_peftsam.peft import describe_methods
        from napari_peftsam.training import TrainingConfig

        recommended = TrainingConfig(steps=1).method.method
        self._methods = {info.name: info for info in describe_methods()}
        combo = self.view.method
        blocked = combo.blockSignals(True)
        combo.clear()
        for index, info in enumerate(self._methods.values()):
            mark = " (recommended)" if info.name == recommended else ""
            combo.addItem(f"{info.title[:1].upper()}{info.title[1:]}{mark}", info.name)
            combo.setItemData(index, info.description, _TOOLTIP)
        combo.setCurrentIndex(combo.findData(recommended))
        combo.blockSignals(blocked)
        self.view.rate.set_fields(fields_of(TrainingConfig, ["learning_rate"]))
        self._method_changed()

    def _method_changed(self) -> None:
        from napari_peftsam.peft import METHODS

        name = self.view.method.currentData()
        self.view.method.setToolTip(self._methods[name].description)
        fields = fields_of(METHODS[name].config)
        placed = [replace(f, choices=_PLACEMENTS) for f in fields if f.name == "placement"]
        self.view.placement.set_fields(placed)
        self.view.placement.setVisible(bool(placed))
        rest = [f for f in fields if f.name != "placement"]
        # The switches are of interest last.
        self.view.options.set_fields(sorted(rest, key=lambda f: f.kind == "boolean"))
        self._model_changed()

    def _unit_changed(self) -> None:
        self.view.budget.setValue(self._amounts[self.view.unit.currentData()])
        self._options_changed()

    def _budget_changed(self, amount: int) -> None:
        self._amounts[self.view.unit.currentData()] = amount
        self._options_changed()

    def _model_changed(self) -> None:
        workspace = self.viewer_session.workspace
        if workspace is not None and workspace.has_model and self._methods:
            from napari_peftsam.training import recommended_learning_rate

            rate = recommended_learning_rate(workspace.engine.model.architecture)
            self.view.rate.set_placeholder("learning_rate", f"automatic ({rate:g})")
        self._show_compare()
        self._options_changed()

    def _options_changed(self) -> None:
        """Read the forms; what is wrong is shown beside its editor."""
        if not self._methods:
            return
        from napari_peftsam.training import TrainingConfig

        view = self.view
        name = view.method.currentData()
        options = {**view.options.values(), **view.placement.values()}
        self._config, problem = None, ""
        error: ValidationError | None = None
        try:
            method = _method_class(name).model_validate(options)
            budget = {view.unit.currentData(): view.budget.value()}
            self._config = TrainingConfig.model_validate(
                {"method": method, **budget, **view.rate.values()}
            )
        except ValidationError as caught:
            error = caught
        for form in (view.placement, view.options, view.rate):
            problem = form.show_error(error)
        if error is not None:
            view.parameters.setText("" if not problem else f"⚠ {problem}")
        self._option_timer.start()
        self._show_run()

    def _count_parameters(self) -> None:
        """Count what would be trained, in a thread: it builds the model without weights."""
        workspace, config = self.viewer_session.workspace, self._config
        if workspace is None or not workspace.has_model or config is None:
            return
        from napari_peftsam.peft import count_parameters

        if self._counting is not None:
            self._counting.stop()
        architecture, method = workspace.engine.model.architecture, config.method
        self._counting = run(
            lambda: count_parameters(architecture, method),
            on_result=self._show_parameters,
            on_error=self._refuse_options,
            group=self.viewer_session.workers,
        )

    def _show_parameters(self, counts: ParameterCounts) -> None:
        self.view.parameters.setText(
            f"{counts.total:,} trainable parameters, {counts.encoder:,} of them in the encoder"
        )

    def _refuse_options(self, error: Exception) -> None:
        self._config = None
        self.view.parameters.setText(f"⚠ {error}")
        self._show_run()

    # --- data --------------------------------------------------------------------------

    def _data_changed(self) -> None:
        self._split = None
        self._show_data()
        self._data_timer.start()

    def _count_data(self) -> None:
        """Say how the objects will be split, found in a thread: it looks at all labels."""
        session, config = self.viewer_session.session, self._config
        if config is None or not TrainingData.of(session).is_enough:
            return
        from napari_peftsam.training import split_objects

        planes = annotated_planes(session)
        if self._splitting is not None:
            self._splitting.stop()
        self._splitting = run(
            lambda: split_objects(planes, config.held_out, config.seed) if planes else None,
            on_result=self._show_split,
            on_error=lambda error: self.view.summary.setText(f"⚠ {error}"),
            group=self.viewer_session.workers,
        )

    def _show_split(self, split: Split | None) -> None:
        self._split = split
        self._show_data()

    def _show_data(self) -> None:
        data = TrainingData.of(self.viewer_session.session)
        self.view.summary.setText(describe(data, self._split))
        self.view.summary.setToolTip(", ".join(data.names))
        self._show_run()
