"""Options of a finetuning: a recipe or a method with its options, and the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from qtpy.QtCore import QSignalBlocker
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QStandardItemModel
from qtpy.QtWidgets import QComboBox, QSpinBox, QWidget
from superqt import QCollapsible

from napari_peftsam.widgets._form import Form, ImageRoles, fields_of
from napari_peftsam.widgets._parts import (
    beside,
    combo_box,
    fill_combo,
    form_layout,
    stacked,
    text_label,
    timer,
)
from napari_peftsam.widgets._runner import Worker

if TYPE_CHECKING:
    from napari_peftsam.models import SamModel
    from napari_peftsam.peft import ParameterCounts
    from napari_peftsam.training import Recipe, TrainingConfig
    from napari_peftsam.widgets.session import ViewerSession

_BUDGETS = {"seconds": 60, "steps": 200, "epochs": 10}
"""Units, as `TrainingConfig` calls them, with a sensible start."""
_OWN = "own"
_DELAY_MS = 150  # parameters are counted when the user pauses


class FinetuneOptions(QWidget):
    """Forms for a `TrainingConfig`, and the number of parameters it would train.

    A recipe fills the forms; whatever differs from it afterwards is the user's own choice.
    Emits `changed` when `config` may be another. `problem` is a label for the dock to
    place. Everything but the budget is empty until `offer_methods` is called, since the
    methods come with torch.

    Attributes
    ----------
    config
        What is chosen; None while there is nothing to choose from, or it is not valid.
    form
        Options of the method, its placement first, and the learning rate.
    every
        After how many more accepted objects a training starts by itself, 0 for never.
    """

    changed = QtSignal()

    def __init__(self, owner: ViewerSession) -> None:
        super().__init__()
        self._owner = owner
        self.config: TrainingConfig | None = None
        self._amounts = dict(_BUDGETS)
        self._counting: Worker | None = None
        self._applied: dict[str, Any] = {}
        self.recipe = combo_box("Settings that belong together; change any of them below")
        self.method, self.form = combo_box(), Form()
        self.collapsible = QCollapsible("Method, placement, rank …")
        self.roles, self.images = ImageRoles(), QCollapsible("Images")
        self.advice, self.parameters, self.problem = text_label(), text_label(), text_label()
        self.problem.hide()
        self.parameters.setToolTip("What the training changes; all other weights stay as they are.")
        self.amount, self.unit, self.every = QSpinBox(), QComboBox(), QSpinBox()
        self._timer = timer(self, _DELAY_MS)
        self._lay_out()
        for signal, slot in (
            (self.recipe.currentIndexChanged, self._apply_recipe),
            (self.method.currentIndexChanged, self._method_changed),
            (self.form.changed, self._read),
            (self.roles.changed, self._read),
            (self.unit.currentTextChanged, self._unit_changed),
            (self.amount.valueChanged, self._amount_changed),
            (self._timer.timeout, self._count),
        ):
            signal.connect(slot)

    def release(self) -> None:
        """Do not count any more."""
        self._timer.stop()
        if self._counting is not None:
            self._counting.cancel()

    def _lay_out(self) -> None:
        self.amount.setRange(1, 1_000_000)
        self.amount.setValue(self._amounts["seconds"])
        self.amount.setToolTip("How long to train; stopped earlier, the best state is kept.")
        self.unit.addItems(list(_BUDGETS))
        self.unit.setToolTip("Seconds of training, steps, or passes over all objects.")
        budget = beside(self.amount, self.unit)
        self.every.setRange(0, 10_000)
        self.every.setSpecialValueText("off")
        self.every.setPrefix("every ")
        self.every.setSuffix(" new objects")
        self.every.setToolTip("Train again whenever so many more objects are accepted.")
        method = QWidget()
        method.setLayout(form_layout(("Method", self.method)))
        self.collapsible.addWidget(method)
        self.collapsible.addWidget(self.form)
        self.images.addWidget(self.roles)
        folded = [part.layout() for part in (self.collapsible, self.images)]
        folded += [part.content().layout() for part in (self.collapsible, self.images)]
        for inner in folded:
            assert inner is not None
            inner.setContentsMargins(0, 0, 0, 0)
        rows = (
            form_layout(("Recipe", self.recipe)),
            form_layout(("Budget", budget), ("Repeat", self.every)),
        )
        stacked(
            rows[0], self.advice, rows[1], self.images, self.collapsible, self.parameters,
            inside=self,
        )  # fmt: skip

    # --- what there is to choose -------------------------------------------------------

    def offer_methods(self) -> None:
        """Fill in what needs torch, which must be imported by now."""
        from napari_peftsam.peft import METHODS
        from napari_peftsam.training import RECIPES, RECOMMENDED, TrainingConfig

        recipes = [(each.title, each.name) for each in RECIPES.values()]
        for box, items in (
            (self.method, [(method.title, name) for name, method in METHODS.items()]),
            (self.recipe, [("Recommended", RECOMMENDED), *recipes, ("Own choice", _OWN)]),
        ):
            fill_combo(box, items, 0)
        self._fill({"method": TrainingConfig(steps=1).method, "learning_rate": None})
        self.model_changed()

    def model_changed(self) -> None:
        """Follow another model: what is recommended and possible, and its learning rate."""
        model = self._model()
        if model is None or not self.method.count():
            return
        from napari_peftsam.peft import METHODS

        items = self.method.model()
        assert isinstance(items, QStandardItemModel)
        for index, method in enumerate(METHODS.values()):
            obstacle = method.obstacle(model.device.type)
            item = items.item(index)
            assert item is not None
            item.setToolTip(obstacle or method.description)
            item.setEnabled(not obstacle)
        self._show_fields(self.method.currentData())
        self._apply_recipe()

    def _model(self) -> SamModel | None:
        workspace = self._owner.workspace
        return workspace.engine.model if workspace and workspace.has_model else None

    def _apply_recipe(self) -> None:
        """Fill the forms with the settings of the recipe, if there is one."""
        from napari_peftsam.training import recipe

        name, model = self.recipe.currentData(), self._model()
        chosen: Recipe | None = None
        if name != _OWN and model is not None:
            chosen = recipe(name, model.architecture, self._owner.gpu_memory)
            self._fill(chosen.settings())
        self._show_advice("" if chosen is None else chosen.explanation)
        self._read()

    def _fill(self, settings: dict[str, Any]) -> None:
        """Show the settings of a recipe in the forms."""
        self._applied, method = settings, settings["method"]
        _choose(self.method, method.method)
        self._show_fields(method.method)
        rate = settings["learning_rate"]
        self.form.update_values({**method.model_dump(mode="json"), "learning_rate": rate})

    def _show_advice(self, text: str) -> None:
        self.advice.setText(text)
        self.advice.setVisible(bool(text))

    def _method_changed(self) -> None:
        self._show_fields(self.method.currentData())
        if self.recipe.currentData() != _OWN:  # its rate was meant for its method
            self.form.set_value("learning_rate", None)
        self._read()

    def _show_fields(self, name: str) -> None:
        """Show the method's placement, its own options, those of all methods, and the rate."""
        from napari_peftsam.peft import METHODS, MethodConfig
        from napari_peftsam.training import TrainingConfig, recommended_learning_rate

        self.method.setToolTip(METHODS[name].description)
        fields, common = fields_of(METHODS[name]), MethodConfig.model_fields

        def rank(name: str) -> tuple[bool, bool, bool]:
            is_boolean = fields[name].get("type") == "boolean"
            return name != "placement", name in common, is_boolean

        shown = [name for name in fields if not fields[name].get("expert")]
        fields = {name: fields[name] for name in sorted(shown, key=rank)}
        self.form.set_fields({**fields, **fields_of(TrainingConfig, ["learning_rate"])})
        model = self._model()
        if model is not None:
            rate = recommended_learning_rate(model.architecture)
            self.form.set_placeholder("learning_rate", f"automatic ({rate:g})")

    def _unit_changed(self, unit: str) -> None:
        self.amount.setValue(self._amounts[unit])
        self._read()

    def _amount_changed(self, amount: int) -> None:
        self._amounts[self.unit.currentText()] = amount
        self._read()

    # --- what is chosen ----------------------------------------------------------------

    def _read(self) -> None:
        """Read the forms, and mark what is wrong with them."""
        if not self.method.count():
            return
        error: ValidationError | None = None
        try:
            self.config = self._validated()
        except ValidationError as caught:
            self.config, error = None, caught
        self._note_own_choice()
        self._show_problem(self.form.show_error(error))
        self._timer.start()
        self.changed.emit()

    def _note_own_choice(self) -> None:
        """Show that the settings are no longer the recipe's."""
        config = self.config
        same = config is not None and all(
            getattr(config, name) == value for name, value in self._applied.items()
        )
        if not same and self.recipe.currentData() != _OWN:
            _choose(self.recipe, _OWN)
            self._show_advice("")

    def _validated(self) -> TrainingConfig:
        from napari_peftsam.peft import METHODS
        from napari_peftsam.training import TrainingConfig

        method, values = METHODS[self.method.currentData()], self.form.values()
        options = {n: values.pop(n) for n in method.model_fields if n in values}
        applied = self._applied["method"]
        if isinstance(applied, method):  # what a recipe set and the form does not show
            options = applied.model_dump(mode="json") | options
        budget = {self.unit.currentText(): self.amount.value()}
        chosen = method.model_validate(options)
        images = {"check_on": self.roles.chosen("check on")}
        images["leave_out"] = self.roles.chosen("leave out")
        hidden = self._applied.items() if self.recipe.currentData() != _OWN else ()
        rest = {name: value for name, value in hidden if name not in {"method", *values}}
        return TrainingConfig.model_validate(
            {"method": chosen, **rest, **budget, **images, **values}
        )

    def _count(self) -> None:
        """Count the parameters in a thread: it builds the model, if without weights."""
        model, config = self._model(), self.config
        if model is None or config is None:
            return
        from napari_peftsam.peft import count_parameters

        if self._counting is not None:
            self._counting.cancel()
        architecture, method = model.architecture, config.method
        self._counting = self._owner.workers.run(
            lambda: count_parameters(architecture, method),
            on_result=self._show_parameters,
            on_error=self._refuse,
        )

    def _show_parameters(self, counts: ParameterCounts) -> None:
        self.parameters.setText(
            f"Trains {counts.total:,} parameters ({counts.encoder:,} in the encoder)"
        )

    def _refuse(self, error: Exception) -> None:
        """Show why valid options do not fit this model."""
        self.config = None
        self._show_problem(str(error))
        self.changed.emit()

    def _show_problem(self, text: str) -> None:
        self.problem.setText(f"⚠ {text}")
        self.problem.setVisible(bool(text))
        if text:
            self.parameters.clear()


def _choose(box: QComboBox, name: str) -> None:
    """Choose the item of a name without a signal."""
    with QSignalBlocker(box):
        box.setCurrentIndex(box.findData(name))
