"""Recovery of a damaged project into a copy."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.document import actions as act
from napari_peftsam.document.derive import utc_now
from napari_peftsam.document.document import Document
from napari_peftsam.document.filesystem import ProjectLock
from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.project import save_copy
from napari_peftsam.document.records import BACKGROUND, PROPOSALS, ImageInfo
from napari_peftsam.document.replay import play
from napari_peftsam.document.salvage import Salvage, salvage
from napari_peftsam.document.sources import moved_source
from napari_peftsam.document.store import Store
from napari_peftsam.document.tables import TileKey, put_tile
from napari_peftsam.errors import PeftSamError, ProjectError, count_text
from napari_peftsam.folders import resolved
from napari_peftsam.limits import check_file

__all__ = ["Recovery", "recover_project"]

Arrays = dict[str, Any]
_STATE = ("images", "objects", "tiles")  # tables


@dataclass
class Recovery:
    """Report on the recovery of a damaged project.

    Attributes
    ----------
    actions
        Number of the first actions that the copy's history holds.
    is_history_whole
        True if these are all actions. The results of others are kept as far as readable.
    rebuilt_tiles
        Damaged label tiles that the history rebuilt.
    lost_tiles
        Damaged label tiles that are empty now, or older.
    lost_records
        Image and label of objects of which only the pixels are there.
    lost_objects
        Image and label of objects of which only the record was there.
    lost_blobs
        Content hashes of damaged adapters and stored images.
    lost_images
        Images of which too little is known to show them.
    images, objects
        Number of images and objects in the copy.
    in_doubt
        Tables of the present state that were not wholly readable, nor rebuilt by the history: what
        they held may be lost.
    most_objects_in_doubt
        Objects that may be lost with them, at most; None if nothing says how many there were.
    """

    actions: int = 0
    is_history_whole: bool = True
    rebuilt_tiles: list[TileKey] = field(default_factory=list)
    lost_tiles: list[TileKey] = field(default_factory=list)
    lost_records: list[tuple[ImageId, int]] = field(default_factory=list)
    lost_objects: list[tuple[ImageId, int]] = field(default_factory=list)
    lost_blobs: tuple[str, ...] = ()
    lost_images: list[ImageId] = field(default_factory=list)
    images: int = 0
    objects: int = 0
    in_doubt: tuple[str, ...] = ()
    most_objects_in_doubt: int | None = 0

    @property
    def has_losses(self) -> bool:
        """True if a part of the present state, not only of the history, is or may be lost."""
        lost = self.lost_images, self.lost_tiles, self.lost_records, self.lost_objects
        return any((*lost, self.lost_blobs, self.in_doubt))

    @property
    def text(self) -> str:
        """One or two sentences for the user."""
        lost = (
            (len(self.lost_images), "image", "images"),
            (len(self.lost_tiles), "tile of labels", "tiles of labels"),
            (len(self.lost_records), "record of an object", "records of objects"),
            (len(self.lost_objects), "object", "objects"),
            (len(self.lost_blobs), "adapter or stored image", "adapters or stored images"),
        )
        named = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in lost if n)
        if not self.is_history_whole:
            named = ", ".join(filter(None, ("a part of the history", named)))
        if not self.in_doubt:
            return f"Recovered; lost: {named}." if named else "Recovered; nothing was lost."
        most = self.most_objects_in_doubt
        objects = "objects" if most is None else f"up to {count_text(most, 'object')}"
        doubt = {"images": "images", "objects": objects, "tiles": "parts of labels"}
        there = f"{count_text(self.objects, 'object')} in {count_text(self.images, 'image')}"
        return (
            f"Recovered {there}; lost: {named}. More may be lost: "
            f"{', '.join(doubt[each] for each in self.in_doubt)}; compare with a backup copy."
        )


def recover_project(path: str | Path, target: str | Path) -> Recovery:
    """Write the readable part of a damaged project into a copy; the project stays as it is.

    The history is replayed up to the first unreadable action. The stored present state is
    then imported over the result.

    Raises
    ------
    ProjectError
        If the project is open, nothing in it can be read, or the copy cannot be written.
    """
    path, target = map(resolved, (path, target))
    if path == target:
        raise ProjectError(f"{path} is the damaged project itself: choose another name")
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = salvage(_working_copy(path, Path(folder)))
    except OSError as error:
        raise ProjectError(f"{path} cannot be read ({error.strerror}): check the disk") from error
    if not found.actions and not found.images:
        raise ProjectError(f"{path} holds nothing that can be read: open a backup copy of it")
    store = Store.in_memory()
    for data in found.blobs.values():
        store.put_blob(data)
    report = _rebuild(found, store)
    store.write_infos({
        image: replace(info, source=moved_source(info.source, path, target))
        for image, info in store.images().items()
    })  # fmt: skip
    save_copy(store, target)
    store.close()
    return report


def _working_copy(path: Path, folder: Path) -> Path:
    lock = ProjectLock(path)
    is_free = True
    with suppress(OSError):  # a folder that cannot be written: nobody writes there
        is_free = lock.acquire()
    if not is_free:
        raise ProjectError(f"{path} is open in {lock.owner}: close it there first")
    try:
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                check_file(source, ProjectError)
            if source.exists() or not suffix:
                shutil.copyfile(source, folder / source.name)
    finally:
        lock.release()
    return folder / path.name


def _rebuild(found: Salvage, store: Store) -> Recovery:
    """Do the readable actions again, then import the stored state where it differs."""
    report, last = Recovery(lost_blobs=found.lost_blobs), max(found.actions, default=0)
    document = Document(store)
    with suppress(PeftSamError):
        for number in range(1, last + 1):
            if number not in found.actions:
                break
            play(document, found.actions[number])
    report.actions = store.last_number
    is_log_whole = "actions" not in found.incomplete
    report.is_history_whole = is_log_whole and report.actions == last
    document.clock = utc_now  # what is done from here on happens now
    _bring_back(document, found)
    infos = found.added | store.images() | found.images
    for image, info in infos.items():
        try:
            _restore_image(document, image, info, found, report)
        except PeftSamError:
            report.lost_images.append(image)
    report.lost_images += sorted({key.image for key in found.tiles} - {*infos})
    _restore_fields(document, found)
    needed = {each.digest for each in document.adapters}
    needed |= {i.source.digest for i in store.images().values() if i.source and not i.source.path}
    unread = needed - {"", *found.blobs, *found.lost_blobs}
    report.lost_blobs += tuple(sorted(unread))
    _count(document, found, report)
    return report


def _count(document: Document, found: Salvage, report: Recovery) -> None:
    """Count what the copy holds, and what may be missing where the history ends too early."""
    images = document.images.values()
    report.images, report.objects = len(images), sum(len(image.records) for image in images)
    if report.is_history_whole:
        return
    report.in_doubt = tuple(each for each in _STATE if each in found.incomplete)
    if "images" in report.in_doubt:
        report.most_objects_in_doubt = None
        return
    # Numbers are given out once, so an image never had more objects; some may have been deleted.
    missing = (found.images.get(i.id, i.info).next_label - 1 - len(i.records) for i in images)
    most = report.most_objects_in_doubt = sum(max(0, number) for number in missing)
    report.in_doubt = tuple(each for each in report.in_doubt if each != "objects" or most)


def _bring_back(document: Document, found: Salvage) -> None:
    """Undo removals of images that were there in the end: undo was in the unreadable part."""
    known = document.store.images()
    wanted = {image for image, info in found.images.items() if not info.is_removed} & {*known}
    while not wanted <= {*document.images} and document.undo() is not None:
        pass


def _restore_image(
    document: Document, image: ImageId, info: ImageInfo, found: Salvage, report: Recovery
) -> None:
    if image not in document.images:
        if info.is_removed and image in document.store.images():
            return
        document.do(act.AddImage(image, replace(info, complete=(), is_removed=False)))
    entry = document.image(image)
    arrays = _stored_arrays(entry, found, report)
    records = {n: record for (where, n), record in found.objects.items() if where == image}
    known = {**entry.records, **records}
    _restore_objects(document, entry, arrays, known, found)
    report.lost_records += [(image, n) for n in entry.records if n not in known]
    report.lost_objects += [(image, n) for n in records if n not in entry.records]
    _restore_background(document, entry, arrays.get(BACKGROUND))
    for region in (*entry.info.complete, *info.complete):
        document.do(act.MarkComplete(image, region, region in info.complete))
    document.do(act.RenameImage(image, info.name))
    if info.source != entry.info.source and info.source is not None:
        document.do(act.LocateImage(image, info.source))
    if info.is_removed:
        document.do(act.RemoveImage(image))


def _restore_objects(
    document: Document,
    entry: DocumentImage,
    arrays: Arrays,
    known: dict[int, ObjectRecord],
    found: Salvage,
) -> None:
    """Make the objects of an image those that are stored, one label set after the other."""
    stored = {n for where, n in found.objects if where == entry.id}
    moved = [n for n, r in entry.records.items() if known[n].label_set != r.label_set]
    document.do(act.DeleteObjects(entry.id, tuple(moved)))  # they come back in the other one
    for name in [each for each in arrays if each != BACKGROUND]:
        labels, own = arrays[name], {n: r for n, r in known.items() if r.label_set == name}
        labels[np.isin(labels, [n for n in known if n not in own])] = 0
        if "objects" not in found.incomplete:
            # Old pixels under a damaged tile may belong to objects that are gone.
            labels[~np.isin(labels, [0, *(own.keys() & stored)])] = 0
        before = {n: r for n, r in entry.records.items() if r.label_set == name}
        if (labels != entry.array(name)).any() or before != {n: own[n] for n in own if n in stored}:
            document.do(act.ImportLabels(entry.id, labels, tuple(own.values()), name))


def _stored_arrays(entry: DocumentImage, found: Salvage, report: Recovery) -> Arrays:
    """Return the stored labels and background; what the history gave where they are damaged."""
    sets = dict.fromkeys((*entry.label_sets, *(key.label_set for key in found.tiles)))
    # Proposals are those of the history: they can be made anew.
    objects = sets.keys() - {BACKGROUND, PROPOSALS}
    replayed: Arrays = {name: entry.array(name) for name in sets if name in objects}
    replayed[BACKGROUND] = entry.background
    arrays: Arrays = {}
    for label_set, array in replayed.items():
        like = np.zeros(entry.shape, np.uint8) if array is None else array
        replayed[label_set] = like
        # Tiles without objects are not stored; one that is lost looks the same.
        whole = "tiles" not in found.incomplete
        arrays[label_set] = np.zeros_like(like) if whole else like.copy()
    for key, data in found.tiles.items():
        if key.image != entry.id or key.label_set not in arrays:
            continue
        try:
            put_tile(arrays[key.label_set], key, data)
        except (PeftSamError, ValueError, TypeError):
            with suppress(ValueError, TypeError):
                window = key.window(entry.shape)
                arrays[key.label_set][window] = replayed[key.label_set][window]
            (report.rebuilt_tiles if report.is_history_whole else report.lost_tiles).append(key)
    return arrays


def _restore_background(document: Document, entry: DocumentImage, stored: Any) -> None:
    before = 0 if entry.background is None else entry.background.copy()
    for is_background in (True, False):
        where = np.flatnonzero((stored != before) & (stored == is_background))
        if len(where):
            document.do(act.PaintBackground(entry.id, where, is_background))


def _restore_fields(document: Document, found: Salvage) -> None:
    fields = found.fields
    for adapter in fields.get("adapters", ()):
        document.do(act.AddAdapter(adapter))
    for run in fields.get("runs", ())[len(document.runs) :]:
        document.do(act.AddRun(run))
    with suppress(PeftSamError):
        live = fields.get("live", document.live)
        document.do(act.UseAdapter(live.name, live.strength, live.model))
        pending = fields.get("pending", document.pending)
        if pending.plane is not None and pending.queue != document.queue:
            document.do(act.SetQueue(pending.plane, pending.queue))
        elif pending.plane is None:
            document.do(act.Discard(everything=True))
