"""A small form made from a pydantic model: titles, help, limits and errors come from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from qtpy.QtCore import Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from napari_peftsam.widgets._parts import form_layout, label_of, text_label

__all__ = ["Form", "FormField", "fields_of", "message_of"]

_LARGEST = 2**31 - 1  # of a QSpinBox


@dataclass(frozen=True)
class FormField:
    """One field of a form.

    Attributes
    ----------
    kind
        ``integer``, ``number``, ``boolean``, ``choice`` or ``text``.
    choices
        All allowed values of a ``choice``, suggestions for a ``text``.
    optional
        Whether it may be left empty, which means the default.
    """

    name: str
    title: str
    help: str
    kind: str
    default: Any = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    minimum: int = 0
    step: int = 1


def fields_of(model: type[BaseModel], names: Iterable[str] | None = None) -> tuple[FormField, ...]:
    """Return the fields of a pydantic model that a form can show.

    Parameters
    ----------
    model
        Its fields are numbers, booleans, literals or texts, or optional ones of these.
    names
        Which ones; by default all but constants.
    """
    properties = model.model_json_schema(mode="serialization")["properties"]
    chosen = properties if names is None else {name: properties[name] for name in names}
    return tuple(_field(name, p) for name, p in chosen.items() if "const" not in p)


def _field(name: str, schema: Mapping[str, Any]) -> FormField:
    variants = schema.get("anyOf", [schema])
    given = [v for v in variants if v.get("type") != "null"]
    details = {**schema, **given[0]}
    kind = "choice" if "enum" in details else str(details["type"])
    return FormField(
        name=name,
        title=str(schema["title"]),
        help=str(schema.get("description", "")),
        kind="text" if kind == "string" else kind,
        default=schema.get("default"),
        choices=tuple(details.get("enum", details.get("examples", ()))),
        optional=len(given) < len(variants),
        minimum=int(details.get("minimum", 0)),
        step=int(details.get("multipleOf", 1)),
    )


def message_of(error: ValidationError) -> str:
    """Return what is wrong in one sentence, also where fields contradict each other."""
    return _message(error.errors(include_url=False)[0])


def _message(problem: Mapping[str, Any]) -> str:
    return str(problem.get("ctx", {}).get("error", problem["msg"]))


class Form(QWidget):
    """Editors for some fields, one row each, with room for an error below each editor.

    Emits `changed` whenever the user changes a value. The form does not decide what is
    allowed: hand the `values` to the pydantic model and its error to `show_error`.
    """

    changed = QtSignal()

    def __init__(self, fields: Sequence[FormField] = (), parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._fields: tuple[FormField, ...] = ()
        self._editors: dict[str, QWidget] = {}
        self._problems: dict[str, QLabel] = {}
        self._rows = form_layout()
        self.setLayout(self._rows)
        self.set_fields(fields)

    def set_fields(self, fields: Sequence[FormField]) -> None:
        """Show other fields; fields of the same name and kind keep what was entered.

        What was left at the old default comes with the new one.
        """
        entered = ((f, self._value(f)) for f in self._fields)
        kept = {(f.name, f.kind): v for f, v in entered if str(v) != str(f.default)}
        while self._rows.rowCount():
            self._rows.removeRow(0)
        self._fields = tuple(fields)
        self._editors, self._problems = {}, {}
        blocked = self.blockSignals(True)  # not before all of them are there
        for field in fields:
            self._add_row(field)
            if (field.name, field.kind) in kept:
                self.set_value(field.name, kept[field.name, field.kind])
        self.blockSignals(blocked)

    def editor(self, name: str) -> QWidget:
        """Return the editor of a field."""
        return self._editors[name]

    def values(self) -> dict[str, Any]:
        """Return what is entered; optional fields that are empty are left out."""
        found = {f.name: self._value(f) for f in self._fields}
        return {name: value for name, value in found.items() if value is not None}

    def set_value(self, name: str, value: Any) -> None:
        """Show a value; what the editor cannot show is brought to what it can."""
        editor = self._editors[name]
        if isinstance(editor, QSpinBox):
            editor.setValue(int(value or 0))
        elif isinstance(editor, QCheckBox):
            editor.setChecked(bool(value))
        elif isinstance(editor, QComboBox):
            editor.setCurrentText(str(value))
        elif isinstance(editor, QLineEdit):
            editor.setText("" if value is None else str(value))

    def set_placeholder(self, name: str, text: str) -> None:
        """Say what an empty editor means."""
        editor = self._editors[name]
        assert isinstance(editor, QLineEdit)
        editor.setPlaceholderText(text)

    def show_error(self, error: ValidationError | None) -> str:
        """Show each problem below its editor (None: clear them).

        Returns
        -------
        str
            The first problem with its field's title, empty if this form has none.
        """
        for label in self._problems.values():
            label.hide()
        titles = {field.name: field.title for field in self._fields}
        first = ""
        for problem in error.errors(include_url=False) if error else ():
            name = next((str(p) for p in problem["loc"] if str(p) in titles), None)
            if name is not None:
                text = _message(problem)
                self._problems[name].setText(f"⚠ {text}")
                self._problems[name].show()
                first = first or f"{titles[name]}: {text}"
        return first

    def _add_row(self, field: FormField) -> None:
        editor = self._editor_of(field)
        editor.setObjectName(field.name)
        editor.setToolTip(field.help)
        label = label_of("" if field.kind == "boolean" else field.title)
        label.setToolTip(field.help)
        label.setBuddy(editor)
        problem = text_label()
        problem.setObjectName(f"{field.name}-problem")
        problem.hide()
        self._editors[field.name], self._problems[field.name] = editor, problem
        self._rows.addRow(label, editor)
        self._rows.addRow(problem)

    def _editor_of(self, field: FormField) -> QWidget:
        editor: QWidget
        if field.kind == "boolean":
            editor = box = QCheckBox(field.title)
            box.setChecked(bool(field.default))
            box.toggled.connect(self._tell)
        elif field.kind == "integer" and not field.optional:
            editor = self._spin_box(field)
        elif field.choices:
            editor = self._choice(field)
        else:
            editor = line = QLineEdit("" if field.default is None else str(field.default))
            line.setPlaceholderText("automatic" if field.optional else "")
            line.textChanged.connect(self._tell)
        return editor

    def _spin_box(self, field: FormField) -> QSpinBox:
        box = QSpinBox()
        box.setRange(field.minimum, _LARGEST)
        box.setSingleStep(field.step)
        box.setValue(int(field.default or 0))
        box.setAlignment(Qt.AlignmentFlag.AlignRight)
        box.valueChanged.connect(self._tell)
        return box

    def _choice(self, field: FormField) -> QComboBox:
        box = QComboBox()
        box.addItems(field.choices)
        box.setEditable(field.kind == "text")
        box.setCurrentText(str(field.default))
        box.currentTextChanged.connect(self._tell)
        return box

    def _tell(self) -> None:
        self.changed.emit()

    def _value(self, field: FormField) -> Any:
        editor = self._editors[field.name]
        if isinstance(editor, QSpinBox):
            return editor.value()
        if isinstance(editor, QCheckBox):
            return editor.isChecked()
        if isinstance(editor, QComboBox):
            return editor.currentText()
        assert isinstance(editor, QLineEdit)
        return editor.text().strip() or (None if field.optional else "")
