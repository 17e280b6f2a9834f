"""Base of all docks: their viewer's session, their connections, and a tidy end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from qtpy.QtCore import QCoreApplication, QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QAbstractButton, QDockWidget, QMainWindow, QWidget

from napari_peftsam.widgets.keys import load_keys
from napari_peftsam.widgets.session import ViewerSession, session_of

if TYPE_CHECKING:
    import napari

_log = logging.getLogger(__name__)


class Dock(QWidget):
    """A dock that notices when napari removes it or closes.

    Attributes
    ----------
    viewer_session
        What it shares with the other docks of that viewer.
    is_tab
        True for docks that lie behind each other.
    """

    is_tab = True

    def __init__(self, viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer_session: ViewerSession = session_of(viewer)
        load_keys()
        self._listened: list[tuple[Any, Callable[..., object]]] = []
        self._life = life = _Life(self)
        session = self.viewer_session
        # Not a method of this dock: nothing is left of it by then.
        self.destroyed.connect(lambda *_: None if life.released else session.close())
        self.viewer_session.events.closed.connect(self._release_once)
        # Later: two threads that import at once wait for each other.
        QTimer.singleShot(0, self.viewer_session.open)

    def listen(self, *connections: tuple[Any, Callable[..., object]]) -> None:
        """Connect signals that outlive the dock to its slots, until the dock goes."""
        for signal, slot in connections:
            signal.connect(slot)
        self._listened += connections

    def release(self) -> None:
        """Let go of keys, callbacks and own workers; called once, when the dock goes.

        If its window goes, the dock's widgets are gone already: stop what does not need
        them first.
        """

    def event(self, event: QEvent | None) -> bool:
        """Notice being docked, removed and closed."""
        kind = None if event is None else event.type()
        if kind == QEvent.Type.ParentChange and self.parent() is None:
            self._release_once()  # napari takes a dock's widget out before it drops it
        elif kind == QEvent.Type.ParentChange:
            QTimer.singleShot(0, self._life.watch)  # it may never be shown
        elif kind == QEvent.Type.Show:
            self._watch_window()
        elif kind == QEvent.Type.Close and self.isWindow():
            self._release_once()
        return bool(super().event(event))

    def _watch_window(self) -> None:
        outermost: QWidget = self  # not window(): that is the dock while it floats
        while (parent := outermost.parentWidget()) is not None:
            outermost = parent
        if isinstance(outermost, QMainWindow) and not self._life.watched:
            self._life.watched = True
            self._share_place(outermost)
            session = self.viewer_session  # not this dock: it is half destroyed by then
            outermost.destroyed.connect(lambda *_: session.close())
            _Closing(outermost, session)
            if self.window() is outermost:  # a panel keeps its keys
                _leave_keys(outermost, self)

    def _share_place(self, window: QMainWindow) -> None:
        """Become a tab of another dock of the plugin: stacked, they would not fit the screen."""
        docked = {d: d.findChild(Dock) for d in window.findChildren(QDockWidget)}
        own = next((holder for holder, dock in docked.items() if dock is self), None)
        if own is None or not self.is_tab or own.isFloating() or window.tabifiedDockWidgets(own):
            return
        area = window.dockWidgetArea(own)
        for holder, dock in docked.items():
            is_beside = window.dockWidgetArea(holder) == area and not holder.isFloating()
            if dock is not None and dock is not self and dock.is_tab and is_beside:
                window.tabifyDockWidget(holder, own)
                own.raise_()
                return

    def _release_once(self) -> None:
        if self._life.released:
            return
        self._life.released = True
        self.viewer_session.events.closed.disconnect(self._release_once)
        for signal, slot in self._listened:
            signal.disconnect(slot)
        try:
            self.release()
        except RuntimeError:  # with its window, Qt has deleted its widgets before
            _log.debug("released late", exc_info=True)


class _Life:
    """State of a dock that outlives it: released or not, its window watched or not."""

    def __init__(self, dock: Dock) -> None:
        self._dock = ref(dock)
        self.released = False
        self.watched = False

    def watch(self) -> None:
        """Watch the window that the dock is in, if there still is a dock."""
        dock = self._dock()
        if dock is not None and not self.released:
            dock._watch_window()  # noqa: SLF001


def _leave_keys(window: QMainWindow, dock: Dock) -> None:
    """Give the keys to the canvas when a button of the dock, or of napari's, was clicked."""
    beside = window.findChild(QDockWidget, "layer list")  # has napari's Home button, too
    for holder in filter(None, (dock, beside)):
        for button in holder.findChildren(QAbstractButton):
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)  # has the focus by the keyboard only
            button.clicked.connect(partial(_clicked, ref(window), ref(button)))


def _clicked(window: ref[QMainWindow], button: ref[QAbstractButton]) -> None:
    shown, clicked = window(), button()
    if shown is not None and clicked is not None and not clicked.hasFocus():
        shown.setFocus()  # which hands its keys on to the canvas


class _Closing(QObject):
    """Tells a session that its window is closing, before napari takes the layers out."""

    def __init__(self, window: QMainWindow, session: ViewerSession) -> None:
        super().__init__(window)
        self._session, self._window = session, window
        window.installEventFilter(self)
        application = QCoreApplication.instance()
        if application is not None:  # it may end before the window is destroyed
            application.aboutToQuit.connect(self._close)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Look at the events of the window; all of them go on to it."""
        if event is not None and event.type() == QEvent.Type.Close:
            self._session.window_closes()
            QTimer.singleShot(0, self._closed)  # unless the user takes it back
        return False

    def _closed(self) -> None:
        if not self._window.isVisible():
            self._close()

    def _close(self) -> None:
        self._session.close()
