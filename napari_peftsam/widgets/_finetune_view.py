"""The widgets of the finetuning dock, laid out; they decide nothing."""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_peftsam.widgets._curve import TrainingCurve
from napari_peftsam.widgets._form import LABEL_WIDTH, Form
from napari_peftsam.widgets._keys import KEYS

__all__ = ["BUDGETS", "FinetuneView"]

# By unit, as `TrainingConfig` calls it: what the user reads, and a sensible start.
BUDGETS = {"seconds": ("seconds", 60), "steps": ("steps", 200), "epochs": ("epochs", 10)}
_WIDTH = 300


class FinetuneView(QScrollArea):
    """The parts of the dock, by name; they scroll where the window is low."""

    def __init__(self, theme: str) -> None:
        super().__init__()
        self.summary = _text()
        self.method = QComboBox()
        self.method.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.method.setMinimumContentsLength(8)
        self.placement, self.options, self.rate = Form(), Form(), Form()
        self.collapsible = QCollapsible("Options")
        self.parameters = _text()
        self.parameters.setToolTip("What the training changes; all other weights stay frozen.")
        self.budget = QSpinBox()
        self.budget.setRange(1, 1_000_000)
        self.budget.setToolTip("How long to train; you can stop earlier and keep the best state.")
        self.unit = QComboBox()
        for unit, (title, _) in BUDGETS.items():
            self.unit.addItem(title, unit)
        self.unit.setToolTip("Seconds of training, steps, or passes over all objects.")
        self.train = QPushButton()
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.status = _text()
        self.curve = TrainingCurve(theme)
        self.outcome = _text()
        self.compare = QPushButton()
        self.compare.setToolTip(
            f"Switch between the adapter before and after this training ({KEYS['before'].shown})."
        )
        self._lay_out()

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return the size of all parts, as wide as a dock should be."""
        inner = self.widget()
        return QSize(_WIDTH, 260 if inner is None else inner.sizeHint().height() + 2)

    def _lay_out(self) -> None:
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.setContentsMargins(8, 6, 8, 6)
        layout.setSpacing(6)
        layout.addWidget(self.summary)
        layout.addLayout(_labelled("Method", self.method))
        layout.addWidget(self.placement)
        for form in (self.options, self.rate):
            self.collapsible.addWidget(form)
        layout.addWidget(self.collapsible)
        layout.addWidget(self.parameters)
        budget = QHBoxLayout()
        budget.addWidget(self.budget, 1)
        budget.addWidget(self.unit, 1)
        layout.addLayout(_labelled("Budget", budget))
        layout.addWidget(self.train)
        for part in (self.progress, self.status, self.curve, self.outcome, self.compare):
            layout.addWidget(part)
        layout.addStretch(1)
        self.setWidget(inner)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)


def _labelled(title: str, editor: QWidget | QHBoxLayout) -> QFormLayout:
    row = QFormLayout()
    row.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    label = QLabel(title)
    label.setMinimumWidth(LABEL_WIDTH)
    row.addRow(label, editor)
    return row


def _text() -> QLabel:
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
