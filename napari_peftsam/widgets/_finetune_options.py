"""What a user chooses about a finetuning: a recipe or method and options, and the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QSpinBox, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_peftsam.widgets._form import Form, fields_of, message_of
from napari_peftsam.widgets._parts import combo_box, form_layout, text_label, timer
from napari_peftsam.widgets._worker import Worker, run

if TYPE_CHECKING:
    from napari_peftsam.models import SamModel
    from napari_peftsam.peft import MethodInfo, ParameterCounts
    from napari_peftsam.training import Recipe, TrainingConfig
    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["BUDGETS", "FinetuneOptions"]

BUDGETS = {"seconds": 60, "steps": 200, "epochs": 10}
"""Units, as `TrainingConfig` calls them, with a sensible start."""
_OWN = "own"
_DELAY_MS = 150  # parameters are counted when the user pauses


class FinetuneOptions(QWidget):
    """Forms for a `TrainingConfig`, how many parameters it would train.

    A recipe fills the forms; whatever differs from it afterwards is the user's own choice.
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
        self._applied: dict[str, Any] = {}
        self.recipe = combo_box("Settings that belong together; change any of them below")
        self.advice = text_label()
        self.method = combo_box()
        self.placement, self.details, self.rate = Form(), Form(), Form()
        self.collapsible = QCollapsible("Method, placement, rank …")
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
        layout.addLayout(form_layout(("Recipe", self.recipe)))
        layout.addWidget(self.advice)
        layout.addWidget(self.parameters)
        layout.addLayout(form_layout(("Budget", budget)))
        method = QWidget()
        method.setLayout(form_layout(("Method", self.method)))
        for part in (method, self.placement, self.details, self.rate):
            self.collapsible.addWidget(part)
        layout.addWidget(self.collapsible)
        for holder in (self.collapsible, self.collapsible.content()):
            inner = holder.layout()
            assert inner is not None
            inner.setContentsMargins(0, 0, 0, 0)

    def _connect(self) -> None:
        self.recipe.currentIndexChanged.connect(self._apply_recipe)
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
        from napari_peftsam.training import RECIPES, RECOMMENDED, TrainingConfig

        self._methods = {info.name: info for info in describe_methods()}
        for box in (self.method, self.recipe):
            box.blockSignals(True)
            box.clear()
        for info in self._methods.values():
            self.method.addItem(info.title, info.name)
        self.recipe.addItem("Recommended", RECOMMENDED)
        for each in RECIPES.values():
            self.recipe.addItem(each.title, each.name)
        self.recipe.addItem("Own choice", _OWN)
        for box in (self.method, self.recipe):
            box.blockSignals(False)
        self.rate.set_fields(fields_of(TrainingConfig, ["learning_rate"]))
        default = TrainingConfig(steps=1)
        self._fill({"method": default.method, "learning_rate": None})
        self.model_changed()

    def model_changed(self) -> None:
        """Follow another model: what is recommended and possible, and its learning rate."""
        model = self._model()
        if model is None or not self._methods:
            return
        from napari_peftsam.peft import METHODS
        from napari_peftsam.training import recommended_learning_rate

        items = self.method.model()
        assert isinstance(items, QStandardItemModel)
        for index, method in enumerate(METHODS.values()):
            obstacle = method.obstacle(model.device.type)
            item = items.item(index)
            assert item is not None
            item.setToolTip(obstacle or method.description)
            item.setEnabled(not obstacle)
        rate = recommended_learning_rate(model.architecture)
        self.rate.set_placeholder("learning_rate", f"automatic ({rate:g})")
        self._apply_recipe()

    def _model(self) -> SamModel | None:
        workspace = self._owner.workspace
        if workspace is None or not workspace.has_model:
            return None
        return workspace.engine.model

    def _chosen_recipe(self) -> Recipe | None:
        """Return the recipe; None for the user's own choice, or while there is no model."""
        from napari_peftsam.training import recipe

        name, model = self.recipe.currentData(), self._model()
        if name == _OWN or model is None:
            return None
        return recipe(name, model.architecture, self._owner.gpu_memory)

    def _apply_recipe(self) -> None:
        """Fill the forms with the recipe's settings."""
        chosen = self._chosen_recipe()
        if chosen is not None:
            self._fill(chosen.settings())
        self._show_advice(chosen)
        self._read()

    def _fill(self, settings: dict[str, Any]) -> None:
        """Show the settings of a recipe in the forms."""
        self._applied = settings
        method = settings["method"]
        self._without_signals(self.method, self.method.findData(method.method))
        self._show_fields(method.method)
        for name, value in method.model_dump(mode="json").items():
            for form in (self.placement, self.details):
                if name in form.values():
                    form.blockSignals(True)
                    form.set_value(name, value)
                    form.blockSignals(False)
        self.rate.blockSignals(True)
        self.rate.set_value("learning_rate", settings["learning_rate"])
        self.rate.blockSignals(False)

    def _show_advice(self, chosen: Recipe | None) -> None:
        text = "" if chosen is None else chosen.explanation
        self.advice.setText(text)
        self.advice.setVisible(bool(text))

    def _method_changed(self) -> None:
        self._show_fields(self.method.currentData())
        self._read()

    def _show_fields(self, name: str) -> None:
        """Show the method's placement, its own options, and those that all methods have."""
        from napari_peftsam.peft import METHODS, MethodConfig

        self.method.setToolTip(self._methods[name].description)
        fields = fields_of(METHODS[name].config)
        placed = [f for f in fields if f.name == "placement"]
        self.placement.set_fields(placed)
        self.placement.setVisible(bool(placed))
        others = [f for f in fields if f.name != "placement"]
        common = MethodConfig.model_fields
        others.sort(key=lambda f: (f.name in common, f.kind == "boolean"))
        self.details.set_fields(others)

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
        self._note_own_choice()
        problems = [f.show_error(error) for f in (self.placement, self.details, self.rate)]
        self._show_problem("" if error is None else next(filter(None, problems), message_of(error)))
        self._timer.start()
        self.changed.emit()

    def _note_own_choice(self) -> None:
        """Say so when the settings are no longer the recipe's."""
        config = self._config
        same = config is not None and all(
            getattr(config, name) == value for name, value in self._applied.items()
        )
        if not same and self.recipe.currentData() != _OWN:
            self._without_signals(self.recipe, self.recipe.findData(_OWN))
            self._show_advice(None)

    @staticmethod
    def _without_signals(box: QComboBox, index: int) -> None:
        blocked = box.blockSignals(True)
        box.setCurrentIndex(index)
        box.blockSignals(blocked)

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
