"""Large words over the image, for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_peftsam.widgets._parts import stop_timers, timer

if TYPE_CHECKING:
    import napari

_STAYS = 2500  # ms: as long as it takes to answer a prompt anew
_LOOKS: dict[str, Any] = {
    "font_size": 28.0, "position": "top_center", "color": "white", "box": True,
    "box_color": "#000000a0", "visible": True,
}  # fmt: skip


class Banner:
    """Uses napari's text overlay, and leaves it as it was."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self._overlay = viewer.canvas.overlays.text
        self._before: dict[str, Any] = {}
        self._timer = timer(None, _STAYS)
        self._timer.timeout.connect(self.hide)

    def show(self, text: str) -> None:
        """Show a text for a moment."""
        looks = {**_LOOKS, "text": text}
        self._before = self._before or {name: getattr(self._overlay, name) for name in looks}
        self._overlay.update(looks)
        self._timer.start()

    def hold(self) -> None:
        """Let the text stay, if there is one."""
        self._timer.stop()

    def let_go(self) -> None:
        """Let the text go after a moment."""
        self._timer.start()

    def hide(self) -> None:
        """Show what was there before."""
        stop_timers(self._timer)
        before, self._before = self._before, {}
        self._overlay.update(before)
