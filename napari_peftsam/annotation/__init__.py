"""The annotation core: images, prompts, objects and undo, without Qt and torch."""

from __future__ import annotations

from napari_peftsam.annotation._objects import NewObject, Overlap, PaintAtom
from napari_peftsam.annotation.current import Answerer, CurrentObject
from napari_peftsam.annotation.edits import Edit, Step
from napari_peftsam.annotation.events import SessionEvents
from napari_peftsam.annotation.history import History
from napari_peftsam.annotation.images import AnnotatedImage
from napari_peftsam.annotation.journal import (
    SavedImage,
    SavedSession,
    load_session,
    read_session,
    save_session,
)
from napari_peftsam.annotation.records import ObjectRecord, PlaneKey
from napari_peftsam.annotation.session import Session

__all__ = [
    "AnnotatedImage",
    "Answerer",
    "CurrentObject",
    "Edit",
    "History",
    "NewObject",
    "ObjectRecord",
    "Overlap",
    "PaintAtom",
    "PlaneKey",
    "SavedImage",
    "SavedSession",
    "Session",
    "SessionEvents",
    "Step",
    "load_session",
    "read_session",
    "save_session",
]
