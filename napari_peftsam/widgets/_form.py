"""A form made from the fields of a pydantic model by magicgui, and a list of images with roles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from magicgui.widgets import CheckBox, SpinBox, create_widget
from magicgui.widgets.bases import ValueWidget
from pydantic import BaseModel, ValidationError
from qtpy.QtCore import QSignalBlocker
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QGridLayout, QLabel, QWidget

from napari_peftsam.app.advice import explain_value
from napari_peftsam.widgets._parts import ElidedLabel, combo_box, fill_combo, form_layout, label_of

_LARGEST = 2**31 - 1  # of Qt's spin boxes
_Schema = Mapping[str, Any]


def fields_of(model: type[BaseModel], names: Iterable[str] | None = None) -> dict[str, _Schema]:
    """Return the JSON schema of a pydantic model's fields, by name.

    Parameters
    ----------
    model
        Its fields are numbers, booleans, literals or texts, or optional ones of these.
    names
        Which fields to return; by default all but constants.
    """
    found = model.model_json_schema(mode="serialization")["properties"]
    return {n: found[n] for n in (found if names is None else names) if "const" not in found[n]}


class Form(QWidget):
    """Editors for some fields, one row each.

    Emits `changed` whenever the user changes a value. The form does not decide what is
    allowed: hand the `values` to the pydantic model and its error to `show_error`.
    """

    changed = QtSignal()

    def __init__(self, fields: Mapping[str, _Schema] | None = None) -> None:
        super().__init__()
        self._fields: dict[str, _Schema] = {}
        self._editors: dict[str, ValueWidget[Any]] = {}
        self._labels: dict[str, QLabel] = {}
        self._rows = form_layout()
        self.setLayout(self._rows)
        self.set_fields(fields or {})

    def set_fields(self, fields: Mapping[str, _Schema]) -> None:
        """Show other fields; fields of the same name and kind keep what was entered.

        A value left at the old default is replaced by the new default.
        """
        before = {
            n: (type(e), e.value) for n, e in self._editors.items() if not self._is_default(n)
        }
        while self._rows.rowCount():
            self._rows.removeRow(0)
        self._fields = dict(fields)
        self._editors, self._labels = {}, {}
        for name, schema in fields.items():
            self._add_row(name, schema)
            kind, value = before.get(name, (None, None))
            if kind is type(self._editors[name]):
                self.set_value(name, value)
            self._editors[name].changed.connect(self._tell)

    def editor(self, name: str) -> QWidget:
        """Return the editor of a field."""
        native: QWidget = self._editors[name].native
        return native

    def values(self) -> dict[str, Any]:
        """Return what is entered; optional fields that are empty are left out."""
        found = {name: editor.value for name, editor in self._editors.items()}
        return {n: v for n, v in found.items() if v != "" or "anyOf" not in self._fields[n]}

    def set_value(self, name: str, value: Any) -> None:
        """Show a value as the user would enter it; None empties an editor of text."""
        editor = self._editors[name]
        if isinstance(editor, SpinBox):
            editor.value = int(max(_details(self._fields[name]).get("minimum", 0), value))
        else:
            editor.value = value if isinstance(editor, CheckBox) else _text(value)

    def update_values(self, values: Mapping[str, Any]) -> None:
        """Show values of the fields that are here, without emitting `changed`."""
        with QSignalBlocker(self):
            for name in self._editors.keys() & values.keys():
                self.set_value(name, values[name])

    def set_placeholder(self, name: str, text: str) -> None:
        """Show in an empty editor what that means."""
        self._editors[name].native.setPlaceholderText(text)

    def show_error(self, error: ValidationError | None) -> str:
        """Mark each field that has a problem (None: clear the marks).

        Returns
        -------
        str
            The first problem in a sentence, empty without one.
        """
        problems = [] if error is None else error.errors(include_url=False)
        texts = [(str(next(iter(p["loc"]), "")), explain_value(p)) for p in problems]
        for name, label in self._labels.items():
            text = next((text for field, text in texts if field == name), "")
            title = self._title(name)
            label.setText(f"⚠ {title}" if text else title)
            label.setWordWrap(label.wordWrap() or bool(text))
            self._editors[name].tooltip = text or self._fields[name].get("description", "")
        if not texts:
            return ""
        name, text = texts[0]
        return f"{self._fields[name]['title']}: {text}" if name in self._fields else text

    def _tell(self) -> None:
        self.changed.emit()

    def _is_default(self, name: str) -> bool:
        return _text(self._editors[name].value) == _text(self._fields[name].get("default"))

    def _title(self, name: str) -> str:
        is_titled = isinstance(self._editors[name], CheckBox)  # by its own text
        return "" if is_titled else str(self._fields[name]["title"])

    def _add_row(self, name: str, schema: _Schema) -> None:
        self._editors[name] = editor = _editor(name, schema)
        native = editor.native
        native.setObjectName(name)
        self._labels[name] = label = label_of(self._title(name))
        label.setToolTip(editor.tooltip or "")
        label.setBuddy(native)
        self._rows.addRow(label, _with_suggestions(native, _details(schema).get("examples", ())))


def _editor(name: str, schema: _Schema) -> ValueWidget[Any]:
    details, value = _details(schema), schema.get("default")
    options: dict[str, Any] = {"tooltip": schema.get("description", "")}
    kind = "LineEdit"
    if "enum" in details:
        kind, options["choices"] = "ComboBox", details["enum"]
    elif details["type"] == "boolean":
        kind, options["text"] = "CheckBox", schema["title"]
    elif details["type"] == "integer" and "anyOf" not in schema:
        kind = "SpinBox"
        # From 0: the editor would turn the first digit of 12 into its own minimum of 4.
        options |= {"min": 0, "max": _LARGEST, "step": details.get("multipleOf", 1)}
    else:
        value = _text(value)
    editor = create_widget(value, name=name, widget_type=kind, options=options)
    assert isinstance(editor, ValueWidget)
    if kind == "LineEdit" and "anyOf" in schema:
        editor.native.setPlaceholderText("automatic")
    return editor


def _details(schema: _Schema) -> dict[str, Any]:
    """Return a field's schema with that of its type; one that may be None has it in `anyOf`."""
    given = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return {**schema, **(given[0] if given else {})}


def _with_suggestions(line: Any, suggestions: Iterable[str]) -> QWidget:
    """Return a line editor as it is or, where there are suggestions, in a box that lists them."""
    if not suggestions:
        native: QWidget = line
        return native
    text, box = line.text(), QComboBox()
    box.setEditable(True)
    box.setLineEdit(line)
    box.addItems(list(suggestions))
    box.setCurrentText(text)
    box.setToolTip(line.toolTip())
    return box


def _text(value: Any) -> str:
    return "" if value is None else str(value)


ROLES = ("automatic", "check on", "leave out")
"""What is done with an image: learnt from unless it happens to be held out, and so on."""


class ImageRoles(QWidget):
    """A list of images with a choice for each; choices stay as objects come and go."""

    changed = QtSignal()

    def __init__(self) -> None:
        super().__init__()
        self._boxes: dict[str, QComboBox] = {}
        self._shown: list[tuple[str, str, int]] = []
        self._grid = QGridLayout()
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(0, 1)
        self.setLayout(self._grid)

    def show_images(self, images: Sequence[tuple[str, str, int]]) -> None:
        """Show images by id, name and number of objects."""
        if list(images) == self._shown:
            return
        self._shown = list(images)
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.hide()
                if widget not in self._boxes.values():
                    widget.deleteLater()
        for row, (image, name, objects) in enumerate(images):
            label = ElidedLabel()
            label.setText(f"{name} · {objects}")
            label.setToolTip(name)
            self._grid.addWidget(label, row, 0)
            self._grid.addWidget(self._box(image), row, 1)
            self._box(image).show()

    def chosen(self, role: str) -> tuple[str, ...]:
        """Return the ids of the images with a role."""
        return tuple(i for i, *_ in self._shown if self._boxes[i].currentText() == role)

    def box(self, image: str) -> QComboBox:
        """Return the choice for an image."""
        return self._boxes[image]

    def _box(self, image: str) -> QComboBox:
        if image not in self._boxes:
            box = combo_box("Learn from it, check on it, or leave it out")
            fill_combo(box, [(role, role) for role in ROLES], 0)
            box.currentIndexChanged.connect(lambda _: self.changed.emit())
            self._boxes[image] = box
        return self._boxes[image]
