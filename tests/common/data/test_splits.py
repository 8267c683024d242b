"""A split is the same for good: a set that grows moves hardly an image between its parts."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.samples import Sample
from common.data.splits import return_trained, split

ROOT = Path("/d")


def made(labels: list[list[int]], root: str = "/d") -> list[Sample]:
    """A sample for each label of an image; none: one sample that shows nothing."""
    return [
        Sample(f"{root}/{number // 7}/{number:04d}.jpg", 8, 8, np.array([label], np.float32))
        for number, shown in enumerate(labels)
        for label in shown or [-1]
    ]


def shown(sample: Sample) -> list[int]:
    return [int(label) for label in sample.annotation if label >= 0]


def names(samples: list[Sample], root: str = "/d") -> list[str]:
    return [os.path.relpath(sample.image, root) for sample in samples]


def sides(samples: list[Sample], valid: float, test: float) -> dict[str, int]:
    """The part of each image."""
    parts = split(samples, [ROOT], shown, valid, test)
    return {sample.image: part for part, members in enumerate(parts) for sample in members}


def test_a_split_is_the_same_wherever_the_folder_lies_and_in_any_order() -> None:
    labels = [[number % 3] for number in range(100)]
    first = split(made(labels), [ROOT], shown, 0.2, 0.1)
    moved = split(made(labels, "/other/place"), [Path("/other/place")], shown, 0.2, 0.1)
    again = split(made(labels)[::-1], [ROOT], shown, 0.2, 0.1)
    for part, other, reverse in zip(first, moved, again, strict=True):
        assert names(part) == names(other, "/other/place")
        assert names(part) == names(reverse)[::-1]
    assert [len(part) for part in first] == [70, 20, 10]
    # Not simply the first or the last of the folder.
    numbers = [int(Path(sample.image).stem) for sample in first[1]]
    assert min(numbers) < 30
    assert max(numbers) > 70


@pytest.mark.parametrize(("added", "most"), [(1, 1), (5, 2), (20, 5)])
def test_a_set_that_grows_moves_hardly_an_image(added: int, most: int) -> None:
    """Of 700 images as many change sides as make room for those that are new, one in five of them."""
    labels = [[number % 5] for number in range(720)]
    before = sides(made(labels)[:700], 0.2, 0.1)
    after = sides(made(labels)[: 700 + added], 0.2, 0.1)
    changed = [image for image, part in before.items() if after[image] != part]
    assert len(changed) <= 2 * most
    assert sum(before[image] != 0 and after[image] == 0 for image in changed) <= most


def test_a_class_keeps_its_last_image_in_training_and_the_next_one_goes_instead() -> None:
    labels = [[0]] * 90 + [[label] for label in range(1, 11)]
    plain = split(made([[0]] * 100), [ROOT], shown, 0.3, 0)
    parts = split(made(labels), [ROOT], shown, 0.3, 0)
    assert [len(part) for part in parts] == [70, 30, 0]
    assert {label for sample in parts[0] for label in shown(sample)} == set(range(11))
    # Otherwise the order is that of the paths.
    common = set(names(plain[1])) & set(names(parts[1]))
    assert common == {name for name in names(plain[1]) if int(Path(name).stem) < 90}


def test_a_part_that_no_image_can_be_spared_for_is_empty() -> None:
    assert [len(part) for part in split(made([[label] for label in range(9)]), [ROOT], shown, 0.3, 0.3)] == [
        9,
        0,
        0,
    ]


def test_identical_images_stay_together_and_count_as_one() -> None:
    samples = made([[0]] * 100)
    marks = {sample.image: number // 2 for number, sample in enumerate(samples)}
    parts = split(samples, [ROOT], shown, 0.2, 0.1, marks)
    owners = [{marks[sample.image] for sample in part} for part in parts]
    assert [len(part) for part in owners] == [35, 10, 5]
    assert len(set.union(*owners)) == 50
    # A copy of one image beside 99 others does not drag anything along.
    marks = {sample.image: max(number, 1) for number, sample in enumerate(samples)}
    alone, together = split(samples[1:], [ROOT], shown, 0.2, 0), split(samples, [ROOT], shown, 0.2, 0, marks)
    assert names(alone[1]) == [name for name in names(together[1]) if name != "0/0000.jpg"]


def test_one_name_in_two_unicode_forms_is_one_place() -> None:
    forms = [
        [unicodedata.normalize(form, f"/d/é{number}.jpg") for number in range(50)] for form in ("NFC", "NFD")
    ]
    parts = [
        split([Sample(path, 8, 8, np.zeros(1, np.float32)) for path in paths], [ROOT], shown, 0.3, 0)
        for paths in forms
    ]
    assert [unicodedata.normalize("NFC", sample.image) for sample in parts[1][1]] == [
        sample.image for sample in parts[0][1]
    ]


def test_several_folders_are_split_by_the_path_within_each() -> None:
    labels = [[0]] * 60
    one, two = made(labels, "/a"), made(labels, "/b/c")
    parts = split([*one, *two], [Path("/a"), Path("/b/c")], shown, 0.2, 0)
    of = [
        {Path(sample.image).name for sample in parts[1] if sample.image.startswith(r)} for r in ("/a", "/b")
    ]
    assert of[0] == of[1]


def test_what_was_trained_on_returns_to_training_in_its_place() -> None:
    samples = made([[0]] * 60)
    marks = {sample.image: number for number, sample in enumerate(samples)}
    parts = split(samples, [ROOT], shown, 0.2, 0.1, marks)
    assert return_trained(samples, parts, marks, ()) == (parts, 0)
    trained = [marks[sample.image] for sample in (*parts[0], *parts[1][:5], parts[2][0])]
    new, returned = return_trained(samples, parts, marks, trained)
    assert returned == 6
    assert new[1:] == (parts[1][5:], parts[2][1:])
    assert new[0] == sorted((*parts[0], *parts[1][:5], parts[2][0]), key=lambda sample: sample.image)


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.lists(st.lists(st.integers(0, 6), max_size=3, unique=True), min_size=1, max_size=60),
    st.floats(0, 0.6),
    st.floats(0, 0.39),
)
def test_every_split_has_whole_images_its_sizes_and_all_classes_to_train_on(
    labels: list[list[int]], valid_size: float, test_size: float
) -> None:
    samples = made(labels)
    parts = split(samples, [ROOT], shown, valid_size, test_size)
    images = [{sample.image for sample in part} for part in parts]
    count = len(labels)
    assert sum(len(part) for part in parts) == len(samples)
    assert sum(len(part) for part in images) == len(set.union(*images)) == count
    assert images[0]
    assert {label for sample in parts[0] for label in shown(sample)} == {
        label for one in labels for label in one
    }
    sizes = [max(1, round(count * size)) if size else 0 for size in (valid_size, test_size)]
    assert len(images[1]) <= sizes[0]
    assert len(images[2]) <= sizes[1]
    if len(images[1]) < sizes[0] or len(images[2]) < sizes[1]:
        # Only because each of the others is the last one of a class, or of all.
        left = Counter(
            label
            for image in images[0]
            for label in {one for s in parts[0] if s.image == image for one in shown(s)}
        )
        spare = [
            image
            for image in images[0]
            if all(left[label] > 1 for s in parts[0] if s.image == image for label in shown(s))
        ]
        assert not spare or len(images[0]) == 1


def test_shares_that_leave_nothing_are_refused() -> None:
    assert [len(part) for part in split(made([[0]]), [ROOT], shown, 0.4, 0.4)] == [1, 0, 0]
    assert [len(part) for part in split(made([[0]] * 2), [ROOT], shown, 0.4, 0.4)] == [1, 1, 0]
    assert [len(part) for part in split(made([[0]] * 3), [ROOT], shown, 0.01, 0.01)] == [1, 1, 1]
    with pytest.raises(ValueError, match="leave nothing"):
        split(made([[0]]), [ROOT], shown, 0.5, 0.5)
