"""The table of the objects of one image; cheap for thousands of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QItemSelectionModel, QModelIndex, QSize, Qt
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_peftsam.document import Document, ImageId, ObjectRecord
    from napari_peftsam.widgets.layers import LayerBridge

FILTERS = ("all", "low score", "not looked at", "corrected")
"""Which objects are listed."""

_LOW, _BAD = 0.75, 0.5  # predicted IoU; below, a mask is doubtful, or bad
_COLUMNS = ("id", "area", "source", "score", "✎", "plane", "class", "model")
_SCORE = _COLUMNS.index("score")
_TIPS = (
    "Label in the objects layer",
    "Area: in square units where the size of a pixel is known, else in pixels",
    "How it came about",
    "IoU that the model predicted: a hint, not a verdict",
    "Corrected by hand",
    "Plane of the stack in which it was made",
    "Class",
    "Adapter, or model without one",
)
_WIDTHS = (46, 58, 50, 38, 20, 36, 54)
_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class ObjectsModel(QAbstractTableModel):
    """Rows are objects, the newest first; texts are made only for the rows in sight.

    `layers` has the pixel size of images and the colours of objects.
    """

    PLANE, CLASS = _COLUMNS.index("plane"), _COLUMNS.index("class")
    SOURCE, MODEL = _COLUMNS.index("source"), _COLUMNS.index("model")

    def __init__(
        self, document: Document, layers: LayerBridge, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._document, self._layers = document, layers
        self._image: ImageId | None = None
        self._records: tuple[ObjectRecord, ...] = ()
        self._filter, self._column, self._is_ascending = FILTERS[0], 0, False
        self._looked: dict[ImageId, set[int]] = {}
        self._rows: dict[int, int] = {}

    @property
    def image(self) -> ImageId | None:
        """The image whose objects are shown, None if there is none."""
        return self._image

    def show_image(self, image: ImageId | None) -> None:
        """Show the objects of an image as they are now."""
        records = self._listed(image)
        same_rows = image == self._image and _labels(records) == _labels(self._records)
        if same_rows:  # keeps selection and scroll position
            self._records = records
            if records:
                last = self.index(len(records) - 1, len(_COLUMNS) - 1)
                self.dataChanged.emit(self.index(0, 0), last)
            return
        self.beginResetModel()
        self._image, self._records = image, records
        self._rows = {record.label: row for row, record in enumerate(records)}
        self.endResetModel()

    def filter(self, which: str) -> None:
        """List all objects, or some of them, see `FILTERS`."""
        self._filter = which
        self.show_image(self._image)

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort the rows by a column."""
        self._column, self._is_ascending = column, order == Qt.SortOrder.AscendingOrder
        self.show_image(self._image)

    def look_at(self, labels: Iterable[int]) -> None:
        """Take note that the user has seen these objects."""
        if self._image is not None:
            self._looked.setdefault(self._image, set()).update(labels)

    def _listed(self, image: ImageId | None) -> tuple[ObjectRecord, ...]:
        """Return the records of an image that are listed, in their order."""
        if image is None:
            return ()
        entry, looked = self._document.image(image), self._looked.get(image, set())
        tests: dict[str, Callable[[ObjectRecord], bool]] = {
            "low score": lambda r: r.score is not None and r.score < _LOW,
            "not looked at": lambda r: r.label not in looked and not r.corrected,
            "corrected": lambda r: r.corrected,
        }
        found: Iterable[ObjectRecord] = entry.records.values()
        if self._filter in tests:
            found = filter(tests[self._filter], found)
        keys: dict[str, Callable[[ObjectRecord], Any]] = {
            "area": lambda r: entry.area(r.label),
            "source": lambda r: r.source,
            "score": lambda r: -1.0 if r.score is None else r.score,
            "✎": lambda r: r.corrected,
            "plane": lambda r: r.index,
            "class": lambda r: r.category,
            "model": _version,
        }
        ordered = sorted(found, key=lambda r: r.label, reverse=not self._is_ascending)
        key = keys.get(_COLUMNS[self._column])
        if key is not None:
            ordered.sort(key=key, reverse=not self._is_ascending)
        return tuple(ordered)

    def label(self, row: int) -> int:
        """Return the label of the object in a row."""
        return self._records[row].label

    def row(self, label: int) -> int | None:
        """Return the row of an object, None if it has none."""
        return self._rows.get(label)

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Return the number of objects."""
        return 0 if parent is not None and parent.isValid() else len(self._records)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Return the number of columns."""
        return len(_COLUMNS)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return the titles of the columns and what they mean."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return _COLUMNS[section]
        return _TIPS[section] if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return a cell's text or alignment."""
        if role == Qt.ItemDataRole.DecorationRole and index.column() == 0:
            return self._swatch(self._records[index.row()].label)
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == _SCORE:
            return _score_colour(self._records[index.row()].score)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return _RIGHT if index.column() in (0, 1, 3, 5) else None
        if role not in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole):
            return None
        record = self._records[index.row()]
        is_tip = role == Qt.ItemDataRole.ToolTipRole
        return (self._tip if is_tip else self._text)(record, index.column())

    def area(self, label: int, *, in_pixels: bool = False) -> str:
        """Return the area of an object in all its planes, in words."""
        assert self._image is not None, "it has objects"
        pixels = self._document.image(self._image).area(label)
        if in_pixels:
            return f"{pixels} pixels"
        return self._layers.metadata_of(self._image).area_text(pixels)

    def _swatch(self, label: int) -> QColor | None:
        """Return the colour of an object on the canvas."""
        layer = self._layers.objects if self._layers.image_id == self._image else None
        colour = None if layer is None else layer.get_color(label)
        return None if colour is None else QColor.fromRgbF(*map(float, colour[:3]))

    def _tip(self, record: ObjectRecord, column: int) -> str:
        if column == 0:
            return ", ".join(filter(None, (record.source, _version(record))))
        is_area = column == 1
        return self.area(record.label, in_pixels=True) if is_area else self._text(record, column)

    def _text(self, record: ObjectRecord, column: int) -> str:
        if column == 1:
            return self.area(record.label)
        return (
            str(record.label),
            "",
            record.source,
            "" if record.score is None else f"{record.score:.2f}",
            "✎" if record.corrected else "",
            ", ".join(map(str, record.index)),
            record.category,
            _version(record),
        )[column]


class ObjectsTable(QTableView):
    """The objects of an image; a click on a row asks to see the object."""

    object_clicked = QtSignal(int)

    def __init__(self, document: Document, layers: LayerBridge) -> None:
        super().__init__()
        self.objects = ObjectsModel(document, layers, self)
        self.setModel(self.objects)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # letters stay keys of the canvas
        self.setMinimumHeight(90)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        rows, columns = self.verticalHeader(), self.horizontalHeader()
        assert rows is not None
        assert columns is not None
        rows.hide()
        rows.setDefaultSectionSize(20)
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        columns.setHighlightSections(False)  # bold titles do not fit
        columns.setSectionResizeMode(len(_COLUMNS) - 1, QHeaderView.ResizeMode.Stretch)
        columns.setSortIndicator(0, Qt.SortOrder.DescendingOrder)
        self.setSortingEnabled(True)
        columns.setMinimumSectionSize(20)
        for column, width in enumerate(_WIDTHS):
            columns.resizeSection(column, width)
        selection = self.selectionModel()
        assert selection is not None
        selection.selectionChanged.connect(lambda: self.objects.look_at(self.selected_labels()))
        self.clicked.connect(lambda at: self.object_clicked.emit(self.objects.label(at.row())))

    def sizeHint(self) -> QSize:  # noqa: N802  # Qt's name
        """Return its least height: it takes the room there is, and makes no dock scroll."""
        return QSize(super().sizeHint().width(), self.minimumHeight())

    def show_columns(self, *, planes: bool, classes: bool) -> None:
        """Show planes and classes where there are any; there is no room for all columns then.

        The source and the model are left out in their place; the tip of an object has them.
        """
        model = self.objects
        self.setColumnHidden(model.PLANE, not planes)
        self.setColumnHidden(model.CLASS, not classes)
        self.setColumnHidden(model.SOURCE, planes or classes)
        self.setColumnHidden(model.MODEL, planes and classes)

    def selected_labels(self) -> list[int]:
        """Return the labels of the selected rows, smallest first."""
        selection = self.selectionModel()
        rows = selection.selectedRows() if selection is not None else []
        return sorted(self.objects.label(index.row()) for index in rows)

    def select(self, label: int, *, add: bool = False) -> None:
        """Select one object, or add it to the selection; nothing if there is no such object."""
        row, selection = self.objects.row(label), self.selectionModel()
        if row is None:
            return
        if add and selection is not None:
            flags = QItemSelectionModel.SelectionFlag
            index = self.objects.index(row, 0)
            selection.select(index, flags.Toggle | flags.Rows)
            self.scrollTo(index)
        else:
            self.selectRow(row)


def _score_colour(score: float | None) -> QColor | None:
    """Return the colour of a doubtful score, as of the outlines on the canvas."""
    if score is None or score >= _LOW:
        return None
    return QColor("#ff9f0a" if score >= _BAD else "#ff3b30")


def _version(record: ObjectRecord) -> str:
    """Return the adapter that predicted an object, or the model without one."""
    return record.adapter if record.adapter not in ("", "base") else record.model


def _labels(records: tuple[ObjectRecord, ...]) -> list[int]:
    return [record.label for record in records]
