"""Signals of the bridge between layers and document."""

from __future__ import annotations

from psygnal import Signal, SignalGroup


class BridgeEvents(SignalGroup):
    """Signals of a `LayerBridge`."""

    images_changed = Signal()
    """Image layers came, went or were renamed."""
    image_changed = Signal()
    """Another image is being annotated."""
    plane_changed = Signal()
    """Another plane of it is shown."""
    view_moved = Signal()
    """Another part of the plane is shown."""
    object_picked = Signal(int, bool)
    """The user clicked on an object; whether to add it to the selection."""
    proposal_picked = Signal(int)
    """The user clicked on a proposal."""
    part_drawn = Signal(object)
    """The user drew around a part of the plane in which to look for objects: its `Window`."""
    hovered = Signal(object)
    """The mouse is where a click would ask for an object, as a `Point`; None: elsewhere."""
    tool_changed = Signal()
    """Another prompt tool is active, or prompts have another sign."""
    own_layers_changed = Signal()
    """There are other layers for prompts, masks or objects."""
    hint = Signal(str)
    """Something the user tried cannot be done; says what can."""
    failed = Signal(object)
    """An action was refused or could not be saved: the error."""
    image_wanted = Signal(str)
    """An image came back whose pixels were not read yet: its id."""
