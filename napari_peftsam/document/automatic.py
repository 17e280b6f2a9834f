"""Projects without a name of their own, kept in the user's data folder."""

from __future__ import annotations

import uuid
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from napari_peftsam.document.filesystem import ProjectLock
from napari_peftsam.document.project import SUFFIX, create_project, is_open_elsewhere, open_project
from napari_peftsam.document.replay import summary
from napari_peftsam.document.store import Store
from napari_peftsam.errors import ProjectError
from napari_peftsam.folders import create_folder, project_folder, resolved

__all__ = [
    "AutomaticProject",
    "create_automatic",
    "delete_automatic",
    "list_automatic",
    "newest_automatic",
    "prune_automatic",
]

_KEPT = 20
_LOOK_SECONDS = 1.0  # whoever lists the projects holds each of them for less


@dataclass(frozen=True)
class AutomaticProject:
    """A project without a name.

    Attributes
    ----------
    path
        Its file.
    time
        UTC time of its last action in ISO 8601, or of its making if it has none.
    images
        Names of its images.
    objects, actions
        Numbers of its accepted objects and of its actions.
    is_open
        Whether a viewer has it open now.
    is_interrupted
        True if its viewer was killed rather than closed.
    problem
        Reason it cannot be read; empty if it can.
    """

    path: Path
    time: str
    images: tuple[str, ...] = ()
    objects: int = 0
    actions: int = 0
    is_open: bool = False
    is_interrupted: bool = False
    problem: str = ""


def create_automatic() -> Store:
    """Create a project without a name, which only the user may read."""
    folder = project_folder()
    try:
        create_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise ProjectError(
            f"{folder} cannot be made ({error.strerror}): save the project under a name"
        ) from error
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return create_project(folder / f"{now}-{uuid.uuid4().hex[:6]}{SUFFIX}", private=True)


def list_automatic() -> list[AutomaticProject]:
    """Return the projects without a name, the newest first."""
    # Hidden are those that are just being made.
    found = [_describe(path) for path in project_folder().glob(f"[!.]*{SUFFIX}")]
    return sorted(found, key=lambda project: project.time, reverse=True)


def newest_automatic() -> AutomaticProject | None:
    """Return the project to resume: the newest with content that no viewer has open."""
    candidates = (p for p in list_automatic() if p.actions and not p.is_open)
    return next(candidates, None)


def delete_automatic(path: Path) -> None:
    """Delete a project without a name, unless it is open."""
    if resolved(path).parent != resolved(project_folder()):
        raise ProjectError(f"{path} was saved under a name: delete it in the file manager")
    lock = ProjectLock(path)
    try:
        if not lock.acquire(_LOOK_SECONDS):
            raise ProjectError(f"{path} is open in {lock.owner}: close it there first")
        try:
            for suffix in ("-shm", "", "-wal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        finally:
            lock.release()
    except OSError as error:
        raise ProjectError(
            f"{path} cannot be deleted ({error.strerror}): check the rights of its folder"
        ) from error


def prune_automatic(kept: int = _KEPT) -> None:
    """Delete empty projects, and all but the last ones; never one that is open or unreadable."""
    closed = [p for p in list_automatic() if not p.is_open and not p.problem]
    full = [p for p in closed if p.actions]
    for project in [*(p for p in closed if not p.actions), *full[kept:]]:
        with suppress(ProjectError):  # another viewer has just opened or deleted it
            delete_automatic(project.path)


def _describe(path: Path) -> AutomaticProject:
    is_open = is_open_elsewhere(path)
    is_interrupted = not is_open and path.with_name(f"{path.name}-wal").exists()
    time = ""
    try:
        time = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat("T", "milliseconds")
        with closing(open_project(path, read_only=True)) as store:
            found = summary(store)
            names = tuple(info.name for info in store.images().values() if not info.is_removed)
            time = (store.times() or (time,))[-1]
    except (ProjectError, OSError) as error:
        return AutomaticProject(path, time, is_open=is_open, problem=str(error))
    numbers = int(found["objects"]), int(found["actions"])
    return AutomaticProject(path, time, names, *numbers, is_open, is_interrupted)
