"""What a user chooses about a finetuning: method, placement, options, budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QSpinBox, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_peftsam.widgets._form import Form, fields_of
from napari_peftsam.widgets._parts import combo_box, form_layout, text_label, timer
from napari_peftsam.widgets._worker import Worker, run

if TYPE_CHECKING:
    from napari_peftsam.peft import MethodInfo, ParameterCounts
    from napari_peftsam.training import TrainingConfig
    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["BUDGETS", "FinetuneOptions"]

BUDGETS = {"seconds": 60, "steps": 200, "epochs": 10}
"""Units, as `TrainingConfig` calls them, with a sensible start."""
_PLACEMENTS = ("all", "late-50%", "late-25%", "last")
_DELAY_MS = 150  # parameters are counted when the user pauses


class FinetuneOptions(QWidget):
    """Forms for a `TrainingConfig`, and how many parameters it would train.

    Emits `changed` when `config` may be another. `problem` is a label for the dock to
    place. Everything but the budget is empty until `offer_methods` is called, since the
    methods come with torch.
    """

    changed = QtSignal()

    def __init__(self, owner: ViewerSession) -> None:
        super().__init__()
        self._owner = owner
        self._methods: dict[str, MethodInfo] = {}
        self._amounts = dict(BUDGETS)
        self._config: TrainingConfig | None = None
        self._counting: Worker[Any] | None = None
        self.method = combo_box()
        self.placement, self.details, self.rate = Form(), Form(), Form()
        self.collapsible = QCollapsible("Options")
        self.parameters, self.problem = text_label(), text_label()
        self.problem.hide()
        self.parameters.setToolTip("What the training changes; all other weights stay as they are.")
        self.amount, self.unit = QSpinBox(), QComboBox()
        self._timer = timer(self, _DELAY_MS)
        self._lay_out()
        self._connect()

    @property
    def config(self) -> TrainingConfig | None:
        """What is chosen; None while there is nothing to choose from, or it is not valid."""
        return self._config

    def release(self) -> None:
        """Do not count any more."""
        self._timer.stop()
        if self._counting is not None:
            self._counting.stop()

    # --- layout ------------------------------------------------------------------------

    def _lay_out(self) -> None:
        self.amount.setRange(1, 1_000_000)
        self.amount.setValue(self._amounts["seconds"])
        self.amount.setToolTip("How long to train; stopped earlier, the best state is kept.")
        self.unit.addItems(list(BUDGETS))
        self.unit.setToolTip("Seconds of training, steps, or passes over all objects.")
        budget = QHBoxLayout()
        budget.setSpacing(4)
        budget.addWidget(self.amount, 1)
        budget.addWidget(self.unit, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addLayout(form_layout(("Method", self.method)))
        layout.addWidget(self.placement)
        layout.addWidget(self.parameters)
        layout.addLayout(form_layout(("Budget", budget)))
        for form in (self.details, self.rate):
            self.collapsible.addWidget(form)
        layout.addWidget(self.collapsible)
        for holder in (self.collapsible, self.collapsible.content()):
            inner = holder.layout()
            assert inner is not None
            inner.setContentsMargins(0, 0, 0, 0)

    def _connect(self) -> None:
        self.method.currentIndexChanged.connect(self._method_changed)
        for form in (self.placement, self.details, self.rate):
            form.changed.connect(self._read)
        self.unit.currentTextChanged.connect(self._unit_changed)
        self.amount.valueChanged.connect(self._amount_changed)
        self._timer.timeout.connect(self._count)

    # --- what there is to choose -------------------------------------------------------

    def offer_methods(self) -> None:
        """Fill in what needs torch, which must be imported by now."""
        from napari_peftsam.peft import describe_methods
        from napari_peftsam.training import TrainingConfig

        recommended = TrainingConfig(steps=1).method.method
        self._methods = {info.name: info for info in describe_methods()}
        blocked = self.method.blockSignals(True)
        self.method.clear()
        for index, info in enumerate(self._methods.values()):
            mark = " (default)" if info.name == recommended else ""
            self.method.addItem(f"{info.title[:1].upper()}{info.title[1:]}{mark}", info.name)
            self.method.setItemData(index, info.description, Qt.ItemDataRole.ToolTipRole)
        self.method.setCurrentIndex(self.method.findData(recommended))
        self.method.blockSignals(blocked)
        self.rate.set_fields(fields_of(TrainingConfig, ["learning_rate"]))
        self._method_changed()

    def model_changed(self) -> None:
        """Follow another model: its size, and the learning rate that suits it."""
        workspace = self._owner.workspace
        if workspace is None or not workspace.has_model or not self._methods:
            return
        from napari_peftsam.training import recommended_learning_rate

        rate = recommended_learning_rate(workspace.engine.model.architecture)
        self.rate.set_placeholder("learning_rate", f"automatic ({rate:g})")
        self._read()

    def _method_changed(self) -> None:
        from napari_peftsam.peft import METHODS

        name = self.method.currentData()
        self.method.setToolTip(self._methods[name].description)
        fields = fields_of(METHODS[name].config)
        placed = [replace(f, choices=_PLACEMENTS) for f in fields if f.name == "placement"]
        self.placement.set_fields(placed)
        self.placement.setVisible(bool(placed))
        others = [f for f in fields if f.name != "placement"]
        self.details.set_fields(sorted(others, key=lambda f: f.kind == "boolean"))
        self._read()
        self.model_changed()

    def _unit_changed(self, unit: str) -> None:
        self.amount.setValue(self._amounts[unit])
        self._read()

    def _amount_changed(self, amount: int) -> None:
        self._amounts[self.unit.currentText()] = amount
        self._read()

    # --- what is chosen ----------------------------------------------------------------

    def _read(self) -> None:
        """Read the forms; what is wrong with them is shown beside the editors."""
        if not self._methods:
            return
        error: ValidationError | None = None
        try:
            self._config = self._validated()
        except ValidationError as caught:
            self._config, error = None, caught
        problems = [f.show_error(error) for f in (self.placement, self.details, self.rate)]
        self._show_problem("" if error is None else next(filter(None, problems), str(error)))
        self._timer.start()
        self.changed.emit()

    def _validated(self) -> TrainingConfig:
        from napari_peftsam.peft import METHODS
        from napari_peftsam.training import TrainingConfig

        chosen = METHODS[self.method.currentData()].config
        method = chosen.model_validate({**self.details.values(), **self.placement.values()})
        budget = {self.unit.currentText(): self.amount.value()}
        return TrainingConfig.model_validate({"method": method, **budget, **self.rate.values()})

    def _count(self) -> None:
        """Count the parameters in a thread: it builds the model, if without weights."""
        workspace, config = self._owner.workspace, self._config
        if workspace is None or not workspace.has_model or config is None:
            return
        from napari_peftsam.peft import count_parameters

        if self._counting is not None:
            self._counting.stop()
        architecture, method = workspace.engine.model.architecture, config.method
        self._counting = run(
            lambda: count_parameters(architecture, method),
            on_result=self._show_parameters,
            on_error=self._refuse,
            group=self._owner.workers,
        )

    def _show_parameters(self, counts: ParameterCounts) -> None:
        self.parameters.setText(
            f"Trains {counts.total:,} parameters ({counts.encoder:,} in the encoder)"
        )

    def _refuse(self, error: Exception) -> None:
        """Say why valid options do not fit this model."""
        self._config = None
        self._show_problem(str(error))
        self.changed.emit()

    def _show_problem(self, text: str) -> None:
        self.problem.setText(f"⚠ {text}")
        self.problem.setVisible(bool(text))
        if text:
            self.parameters.clear()
