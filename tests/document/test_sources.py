"""Images by reference: found again, missing, changed; arrays without a file kept inside."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.document import (
    Document,
    Found,
    ImageId,
    ImageSource,
    Store,
    create_project,
    describe_source,
    find_source,
    is_digest_of,
    open_project,
    plane_digest,
    read_pixels,
    save_copy,
    store_pixels,
)
from napari_peftsam.errors import ProjectError
from napari_peftsam.planes import LazyImage

RNG = np.random.default_rng(0)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a project's folder, images beside and below it, and images far away."""
    for folder in ("study/projects/images", "study/images", "far/away/images"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.tif").write_bytes(b"pixels")
    zarr = tmp_path / "study/images/b.zarr/0"
    zarr.mkdir(parents=True)
    (zarr / "chunk").write_bytes(b"123")
    (zarr.parent / "meta").write_bytes(b"12345")
    return tmp_path


PROJECT = "study/projects/p.peftsam"


@pytest.mark.parametrize(
    ("image", "path", "size"),
    [
        ("study/projects/images/a.tif", "images/a.tif", 6),
        ("study/images/a.tif", "../images/a.tif", 6),
        ("study/images/b.zarr", "../images/b.zarr", 8),
        ("far/away/images/a.tif", "{study}/far/away/images/a.tif", 6),
    ],
    ids=["below", "beside", "folder", "far"],
)
def test_references(study: Path, image: str, path: str, size: int) -> None:
    source = describe_source(study / image, study / PROJECT, series=2)
    assert (source.path, source.size) == (path.format(study=study), size)
    assert (source.series, source.absolute) == (2, str(study / image))
    assert find_source(source, study / PROJECT) == Found("there", study / image)


def test_a_document_without_a_file_refers_to_absolute_paths(study: Path) -> None:
    source = describe_source(study / "study/images/a.tif", None)
    assert source.path == str(study / "study/images/a.tif")
    assert find_source(source, None).state == "there"


def test_a_missing_file_cannot_be_described(study: Path) -> None:
    with pytest.raises(ProjectError, match=r"none\.tif cannot be read .*: check the path"):
        describe_source(study / "none.tif", None)


# --- moved, missing, changed --------------------------------------------------------


def move_together(study: Path) -> None:
    (study / "study").rename(study / "moved")


def move_project(study: Path) -> None:
    (study / "moved/projects").mkdir(parents=True)


def remove(study: Path) -> None:
    move_together(study)
    (study / "moved/images/a.tif").unlink()


def touch(study: Path) -> None:
    move_project(study)
    os.utime(study / "study/images/a.tif", ns=(1, 1))


def rewrite(study: Path) -> None:
    move_together(study)
    (study / "moved/images/a.tif").write_bytes(b"other pixels")


def copy_with_other_times(study: Path) -> None:
    move_together(study)
    os.utime(study / "moved/images/a.tif", ns=(1, 1))


@pytest.mark.parametrize(
    ("happen", "state", "where", "text"),
    [
        (move_together, "there", "moved", ""),
        (move_project, "there", "study", ""),
        (remove, "missing", "moved", "is not there: locate it"),
        (touch, "changed", "study", "has changed since"),
        (rewrite, "changed", "moved", "has changed since"),
        (copy_with_other_times, "there", "moved", ""),
    ],
)
def test_what_has_become_of_a_file(study: Path, happen, state: str, where: str, text: str) -> None:
    source = describe_source(study / "study/images/a.tif", study / PROJECT)
    happen(study)
    found = find_source(source, study / "moved/projects/p.peftsam")
    assert (found.state, found.path) == (state, study / where / "images/a.tif")
    assert text in found.text


@pytest.mark.parametrize("source", [None, ImageSource()], ids=["in memory", "nothing known"])
def test_an_image_that_was_never_a_file(source: ImageSource | None) -> None:
    found = find_source(source, None)
    assert found.state == "missing"
    assert "never saved" in found.text


def test_a_copy_elsewhere_finds_the_same_files(study: Path) -> None:
    with closing(create_project(study / PROJECT)) as store:
        document = Document(store)
        for name in ("study/images/a.tif", "far/away/images/a.tif"):
            source = describe_source(study / name, store.path)
            document.add_image(name, np.zeros((4, 5)), source=source)
        lost = replace(source, path="../lost.tif", absolute="")
        document.add_image("lost", np.zeros((4, 5)), source=lost)
        copy = study / "far/away/copy.peftsam"
        save_copy(store, copy)
    with closing(open_project(copy)) as store:
        sources = [info.source for info in store.images().values()]
    assert [each and each.path for each in sources] == [
        str(study / "study/images/a.tif"), "images/a.tif", "../lost.tif",
    ]  # fmt: skip
    assert [find_source(each, copy).state for each in sources] == ["there", "there", "missing"]


# --- pixels -------------------------------------------------------------------------

ARRAYS = {
    "grey": RNG.integers(0, 255, (40, 50), np.uint8),
    "big-endian": np.arange(12, dtype=">u2").reshape(3, 4),
    "float": RNG.random((2, 3, 4)).astype(np.float16),
    "bool": np.eye(4, dtype=np.bool_),
    "fortran": np.asfortranarray(RNG.random((5, 6))),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_kept_as_they_are(tmp_path: Path, name: str) -> None:
    path, array = tmp_path / "a.peftsam", ARRAYS[name]
    with closing(create_project(path)) as store:
        source = store_pixels(store, array)
        assert find_source(source, path) == Found("inside")
    with closing(open_project(path)) as store:
        found = read_pixels(store, source)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_large_arrays_are_kept_in_parts() -> None:
    array = np.arange(5_000_000)  # 40 MB
    with closing(Store.in_memory()) as store:
        np.testing.assert_array_equal(read_pixels(store, store_pixels(store, array)), array)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.broadcast_to(np.uint8(1), (23_000, 23_000)), "529 MB, a project keeps up to 512 MB"),
        (np.array([[{}]]), "holds object, not numbers"),
    ],
    ids=["large", "objects"],
)
def test_arrays_that_a_project_does_not_keep(array: np.ndarray, message: str) -> None:
    with closing(Store.in_memory()) as store, pytest.raises(ProjectError, match=message):
        store_pixels(store, array)


def test_a_copy_may_hold_the_images(tmp_path: Path) -> None:
    pixels = ARRAYS["grey"]
    with closing(Store.in_memory()) as store:
        image = Document(store).add_image("cells", pixels)
        save_copy(store, tmp_path / "b.peftsam", {image: pixels})
        assert store.images()[image].source is None
    with closing(open_project(tmp_path / "b.peftsam")) as copy:
        source = copy.images()[ImageId("cells")].source
        assert source is not None
        np.testing.assert_array_equal(read_pixels(copy, source), pixels)


def lazy(array: np.ndarray) -> LazyImage:
    return LazyImage(array, tuple(range(array.ndim)))


@pytest.mark.parametrize("shape", [(3000, 700), (20, 30), (900, 900, 3)])
def test_digests_tell_other_pixels(shape: tuple[int, ...]) -> None:
    plane = RNG.integers(0, 255, shape, np.uint8)
    other = plane.copy()
    other[3, 4] += 1
    for one, two in ((plane, other), (lazy(plane), lazy(other))):
        digest = plane_digest(one)
        assert digest == plane_digest(one)
        assert is_digest_of(digest, plane)
        assert is_digest_of(digest, lazy(plane))
        assert not is_digest_of(digest, two)
    assert not is_digest_of(plane_digest(plane), plane.astype(np.uint16))
    assert is_digest_of(plane_digest(plane.astype(">u2")), plane.astype("<u2"))


def test_a_digest_of_a_plane_on_disk_reads_a_fixed_share() -> None:
    class Counting:
        shape, dtype, read = (100_000, 80_000), np.dtype(np.uint8), 0

        def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
            part = np.zeros([s.stop - s.start for s in key], np.uint8)
            self.read += part.size
            return part

    plane = Counting()
    plane_digest(plane)
    assert plane.read == 16 * 256 * 256
