"""What is trained on and what is held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from napari_peftsam.errors import LabelError, TrainingError
from napari_peftsam.training import AnnotatedPlane, split_objects
from tests.training._world import make_plane


def test_whole_images_are_held_out_where_there_are_several() -> None:
    planes = [make_plane(f"image {i}", i) for i in range(5)]
    split = split_objects(planes, 0.2, seed=0)
    assert split.by == "image"
    held = {o.plane for o in split.held_out}
    assert len(held) == 1
    assert held.isdisjoint(o.plane for o in split.training)
    assert len(split.training) == 4 * len(split.held_out) == 32


def test_planes_of_one_stack_stay_together() -> None:
    planes = [make_plane(f"s[{z}]", z, image="stack") for z in range(3)] + [make_plane("other")]
    split = split_objects(planes, 0.5, seed=1)
    assert split.by == "image"
    held = {planes[o.plane].image for o in split.held_out}
    assert held.isdisjoint(planes[o.plane].image for o in split.training)


def test_a_single_image_is_cut_into_regions() -> None:
    split = split_objects([make_plane("only")], 0.25, seed=0)
    assert split.by == "region"
    assert (len(split.training), len(split.held_out)) == (6, 2)
    assert min(o.bbox[0] for o in split.held_out) > max(o.bbox[0] for o in split.training)


@pytest.mark.parametrize(
    ("counts", "share", "held"),
    [
        pytest.param([8, 2], 0.2, {2}, id="the large one is learned from"),
        pytest.param([2, 2, 2, 2, 2], 0.4, {4}, id="two of five"),
        pytest.param([8, 7], 0.2, {7}, id="the smaller of two large ones"),
        pytest.param([8, 1, 1], 0.1, {1}, id="one small image is enough"),
    ],
)
@pytest.mark.parametrize("seed", range(4))
def test_the_share_is_of_the_objects(
    counts: list[int], share: float, held: set[int], seed: int
) -> None:
    planes = [make_plane(f"image {i}") for i in range(len(counts))]
    planes = [
        replace(plane, labels=np.where(plane.labels <= count, plane.labels, 0))
        for plane, count in zip(planes, counts, strict=True)
    ]
    split = split_objects(planes, share, seed)
    assert {len(split.held_out)} == held
    assert len(split.training) == sum(counts) - len(split.held_out)


def test_the_last_planes_of_a_single_stack_are_held_out() -> None:
    planes = [make_plane(f"s[{z}]", z, image="stack") for z in range(4)]
    split = split_objects(planes, 0.25, seed=0)
    assert split.by == "region"
    assert {o.plane for o in split.held_out} == {3}


@pytest.mark.parametrize("seed", range(6))
def test_images_that_were_trained_on_are_not_held_out_later(seed: int) -> None:
    planes = [make_plane(f"image {i}", i) for i in range(6)]
    first = split_objects(planes[:5], 0.2, seed)
    trained = {planes[o.plane].name: [o.label] for o in first.training}
    then = split_objects(planes, 0.3, seed, trained)
    held = {planes[o.plane].name for o in then.held_out}
    assert held
    assert held.isdisjoint(trained)


def test_of_several_new_images_some_are_learned_from() -> None:
    planes = [make_plane(f"image {i}") for i in range(6)]
    known = {plane.name: range(100) for plane in planes[:4]}
    split = split_objects(planes, 0.2, 0, known)
    assert {o.plane for o in split.held_out} | {4, 5} == {4, 5}
    assert {4, 5} & {o.plane for o in split.training}


@pytest.mark.parametrize(
    ("known", "held"),
    [
        pytest.param({"a": range(100)}, {"b": 3}, id="much of a new image is learned from"),
        pytest.param({"a": range(5), "b": range(7)}, {"b": 2, "a": 1}, id="new objects in both"),
        pytest.param({"a": range(3), "b": range(100)}, {"a": 3}, id="new objects in the first"),
    ],
)
def test_parts_of_images_are_held_out_where_that_leaves_new_objects_to_learn_from(
    known: dict[str, range], held: dict[str, int]
) -> None:
    planes = [make_plane(name) for name in "ab"]
    split = split_objects(planes, 0.2, 0, known)
    assert split.by == "region"
    assert Counter(planes[o.plane].image for o in split.held_out) == held
    assert all(o.label not in known.get(planes[o.plane].name, ()) for o in split.held_out)
    if len(known) == 1:
        in_b = [o for o in split.training if planes[o.plane].image == "b"]
        assert min(o.bbox[0] for o in split.held_out) >= max(o.bbox[0] for o in in_b)


def test_where_few_objects_of_known_images_are_new_a_whole_image_is_held_out() -> None:
    planes = [make_plane(name) for name in "ab"]
    split = split_objects(planes, 0.2, 0, {"a": range(100), "b": range(7)})
    assert split.by == "image"
    assert {planes[o.plane].image for o in split.training} in ({"a"}, {"b"})


def test_an_end_of_the_new_image_is_held_out_whatever_stands_behind_it() -> None:
    planes = [make_plane(name) for name in "ab"]
    split = split_objects(planes, 0.2, 0, {"b": range(6)})
    assert {o.plane for o in split.held_out} == {0}


def test_an_image_that_was_held_out_stays_so() -> None:
    planes = [make_plane(name) for name in "ab"]
    split = split_objects(planes, 0.2, 0, {"a": range(100), "b": ()})
    assert split.by == "image"
    assert {o.plane for o in split.held_out} == {1}


def test_a_new_image_that_is_about_the_share_is_held_out() -> None:
    planes = [make_plane(f"image {i}") for i in range(4)]
    known = {plane.name: range(100) for plane in planes[:3]}
    split = split_objects(planes, 0.2, 0, known)
    assert split.by == "image"
    assert {o.plane for o in split.held_out} == {3}
    assert len(split.held_out) == 8


def test_objects_that_were_trained_on_are_not_held_out_later() -> None:
    plane = make_plane("only")
    trained = {"only": [o.label for o in split_objects([plane], 0.25, 0).training]}
    then = split_objects([plane], 0.5, 0, trained)
    assert {o.label for o in then.held_out}.isdisjoint(trained["only"])
    assert len(then.training) + len(then.held_out) == 8


def test_where_all_were_trained_on_some_are_held_out_all_the_same() -> None:
    planes = [make_plane(f"image {i}", i) for i in range(3)]
    everything = {plane.name: range(100) for plane in planes}
    assert len(split_objects(planes, 0.3, 0, everything).held_out) == 8
    assert len(split_objects(planes[:1], 0.25, 0, {"image 0": range(100)}).held_out) == 2


def test_a_plane_without_background_keeps_all_its_objects() -> None:
    labels = np.repeat(np.repeat(np.arange(1, 5).reshape(2, 2), 20, 0), 20, 1)
    plane = AnnotatedPlane("a", "a", np.zeros(labels.shape, np.uint8), labels)
    split = split_objects([plane], 0.25, seed=0)
    assert sorted(o.label for o in (*split.training, *split.held_out)) == [1, 2, 3, 4]


def test_the_same_seed_gives_the_same_split() -> None:
    planes = [make_plane(f"image {i}", i) for i in range(6)]
    assert split_objects(planes, 0.3, seed=3) == split_objects(planes, 0.3, seed=3)


@pytest.mark.parametrize("labels", [[1], [1, 2]])
def test_too_few_objects_are_refused_with_what_to_do(labels: list[int]) -> None:
    plane = make_plane("a")
    kept = np.where(np.isin(plane.labels, labels), plane.labels, 0)
    few = AnnotatedPlane("a", "a", plane.pixels, kept)
    with pytest.raises(TrainingError, match=f"at least 3 annotated objects, found {len(labels)}"):
        split_objects([few], 0.2, seed=0)


def test_specks_of_the_brush_are_no_objects() -> None:
    plane = make_plane("a")
    labels = plane.labels.copy()
    labels[0, 0:4] = 99
    split = split_objects([AnnotatedPlane("a", "a", plane.pixels, labels)], 0.2, seed=0)
    assert 99 not in {o.label for o in (*split.training, *split.held_out)}


def test_sparse_and_huge_label_numbers_cost_nothing() -> None:
    plane = make_plane("a")
    labels = np.where(plane.labels > 0, plane.labels.astype(np.int64) * 10**9, 0)
    split = split_objects([AnnotatedPlane("a", "a", plane.pixels, labels)], 0.2, seed=0)
    assert len(split.training) + len(split.held_out) == 8
    assert all(o.label % 10**9 == 0 for o in split.training)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda a: a.astype(float), "must be whole numbers", id="float labels"),
        pytest.param(lambda a: a[:-1], "must match", id="other shape"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    plane = make_plane("a")
    with pytest.raises(LabelError, match=message):
        AnnotatedPlane("a", "a", plane.pixels, change(plane.labels))


def test_chosen_images_are_held_out() -> None:
    planes = [make_plane(name) for name in ("a", "b", "c")]
    split = split_objects(planes, 0.2, 0, check_on=("b",))
    assert {planes[o.plane].image for o in split.held_out} == {planes[1].image}
    assert {planes[o.plane].image for o in split.training} == {planes[0].image, planes[2].image}
    assert split.by == "image"


@pytest.mark.parametrize(
    ("check_on", "why"),
    [
        (("z",), "'z' to check on has no object: choose one of 'a', 'b'"),
        (("a", "b"), "leave one to learn from"),
    ],
    ids=["unknown", "all"],
)
def test_images_to_check_on_leave_some_to_learn_from(check_on: tuple[str, ...], why: str) -> None:
    with pytest.raises(TrainingError, match=why):
        split_objects([make_plane("a"), make_plane("b")], 0.2, 0, check_on=check_on)
